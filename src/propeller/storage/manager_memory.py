"""The manager's records in plain Python, for simulated worlds: one instance is one disk."""

import copy
from collections.abc import Mapping, Sequence

from propeller.core.events import DropProplet, SaveProplet, SaveRun
from propeller.core.proplet import Proplet
from propeller.core.run import Run
from propeller.core.task import Task
from propeller.errors import Bug
from propeller.fl.launch import Launch, LaunchState
from propeller.ports import Clock, Instant
from propeller.storage.manager_store import id_taken, rearmed, round_taken, unknown_task
from propeller.stores import DropLaunch, DropTask, ManagerChange, SaveLaunch, SaveTask, TaskRecord


class MemoryManagerStore:
    """`stores.ManagerStore` without a disk. Records are frozen, so that keeping them is a copy."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.tasks_by_id: dict[str, Task] = {}
        self.runs: dict[tuple[str, int], tuple[Run, Instant]] = {}
        self.results: dict[tuple[str, int], bytes] = {}
        self._latest: dict[str, int] = {}
        self._proplets: dict[str, Proplet] = {}
        self._launches: dict[str, Launch] = {}

    async def commit(self, changes: Sequence[ManagerChange]) -> None:
        """See `stores.ManagerStore`."""
        before = {name: copy.copy(value) for name, value in vars(self).items() if isinstance(value, dict)}
        try:
            for change in changes:
                self._apply(change)
        except BaseException:
            vars(self).update(before)
            raise

    def _apply(self, change: ManagerChange) -> None:  # noqa: C901 - one arm per kind of change
        match change:
            case SaveTask(task=task, new=new):
                if new and task.id in self.tasks_by_id:
                    raise id_taken(task.id)
                if new or task.id in self.tasks_by_id:
                    self.tasks_by_id[task.id] = task
            case DropTask(task_id=task_id):
                self.tasks_by_id.pop(task_id, None)
                self._drop_runs(task_id)
            case SaveRun(run=run, results=results):
                if run.task_id not in self.tasks_by_id:
                    raise Bug(f"a run of no task: {run!r}")
                self.runs[run.key] = (run, self._clock.now())
                self._latest[run.task_id] = max(run.number, self._latest.get(run.task_id, 0))
                if results is not None:
                    self.results[run.key] = results
            case SaveProplet(proplet=proplet):
                self._proplets[proplet.id] = proplet
            case DropProplet(proplet_id=proplet_id):
                self._proplets.pop(proplet_id, None)
            case SaveLaunch(launch=launch, new=new):
                if new and launch.round_id in self._launches:
                    raise round_taken(launch.round_id)
                self._launches[launch.round_id] = launch
            case DropLaunch(round_id=round_id):
                self._launches.pop(round_id, None)

    def _drop_runs(self, task_id: str) -> None:
        for key in [key for key in self.runs if key[0] == task_id]:
            del self.runs[key]
            self.results.pop(key, None)

    def _record(self, task: Task, *, results: bool) -> TaskRecord:
        latest = self._latest.get(task.id, 0)
        if (task.id, latest) not in self.runs:
            return TaskRecord(task=task, latest_run=latest)
        found = self.results.get((task.id, latest)) if results else None
        return TaskRecord(task=task, run=self.runs[task.id, latest][0], results=found, latest_run=latest)

    async def task(self, task_id: str, *, results: bool = False) -> TaskRecord:
        """See `stores.ManagerStore`."""
        task = self.tasks_by_id.get(task_id)
        if task is None:
            raise unknown_task(task_id)
        return self._record(task, results=results)

    async def tasks(
        self, *, offset: int, limit: int, metadata: Mapping[str, object] | None = None
    ) -> tuple[int, list[TaskRecord]]:
        """See `stores.ManagerStore`."""
        wanted = metadata or {}
        found = [
            task
            for task in self.tasks_by_id.values()
            if all(name in task.metadata and _same(task.metadata[name], wanted[name]) for name in wanted)
        ]
        found.sort(key=lambda task: (-task.created_at_s, task.id))
        page = found[offset : offset + limit]
        return len(found), [self._record(task, results=True) for task in page]

    async def live(self, now: Instant) -> list[tuple[Task, Run]]:
        """See `stores.ManagerStore`."""
        found = [
            (self.tasks_by_id[run.task_id], rearmed(run, saved, now))
            for run, saved in self.runs.values()
            if run.live
        ]
        return sorted(found, key=lambda pair: (pair[0].created_at_s, pair[0].id))

    async def proplets(self) -> list[Proplet]:
        """See `stores.ManagerStore`."""
        return sorted(self._proplets.values(), key=lambda one: (one.registered_at_s, one.id))

    async def launch(self, round_id: str) -> Launch | None:
        """See `stores.ManagerStore`."""
        return self._launches.get(round_id)

    async def open_launches(self) -> list[Launch]:
        """See `stores.ManagerStore`."""
        found = [one for one in self._launches.values() if one.state is not LaunchState.CLOSED]
        return sorted(found, key=lambda one: one.round_id)


def _same(left: object, right: object) -> bool:
    """JSON equality: true is not 1."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)
