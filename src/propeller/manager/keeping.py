"""Forgetting what ended long ago: runs with results, histories, measurements; and files of deleted tasks.

Definitions of tasks stay until somebody deletes them, and so does the latest run of each. Rows go first and
files after them: a crash between leaves a file that no task names, which the next sweep finds. A module is
stored before the task that names it, so its age protects it meanwhile (`BlobFiles.forget`).
"""

from typing import Final

from propeller.core.retention import Keep, Retention
from propeller.manager.logs import LogStore
from propeller.ports import BlobFiles, Clock
from propeller.stores.manager import HistoryKind, ManagerStore

_KINDS: Final[tuple[HistoryKind, ...]] = ("runs", "events", "metrics")


def policy_of(retention: Retention) -> dict[HistoryKind, Keep]:
    """The manager's part of the policy."""
    return {"runs": retention.runs, "events": retention.events, "metrics": retention.metrics}


class Keeping:
    """Sweeps one manager's records."""

    def __init__(
        self,
        store: ManagerStore,
        blobs: BlobFiles,
        logs: LogStore,
        clock: Clock,
        policy: dict[HistoryKind, Keep],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._logs = logs
        self._clock = clock
        self._policy = policy

    async def sweep(self, dry: bool) -> dict[str, int]:  # noqa: FBT001 - as `Sweeper` calls it
        """Apply the policy; how many of each kind went, or, if `dry`, would go."""
        now_s = self._clock.now().wall_s
        gone = {
            str(kind): await self._store.expire(kind, self._policy[kind], now_s, dry=dry) for kind in _KINDS
        }
        return gone if dry else {**gone, "files": await self._strays(), "logs": await self._silenced()}

    async def _strays(self) -> int:
        """Delete modules that no task is defined by."""
        needed = await self._store.files()
        stray = [blob for blob in await self._blobs.digests() if blob not in needed]
        return sum([await self._blobs.forget(blob) for blob in stray])

    async def _silenced(self) -> int:
        """Delete the logs of tasks that are gone."""
        # Logs first: a task that is made meanwhile has none among them.
        written = await self._logs.task_ids()
        known = await self._store.task_ids()
        gone = [task_id for task_id in written if task_id not in known]
        await self._logs.forget(gone)
        return len(gone)
