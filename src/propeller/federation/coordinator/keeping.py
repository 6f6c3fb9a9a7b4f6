"""Forgetting the tensors of updates whose rounds ended long ago; what was sent, by whom, stays on record.

Nothing reads them again: a model that is made has them in it, and a late update counts in the round that was
open when it came. Rows go first and files after them: a crash between leaves a file that no row names, which
the next sweep finds. It must not know routes.
"""

from propeller.core.retention import Keep, surplus
from propeller.ports import BlobFiles, Clock
from propeller.stores.coordinator import CoordinatorStore

_AT_ONCE = 100
"""Rounds of one transaction."""


class Keeping:
    """Sweeps one coordinator's updates. A file that no row names yet is protected by its age."""

    def __init__(
        self,
        store: CoordinatorStore,
        blobs: BlobFiles,
        clock: Clock,
        keep: Keep,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._keep = keep

    async def sweep(self, dry: bool) -> dict[str, int]:  # noqa: FBT001 - as `Sweeper` calls it
        """Apply the policy; how many rounds, updates and files it was, or, if `dry`, rounds it would be."""
        found = await self._store.with_contents()
        old = [one.order for one in surplus(found, self._keep, self._clock.now().wall_s)]
        if dry:
            return {"rounds": len(old)}
        updates = files = 0
        for start in range(0, len(old), _AT_ONCE):
            gone, blobs = await self._store.drop_contents(old[start : start + _AT_ONCE])
            updates += gone
            files += sum([await self._blobs.forget(blob) for blob in blobs])
        return {"rounds": len(old), "updates": updates, "files": files + await self._strays()}

    async def _strays(self) -> int:
        """Delete files that no update names: of updates that were refused, and of sweeps cut short."""
        gone = 0
        for blob in await self._blobs.digests():
            if not await self._store.refers_to(blob):
                gone += await self._blobs.forget(blob)
        return gone
