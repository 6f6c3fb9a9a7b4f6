"""The manager's records in plain Python, for simulated worlds: one instance is one disk."""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from propeller import limits
from propeller.core.events import DropProplet, SaveProplet, SaveRun, SaveService, SaveTask
from propeller.core.flow import Flow
from propeller.core.proplet import Proplet
from propeller.core.retention import Aged, Keep, surplus
from propeller.core.run import Run, RunState
from propeller.core.service import Service, ServiceRecord
from propeller.core.task import Task
from propeller.errors import Bug
from propeller.fl.launch import Launch, LaunchState
from propeller.ports import Clock, Instant
from propeller.storage.manager_history import flow_taken, joined_parts, run_event
from propeller.storage.manager_store import id_taken, rearmed, round_taken, unknown_task
from propeller.stores.manager import (
    DropFlow,
    DropLaunch,
    DropTask,
    FlowRecord,
    HistoryKind,
    ManagerChange,
    MetricKind,
    SaveFlow,
    SaveLaunch,
    SaveMetric,
    SettleFlow,
    TaskEvent,
    TaskRecord,
)


class MemoryManagerStore:
    """`stores.ManagerStore` without a disk. Records are frozen, so that keeping them is a copy."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.tasks_by_id: dict[str, Task] = {}
        self.runs: dict[tuple[str, int], tuple[Run, Instant]] = {}
        self.results: dict[tuple[str, int], bytes] = {}
        self._latest: dict[str, int] = {}
        self._definitions: dict[tuple[str, int], Task] = {}
        """What live runs were started with, where their task has changed since."""
        self._proplets: dict[str, Proplet] = {}
        self._launches: dict[str, Launch] = {}
        self.flows: dict[str, FlowRecord] = {}
        self.services_by_id: dict[str, Service] = {}
        self._parts: dict[tuple[str, int], dict[str, bytes]] = {}
        self._events: dict[str, tuple[TaskEvent, ...]] = {}
        self._metrics: dict[tuple[MetricKind, str], tuple[tuple[float, bytes], ...]] = {}
        """Newest first, each with its time."""

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
                self._save_task(task, new=new)
            case DropTask(task_id=task_id):
                names = [one.id for one in self._parts_of(task_id)] + [task_id]
                self._latest[task_id] = max(self._latest.get(name, 0) for name in names)
                for name in names:
                    self.tasks_by_id.pop(name, None)
                    self._drop_runs(name)
                self.services_by_id.pop(task_id, None)
            case SaveService(service=service):
                self.services_by_id[service.task_id] = service
            case SaveRun():
                self._save_run(change)
            case SaveProplet(proplet=proplet):
                self._proplets[proplet.id] = proplet
            case DropProplet(proplet_id=proplet_id):
                self._proplets.pop(proplet_id, None)
                self._metrics.pop(("proplet", proplet_id), None)
            case SaveLaunch(launch=launch, new=new):
                if new and launch.round_id in self._launches:
                    raise round_taken(launch.round_id)
                self._launches[launch.round_id] = launch
            case DropLaunch(round_id=round_id):
                self._launches.pop(round_id, None)
            case SaveFlow() | DropFlow() | SettleFlow():
                self._change_flow(change)
            case SaveMetric(kind=kind, subject=subject, body=body):
                kept = self._metrics.get((kind, subject), ())
                measured = (self._clock.now().wall_s, body)
                self._metrics[kind, subject] = (measured, *kept)[: limits.METRICS_KEPT]

    def _save_task(self, task: Task, *, new: bool) -> None:
        known = self.tasks_by_id.get(task.id)
        if task.part_of:
            if known is not None and known.part_of != task.part_of:
                raise id_taken(task.id)
            self.tasks_by_id[task.id] = task
            return
        if new and known is not None:
            raise id_taken(task.id)
        if new:
            self._tell(task.id, TaskEvent(at_s=self._clock.now().wall_s, kind="created", cause="user"))
        else:
            self._keep_definition(task.id)
        if new or task.id in self.tasks_by_id:
            self.tasks_by_id[task.id] = task

    def _save_run(self, change: SaveRun) -> None:
        run = change.run
        if run.task_id not in self.tasks_by_id:
            raise Bug(f"a run of no task: {run!r}")
        self.runs[run.key] = (run, self._clock.now())
        if not run.live:
            self._definitions.pop(run.key, None)
        self._latest[run.task_id] = max(run.number, self._latest.get(run.task_id, 0))
        if change.results is not None and change.part:
            self._parts[run.key] = self._parts.get(run.key, {}) | {change.part: change.results}
        elif change.results is not None:
            self.results[run.key] = change.results
        if change.flow_id in self.flows:
            self._touch(self.flows[change.flow_id])
        self._tell(run.task_id, run_event(change, self._clock.now()))

    def _tell(self, task_id: str, event: TaskEvent) -> None:
        self._events[task_id] = (*self._events.get(task_id, ()), event)[-limits.TASK_EVENTS_KEPT :]

    def _touch(self, record: FlowRecord, flow: Flow | None = None) -> None:
        self.flows[record.flow.id] = replace(record, flow=flow or record.flow, touched=record.touched + 1)

    def _change_flow(self, change: SaveFlow | DropFlow | SettleFlow) -> None:
        match change:
            case SaveFlow(flow=flow, new=True):
                if flow.id in self.flows:
                    raise flow_taken(flow.id)
                self.flows[flow.id] = FlowRecord(flow=flow, touched=1, settled=0)
            case SaveFlow(flow=flow):
                if flow.id in self.flows:
                    self._touch(self.flows[flow.id], flow)
            case DropFlow(flow_id=flow_id):
                self.flows.pop(flow_id, None)
            case SettleFlow(flow_id=flow_id, touched=touched):
                record = self.flows.get(flow_id)
                if record is not None:
                    self.flows[flow_id] = replace(record, settled=max(record.settled, touched))

    def _keep_definition(self, task_id: str) -> None:
        latest = self.runs.get((task_id, self._latest.get(task_id, 0)))
        if latest is not None and latest[0].live:
            self._definitions.setdefault(latest[0].key, self.tasks_by_id[task_id])

    def _drop_runs(self, task_id: str) -> None:
        for key in [key for key in self.runs if key[0] == task_id]:
            del self.runs[key]
            self._definitions.pop(key, None)
            self.results.pop(key, None)
            self._parts.pop(key, None)
        self._events.pop(task_id, None)
        self._metrics.pop(("task", task_id), None)

    def _record(self, task: Task, *, results: bool) -> TaskRecord:
        latest = self._latest.get(task.id, 0)
        if (task.id, latest) not in self.runs:
            return TaskRecord(task=task, latest_run=latest)
        found = self.results_joined((task.id, latest)) if results else None
        return TaskRecord(task=task, run=self.runs[task.id, latest][0], results=found, latest_run=latest)

    def results_joined(self, key: tuple[str, int]) -> bytes | None:
        """A run's results; a broadcast's as one JSON object keyed by proplet."""
        return joined_parts(self._parts.get(key, {})) or self.results.get(key)

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
            if not task.part_of
            and all(name in task.metadata and _same(task.metadata[name], wanted[name]) for name in wanted)
        ]
        found.sort(key=lambda task: (-task.created_at_s, task.id))
        page = found[offset : offset + limit]
        return len(found), [self._record(task, results=True) for task in page]

    def _parts_of(self, task_id: str) -> list[Task]:
        found = [one for one in self.tasks_by_id.values() if one.part_of == task_id]
        return sorted(found, key=lambda one: (one.created_at_s, one.id))

    async def parts(self, task_id: str) -> list[TaskRecord]:
        """See `stores.ManagerStore`."""
        return [self._record(one, results=False) for one in self._parts_of(task_id)]

    async def live(self, now: Instant) -> list[tuple[Task, Run]]:
        """See `stores.ManagerStore`."""
        found = [
            (self._definitions.get(run.key, self.tasks_by_id[run.task_id]), rearmed(run, saved, now))
            for run, saved in self.runs.values()
            if run.live
        ]
        return sorted(found, key=lambda pair: (pair[0].created_at_s, pair[0].id))

    async def services(self) -> list[ServiceRecord]:
        """See `stores.ManagerStore`."""
        return [self._service_record(name) for name in sorted(self.services_by_id)]

    async def service(self, task_id: str) -> ServiceRecord | None:
        """See `stores.ManagerStore`."""
        return self._service_record(task_id) if task_id in self.services_by_id else None

    def _service_record(self, task_id: str) -> ServiceRecord:
        return ServiceRecord(
            task=self.tasks_by_id[task_id],
            service=self.services_by_id[task_id],
            numbers={one.id: self._latest.get(one.id, 0) for one in self._parts_of(task_id)},
        )

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

    async def flow(self, flow_id: str) -> FlowRecord | None:
        """See `stores.ManagerStore`."""
        return self.flows.get(flow_id)

    async def jobs(self, *, offset: int, limit: int) -> tuple[int, list[FlowRecord]]:
        """See `stores.ManagerStore`."""
        found = [record for record in self.flows.values() if record.flow.job]
        found.sort(key=lambda record: (-record.flow.created_at_s, record.flow.id))
        return len(found), found[offset : offset + limit]

    async def open_flows(self) -> list[str]:
        """See `stores.ManagerStore`."""
        return sorted(name for name, record in self.flows.items() if record.touched != record.settled)

    async def members(self, flow_id: str, *, results: bool = False) -> list[TaskRecord]:
        """See `stores.ManagerStore`."""
        found = [task for task in self.tasks_by_id.values() if flow_id and task.flow_id == flow_id]
        return [self._record(task, results=results) for task in found]

    async def scheduled(self) -> list[Task]:
        """See `stores.ManagerStore`."""
        found = [task for task in self.tasks_by_id.values() if task.next_run_s]
        return sorted(found, key=lambda task: (task.next_run_s, task.id))

    async def results_of(self, task_id: str, run: int) -> bytes | None:
        """See `stores.ManagerStore`."""
        return self.results_joined((task_id, run))

    async def run_state(self, task_id: str, run: int) -> RunState | None:
        """See `stores.ManagerStore`."""
        found = self.runs.get((task_id, run))
        return found[0].state if found else None

    async def events(self, task_id: str, *, offset: int, limit: int) -> tuple[int, list[TaskEvent]]:
        """See `stores.ManagerStore`."""
        found = self._events.get(task_id, ())
        return len(found), list(found[offset : offset + limit])

    async def metrics(
        self, kind: MetricKind, subject: str, *, offset: int, limit: int
    ) -> tuple[int, list[bytes]]:
        """See `stores.ManagerStore`."""
        found = self._metrics.get((kind, subject), ())
        return len(found), [body for _, body in found[offset : offset + limit]]

    async def expire(self, kind: HistoryKind, keep: Keep, now_s: float, *, dry: bool = False) -> int:
        """See `stores.ManagerStore`."""
        if kind == "runs":
            return self._expire_runs(keep, now_s, dry=dry)
        if kind == "events":
            old = surplus(
                (
                    Aged(name, number, one.at_s)
                    for name, lines in self._events.items()
                    for number, one in enumerate(lines)
                ),
                keep,
                now_s,
            )
            for name, count in Counter(one.group for one in old).items() if not dry else ():
                self._events[name] = self._events[name][count:]
            return len(old)
        return self._expire_metrics(keep, now_s, dry=dry)

    def _expire_runs(self, keep: Keep, now_s: float, *, dry: bool) -> int:
        ends = [Aged(run.task_id, run.number, saved.wall_s) for run, saved in self.runs.values()]
        gone = [
            (one.group, one.order)
            for one in surplus(ends, keep, now_s)
            if not self.runs[one.group, one.order][0].live and one.order < self._latest[one.group]
        ]
        for key in gone if not dry else ():
            del self.runs[key]
            self.results.pop(key, None)
            self._parts.pop(key, None)
        return len(gone)

    def _expire_metrics(self, keep: Keep, now_s: float, *, dry: bool) -> int:
        total = 0
        for (kind, subject), lines in list(self._metrics.items()):
            there = self.tasks_by_id if kind == "task" else self._proplets
            aged = [Aged(subject, -number, at_s) for number, (at_s, _) in enumerate(lines)]
            gone = len(surplus(aged, keep, now_s)) if subject in there else len(lines)
            total += gone
            if gone and not dry:
                self._metrics[kind, subject] = lines[: len(lines) - gone]
        return total

    async def files(self) -> frozenset[str]:
        """See `stores.ManagerStore`."""
        tasks = [*self.tasks_by_id.values(), *self._definitions.values()]
        tasks += [one.task for service in self.services_by_id.values() for one in service.kept]
        return frozenset(task.file_sha256 for task in tasks if task.file_sha256)

    async def task_ids(self) -> frozenset[str]:
        """See `stores.ManagerStore`."""
        return frozenset(self.tasks_by_id)


def _same(left: object, right: object) -> bool:
    """JSON equality: true is not 1."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)
