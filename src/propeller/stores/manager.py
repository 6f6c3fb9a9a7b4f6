"""What the manager remembers, and the Protocol of the store that remembers it. No I/O here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from propeller.core.events import DropProplet, SaveProplet, SaveRun, SaveService, SaveTask
from propeller.core.flow import Flow
from propeller.core.proplet import Proplet
from propeller.core.retention import Keep
from propeller.core.run import Run, RunState
from propeller.core.service import ServiceRecord
from propeller.core.task import Task
from propeller.fl.launch import Launch
from propeller.ports import Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task as stored: its definition, its latest run if it was ever started, and that run's results."""

    task: Task
    run: Run | None = None
    results: bytes | None = None
    """JSON; None unless asked for and present."""
    latest_run: int = 0
    """The highest run number ever given to this id, deleted tasks of the same id included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTask:
    """Remove a task, its runs, its hidden parts, and what is remembered of it as a service."""

    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveLaunch:
    """Store a round's launch; `new` refuses a round id that is taken."""

    launch: Launch
    new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DropLaunch:
    """Forget a launch that was refused."""

    round_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveFlow:
    """Store a workflow or job, to be looked at; `new` refuses an id that is taken."""

    flow: Flow
    new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DropFlow:
    """Forget a workflow or job whose tasks are gone."""

    flow_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleFlow:
    """All that had happened to the flow up to `touched` was looked at."""

    flow_id: str
    touched: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRecord:
    """A flow as stored. `touched` grows with everything that happens to it or to runs of its tasks."""

    flow: Flow
    touched: int
    settled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """One line of a task's history: what its run came to, when and why."""

    at_s: float
    kind: Literal["created", "run"]
    run: int = 0
    state: str = ""
    attempt: int = 0
    attempt_state: str = ""
    proplet_id: str = ""
    reason: str = ""
    cause: str = ""


MetricKind = Literal["proplet", "task"]
HistoryKind = Literal["runs", "events", "metrics"]
"""What grows with time: ended runs of each task, lines of its history, measurements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveMetric:
    """Keep one measurement of a proplet or task; `body` is JSON as it is shown."""

    kind: MetricKind
    subject: str
    body: bytes


ManagerChange = (
    SaveTask
    | DropTask
    | SaveService
    | SaveRun
    | SaveProplet
    | DropProplet
    | SaveLaunch
    | DropLaunch
    | SaveFlow
    | DropFlow
    | SettleFlow
    | SaveMetric
)


class ManagerStore(Protocol):
    """The manager's records. A change is durable when `commit` returns."""

    async def commit(self, changes: Sequence[ManagerChange]) -> None:
        """Apply all changes in one transaction, or none.

        Raises `Conflict` when a `new` id is taken, `StorageFull` when there is no room.
        """
        ...

    async def task(self, task_id: str, *, results: bool = False) -> TaskRecord:
        """One task; raises `NotFound`."""
        ...

    async def tasks(
        self, *, offset: int, limit: int, metadata: Mapping[str, object] | None = None
    ) -> tuple[int, list[TaskRecord]]:
        """A page of tasks, newest first, and how many match in all; `metadata` values must all be equal."""
        ...

    async def parts(self, task_id: str) -> list[TaskRecord]:
        """The hidden parts of a task with their latest runs, without results."""
        ...

    async def live(self, now: Instant) -> list[tuple[Task, Run]]:
        """Every run that has not ended, with deadlines re-armed for `now`: at most what was left of them."""
        ...

    async def services(self) -> list[ServiceRecord]:
        """Every service that was ever started."""
        ...

    async def service(self, task_id: str) -> ServiceRecord | None:
        """One of them, or None."""
        ...

    async def proplets(self) -> list[Proplet]:
        """Every registered proplet, in order of registration."""
        ...

    async def launch(self, round_id: str) -> Launch | None:
        """A round's launch, or None."""
        ...

    async def open_launches(self) -> list[Launch]:
        """Every launch that is not closed."""
        ...

    async def flow(self, flow_id: str) -> FlowRecord | None:
        """A workflow or job, or None."""
        ...

    async def jobs(self, *, offset: int, limit: int) -> tuple[int, list[FlowRecord]]:
        """A page of jobs, newest first, and how many there are."""
        ...

    async def open_flows(self) -> list[str]:
        """The ids of all flows to which something happened that was not looked at."""
        ...

    async def members(self, flow_id: str, *, results: bool = False) -> list[TaskRecord]:
        """The tasks of a flow with their latest runs, in no particular order."""
        ...

    async def scheduled(self) -> list[Task]:
        """Every task that has a next run by its schedule, soonest first."""
        ...

    async def results_of(self, task_id: str, run: int) -> bytes | None:
        """What that run came to, as JSON, or None."""
        ...

    async def run_state(self, task_id: str, run: int) -> RunState | None:
        """Where that run stands, or None."""
        ...

    async def events(self, task_id: str, *, offset: int, limit: int) -> tuple[int, list[TaskEvent]]:
        """A page of a task's history, oldest first, and how many events are kept; for no task, none."""
        ...

    async def expire(self, kind: HistoryKind, keep: Keep, now_s: float, *, dry: bool = False) -> int:
        """Delete what `core.retention.surplus` names, or count it if `dry`; how many that are.

        A task's latest run is never among them, nor one that has not ended. Measurements of tasks and
        proplets that are gone always are.
        """
        ...

    async def files(self) -> frozenset[str]:
        """The digests of all inline modules that a task, a live run or a service's revision is made of."""
        ...

    async def task_ids(self) -> frozenset[str]:
        """The ids of all tasks, hidden parts among them."""
        ...

    async def metrics(
        self, kind: MetricKind, subject: str, *, offset: int, limit: int
    ) -> tuple[int, list[bytes]]:
        """A page of measurements, newest first, and how many are kept."""
        ...
