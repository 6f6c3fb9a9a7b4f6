"""The one owner of what the registry holds: every change is decided here, stored, and only then visible.

Content is deleted when the last repository that links it lets go. One lock orders "content stored, then
linked" against "unlinked, then deleted", so that no link ever points at nothing. It must not know HTTP.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from propeller import limits
from propeller.core.retention import Keep
from propeller.images.registry import garbage
from propeller.images.registry.content import ContentStore, ContentWriter
from propeller.images.registry.faults import FaultCode, RegistryFault
from propeller.images.registry.index import RegistryIndex
from propeller.images.registry.repository import Repository
from propeller.ports import Clock

Change = Callable[[Repository], Repository]


class Catalogue:
    """Repositories over an index and a content store. Call `open` once before anything else."""

    def __init__(self, index: RegistryIndex, content: ContentStore, clock: Clock) -> None:
        self._clock = clock
        self._began_s = clock.now().mono_s
        """Before it nobody knows who asked for which blob."""
        self._asked_s: dict[str, float] = {}
        """When each blob was last pushed, mounted or asked for."""
        self._index = index
        self._content = content
        self._repositories: dict[str, Repository] = {}
        self._links: Counter[str] = Counter()
        self._lock = asyncio.Lock()
        self._changing: set[asyncio.Future[Any]] = set()
        self._opened = False

    async def open(self) -> None:
        """Read the index; once read, again is free."""
        async with self._lock:
            if not self._opened:
                for repository in await self._index.load():
                    self._repositories[repository.name] = repository
                    self._links.update(repository.digests())
                self._opened = True

    def names(self) -> list[str]:
        """Every repository's name."""
        return list(self._repositories)

    def get(self, name: str) -> Repository | None:
        """A repository as it is now, or None."""
        return self._repositories.get(name)

    def find(self, name: str) -> Repository:
        """A repository as it is now; raises `NAME_UNKNOWN`."""
        repository = self._repositories.get(name)
        if repository is None:
            raise RegistryFault(FaultCode.NAME_UNKNOWN, f"no repository {name}")
        return repository

    def asked(self, digest: str) -> None:
        """Somebody pushed, mounted or asked for a blob, and may count on it in a manifest."""
        self._asked_s[digest] = self._clock.now().mono_s

    async def add_blob(self, name: str, writer: ContentWriter, digest: str) -> None:
        """Commit a written blob of `digest` and link it. The writer raises if its content is another."""
        size = writer.size

        async def store() -> None:
            await writer.commit(_key(digest))
            self.asked(digest)
            await self._change(name, lambda held: held.with_blob(digest, size))

        await self._alone(store)

    async def mount(self, name: str, digest: str, source: str | None) -> bool:
        """Link a blob that `source` (any repository, if None) links already; False if it does not."""

        async def link() -> bool:
            holders = [self.get(source)] if source is not None else self._repositories.values()
            sizes = [one.blobs[digest] for one in holders if one is not None and digest in one.blobs]
            if sizes:
                self.asked(digest)
                await self._change(name, lambda held: held.with_blob(digest, sizes[0]))
            return bool(sizes)

        return bool(await self._alone(link))

    async def add_manifest(self, name: str, content: bytes, hold: Change) -> None:
        """Store a manifest as `hold` (`Repository.with_manifest`) takes it; nothing of it if that raises."""

        async def store() -> None:
            hold(self.get(name) or Repository(name=name))
            await self._content.put(content)
            await self._change(name, hold)

        await self._alone(store)

    async def remove(self, name: str, change: Change) -> None:
        """Apply a removal to an existing repository, and delete content that nothing links any more."""
        await self._alone(lambda: self._removed(name, change))

    async def _removed(self, name: str, change: Change) -> int:
        """Apply a removal; how many digests the repository has let go of. Rows first, then content."""
        before = self.find(name)
        await self._change(name, change)
        after = self._repositories.get(name, Repository(name=name))
        gone = sorted(before.digests() - after.digests())
        for digest in gone:
            if not self._links[digest]:
                await self._content.delete(_key(digest))
        return len(gone)

    async def sweep(self, keep: Keep, *, dry: bool) -> int:
        """Drop what no repository needs, as `garbage` says; how many manifests and blobs that are.

        One repository at a time, so that pushes in between wait for one only.
        """
        total = 0
        for name in self.names():
            total += int(await self._alone(partial(self._sweep_one, name, keep, dry=dry)))
        return total

    async def _sweep_one(self, name: str, keep: Keep, *, dry: bool) -> int:
        held, now = self.get(name), self._clock.now()
        if held is None:
            return 0
        since_s = now.mono_s - limits.OCI_BLOB_GRACE_S
        if self._began_s > since_s:
            young = set(held.blobs)
        else:
            self._asked_s = {digest: at_s for digest, at_s in self._asked_s.items() if at_s > since_s}
            young = set(self._asked_s)
        known = garbage.seen(held, now.wall_s)
        left = garbage.swept(known, keep, now.wall_s, young)
        if dry:
            return len(held.digests() - left.digests())
        return 0 if left == held else await self._removed(name, lambda _: left)

    async def read_manifest(self, digest: str) -> bytes:
        """The bytes of a held manifest."""
        return await self._content.get(_key(digest))

    def read_blob(self, digest: str) -> AsyncIterator[bytes]:
        """A linked blob in pieces."""
        return self._content.read_chunks(_key(digest))

    async def collect(self) -> int:
        """Delete content that no repository links, as a crash between storing and linking leaves; how many.

        Only for a content store that is the registry's alone.
        """

        async def sweep() -> int:
            orphans = [one for one in await self._content.digests() if not self._links[f"sha256:{one}"]]
            for digest in orphans:
                await self._content.delete(digest)
            return len(orphans)

        return int(await self._alone(sweep))

    async def _change(self, name: str, change: Change) -> None:
        before = self._repositories.get(name, Repository(name=name))
        after = change(before)
        if after.is_empty:
            await self._index.remove(name)
            self._repositories.pop(name, None)
        else:
            await self._index.save(after)
            self._repositories[name] = after
        self._links.update(after.digests() - before.digests())
        for digest in before.digests() - after.digests():
            self._links[digest] -= 1
            if not self._links[digest]:
                del self._links[digest]

    async def _alone(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Run one change after another, each to its end even if its caller gives up: disk equals memory."""

        async def guarded() -> Any:
            async with self._lock:
                return await work()

        change = asyncio.ensure_future(guarded())
        self._changing.add(change)
        change.add_done_callback(self._changing.discard)
        return await asyncio.shield(change)


def _key(digest: str) -> str:
    return digest.removeprefix("sha256:")
