"""What a repository need not hold: untagged manifests by policy, and blobs that no manifest is made of. Pure.

A manifest is needed by a tag, by an index that lists it, or because it says something of a manifest that is
held (its subject). One that nobody needs is *loose*, and is kept for a while from when it was first seen so:
somebody may run it by its digest. A blob that no manifest is made of may be part of a push in progress, so
what was pushed, mounted or asked for lately is left alone. It must not know where content lies.
"""

from collections.abc import Collection

import msgspec

from propeller.core.retention import Aged, Keep, surplus
from propeller.images.registry.repository import HeldManifest, Repository


def seen(repository: Repository, now_s: float) -> Repository:
    """The repository with the present written down at what is loose for the first time. `now_s`: Unix."""
    loose = _loose(repository)
    return _with_manifests(
        repository,
        {
            digest: msgspec.structs.replace(held, loose_since_s=now_s)
            if digest in loose and held.loose_since_s is None
            else held
            for digest, held in repository.manifests.items()
        },
    )


def swept(repository: Repository, keep: Keep, now_s: float, young: Collection[str]) -> Repository:
    """What is left of a repository that was `seen`. `young` are blobs that somebody may be about to use.

    What only loose manifests needed becomes loose with them, and its time begins then.
    """
    loose = _loose(repository)
    found = {
        digest: held.loose_since_s
        for digest, held in repository.manifests.items()
        if digest in loose and held.loose_since_s is not None
    }
    order = sorted(found, key=lambda digest: (found[digest], digest))
    aged = [Aged("", number, found[digest]) for number, digest in enumerate(order)]
    gone = {order[one.order] for one in surplus(aged, keep, now_s)}
    left = {digest: held for digest, held in repository.manifests.items() if digest not in gone}
    used = {content for held in left.values() for content in held.contents}
    blobs = {digest: size for digest, size in repository.blobs.items() if digest in used or digest in young}
    return msgspec.structs.replace(_with_manifests(repository, left), blobs=blobs)


def _loose(repository: Repository) -> set[str]:
    """The manifests that nothing needs."""
    held = repository.manifests
    needed = {digest for digest in repository.tags.values() if digest in held}
    while True:
        listed = {content for digest in needed for content in held[digest].contents if content in held}
        about = {digest for digest, one in held.items() if one.subject in needed}
        if listed | about <= needed:
            break
        needed |= listed | about
    # What a loose index lists, or a loose manifest is said of, stays until that one is gone.
    rest = {digest: one for digest, one in held.items() if digest not in needed}
    inner = {content for one in rest.values() for content in one.contents if content in rest}
    outer = {digest for digest, one in rest.items() if one.subject in rest}
    return set(rest) - inner - outer


def _with_manifests(repository: Repository, manifests: dict[str, HeldManifest]) -> Repository:
    return msgspec.structs.replace(repository, manifests=manifests)
