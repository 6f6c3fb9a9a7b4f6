"""Files of updates between their coming and the decision upon them. It must not know what is in them.

A file goes by its SHA-256, so updates with the same bytes share one, and no row names it before the decision
is on disk. Here is counted who waits for which file: only the last one may delete it, and only if no update
that counts has the same bytes. What a crash leaves behind, `Keeping` finds.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from propeller.ports import BlobFiles, BlobWriter
from propeller.stores.coordinator import CoordinatorStore


class Arriving:
    """The files that one coordinator's intake works with. A digest answered is held until it is let go."""

    def __init__(self, blobs: BlobFiles, store: CoordinatorStore) -> None:
        self._blobs = blobs
        self._store = store
        self._holders: Counter[str] = Counter()
        self._alone = asyncio.Lock()
        """No file may come between the look at who needs one like it and its deletion."""

    async def put(self, content: bytes) -> str:
        """Store and hold it; its digest."""
        async with self._alone:
            digest = await self._blobs.put(content)
            self._holders[digest] += 1
        return digest

    async def keep(self, writer: BlobWriter) -> str:
        """Store and hold what was written; its digest."""
        async with self._alone:
            digest = await writer.commit()
            self._holders[digest] += 1
        return digest

    @contextmanager
    def held(self, digest: str) -> Iterator[None]:
        """Let a file go at the end, unless the caller gave up: a decision that it asked for may yet come."""
        try:
            yield
        except asyncio.CancelledError:
            self._holders[digest] += 1
            raise
        finally:
            self.release(digest)

    def release(self, digest: str) -> None:
        """Hold it no longer."""
        self._holders[digest] -= 1
        if not self._holders[digest]:
            del self._holders[digest]

    async def drop(self, digest: str) -> None:
        """Delete a file that the caller alone holds, unless an update that counts has the same bytes."""
        async with self._alone:
            if self._holders[digest] == 1 and not await self._store.refers_to(digest):
                await self._blobs.delete(digest)
