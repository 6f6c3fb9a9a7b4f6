"""What one repository holds: links to blobs, manifests, tags. Pure values; changes return a new repository.

Content is shared by the whole registry, but visible only in repositories that link it, so that deleting in
one leaves the others whole. It must not know where content or this record is stored.
"""

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from propeller.images.registry.faults import FaultCode, RegistryFault

V = TypeVar("V")


class HeldManifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A manifest of a repository. `contents` are the digests of the blobs and manifests it is made of."""

    media_type: str
    size: int
    contents: tuple[str, ...] = ()
    subject: str | None = None
    artifact_type: str | None = None
    loose_since_s: float | None = None
    """When it was first seen that nothing needs it, Unix time; pushing it again forgets that."""


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """One repository. `blobs`: digest → size in bytes; `manifests` by digest; `tags`: tag → digest."""

    name: str
    blobs: dict[str, int] = {}
    manifests: dict[str, HeldManifest] = {}
    tags: dict[str, str] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left, so that the repository no longer exists."""
        return not (self.blobs or self.manifests or self.tags)

    def digests(self) -> set[str]:
        """Every digest whose content this repository needs."""
        return {*self.blobs, *self.manifests}

    def with_blob(self, digest: str, size: int) -> "Repository":
        """Link a blob."""
        return msgspec.structs.replace(self, blobs={**self.blobs, digest: size})

    def without_blob(self, digest: str) -> "Repository":
        """Unlink a blob. Refused while a manifest here is made of it: the image would be broken."""
        if digest not in self.blobs:
            raise RegistryFault(FaultCode.BLOB_UNKNOWN, f"repository {self.name} has no blob {digest}")
        users = sorted(held for held, manifest in self.manifests.items() if digest in manifest.contents)
        if users:
            raise RegistryFault(
                FaultCode.UNSUPPORTED,
                f"blob {digest} is part of {len(users)} manifest(s) of {self.name}; delete those first",
                detail={"manifests": users[:10]},
            )
        return msgspec.structs.replace(self, blobs=_without(self.blobs, digest))

    def with_manifest(
        self, digest: str, manifest: HeldManifest, tag: str | None, claims: Iterable[tuple[str, int]] = ()
    ) -> "Repository":
        """Hold a manifest, and point `tag` at it if one is given.

        Refused while anything it is made of is missing here (`MANIFEST_BLOB_UNKNOWN`; its subject may be),
        and if one of its `claims`, a digest and a size in bytes, is not true (`SIZE_INVALID`): clients that
        check it would refuse the image for ever.
        """
        missing = [one for one in manifest.contents if one not in self.blobs and one not in self.manifests]
        if missing:
            raise RegistryFault(
                FaultCode.MANIFEST_BLOB_UNKNOWN,
                f"{len(missing)} blob(s) or manifest(s) are not in repository {self.name}; push them first",
                detail={"digests": missing[:10]},
            )
        self._check_sizes(claims)
        return msgspec.structs.replace(
            self,
            manifests={**self.manifests, digest: manifest},
            tags={**self.tags, tag: digest} if tag is not None else self.tags,
        )

    def _check_sizes(self, claims: Iterable[tuple[str, int]]) -> None:
        for digest, size in claims:
            held = self.blobs[digest] if digest in self.blobs else self.manifests[digest].size
            if size != held:
                raise RegistryFault(
                    FaultCode.SIZE_INVALID,
                    f"the manifest says that {digest} has {size} bytes; it has {held}",
                    detail={"digest": digest, "size": held},
                )

    def without_tag(self, tag: str) -> "Repository":
        """Forget a tag; the manifest stays."""
        if tag not in self.tags:
            raise RegistryFault(FaultCode.MANIFEST_UNKNOWN, f"repository {self.name} has no tag {tag}")
        return msgspec.structs.replace(self, tags=_without(self.tags, tag))

    def without_manifest(self, digest: str) -> "Repository":
        """Forget a manifest and every tag that points at it."""
        if digest not in self.manifests:
            raise RegistryFault(
                FaultCode.MANIFEST_UNKNOWN, f"repository {self.name} has no manifest {digest}"
            )
        return msgspec.structs.replace(
            self,
            manifests=_without(self.manifests, digest),
            tags={tag: held for tag, held in self.tags.items() if held != digest},
        )

    def find(self, target: str) -> tuple[str, HeldManifest]:
        """The digest and record of the manifest that a tag or digest selects."""
        digest = self.tags.get(target, target)
        if digest not in self.manifests:
            raise RegistryFault(
                FaultCode.MANIFEST_UNKNOWN, f"repository {self.name} has no manifest {target}"
            )
        return digest, self.manifests[digest]

    def referrers(self, subject: str, artifact_type: str | None) -> list[str]:
        """Digests of the manifests whose subject is `subject`, sorted; only of one artifact type if asked."""
        return sorted(
            digest
            for digest, held in self.manifests.items()
            if held.subject == subject and artifact_type in {None, held.artifact_type}
        )


def page(names: Iterable[str], count: int, last: str) -> tuple[list[str], bool]:
    """Up to `count` names after `last` in byte order, and whether more follow."""
    after = sorted(name for name in names if name > last)
    return after[:count], len(after) > count > 0


def _without(held: dict[str, V], key: str) -> dict[str, V]:
    return {name: value for name, value in held.items() if name != key}
