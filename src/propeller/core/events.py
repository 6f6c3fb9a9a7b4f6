"""What can happen to runs and proplets, and what the engine may ask to be done about it. Frozen data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from propeller.core.proplet import Proplet
from propeller.core.run import Lane, Run
from propeller.core.service import Service
from propeller.core.task import Task

# --- events ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequested:
    """A user, a round or a schedule starts a task. `number` is one more than its latest run's."""

    task: Task
    number: int
    answers: Mapping[str, int] = field(default_factory=dict)
    """Which runs of its parents the run answers to (see `core.flow`)."""
    image_digest: str = ""
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRequested:
    """Like `StartRequested`, of a service; `before` is what is remembered of it, if it ran already."""

    task: Task
    number: int
    before: Service | None = None
    numbers: Mapping[str, int] = field(default_factory=dict)
    """The latest run number of each replica that it ever had."""
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Redefined:
    """A user changes a service's definition from `before` to `task`; `wanted` says how many replicas now."""

    before: Task
    task: Task
    wanted: int | None = None
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequested:
    """A user wants the revision before (`undo`), or new replicas of the same definition (`restart`)."""

    task_id: str
    how: Literal["undo", "restart"]
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The figure of a service's rule: its sum over the `count` replicas that have one."""

    task_id: str
    total: float
    count: int
    cause: str = "rule"


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastRequested:
    """Like `StartRequested`, of a broadcast; its members are stored."""

    task: Task
    members: tuple[Task, ...]
    number: int
    answers: Mapping[str, int] = field(default_factory=dict)
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipRequested:
    """A flow passes a task over: the run of that number ends before it begins."""

    task: Task
    number: int
    answers: Mapping[str, int]
    reason: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested:
    """The live run of a task is to end; without one it is a no-op. `reason` is shown as its end."""

    task_id: str
    reason: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """A `create`: `protocol` is what its sender claims to speak; the topic may have `proven` who that is."""

    proplet_id: str
    protocol: int
    name: str
    """What to call it if it is new."""
    namespace: str = "default"
    metadata: Mapping[str, object] = field(default_factory=dict)
    slots: int = 1
    proven: bool = False
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One attempt that a proplet says it holds."""

    task_id: str
    run: int
    attempt: int
    state: Literal["accepted", "running", "finished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A heartbeat. `inventory` is everything the proplet holds (directed lane), None on the legacy lane."""

    proplet_id: str
    lane: Lane
    name: str
    """What to call it if it is new."""
    inventory: tuple[Held, ...] | None = None
    boot: str = ""
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A farewell or a last will: offline at once."""

    proplet_id: str
    lane: Lane
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport:
    """Directed word of one attempt. `sender` is proven by the topic."""

    kind: Literal["accepted", "started", "finished"]
    sender: str
    task_id: str
    run: int
    attempt: int
    error: str = ""
    failure: str = ""
    results: bytes = b"null"
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyReport:
    """A result on the shared topic: from nobody in particular, for a task's live legacy attempt."""

    task_id: str
    proplet_id: str | None
    error: str
    results: bytes
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchRefused:
    """The attempt's start must not go out: somebody who has a say (the coordinator) refused it for good."""

    task_id: str
    run: int
    attempt: int
    error: str
    failure: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePinned:
    """What the image of a waiting run, or of a service's `revision`, means: its manifest's `digest`."""

    task_id: str
    run: int
    revision: int = 0
    digest: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageNotPinned:
    """Its registry did not say: it cannot be asked now, or, if `for_good`, there is no such image for us."""

    task_id: str
    run: int
    revision: int = 0
    error: str
    for_good: bool
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartUnsent:
    """The attempt's start could not be handed to the broker."""

    task_id: str
    run: int
    attempt: int
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cordoned:
    """An operator takes a proplet out of use or back in; `draining` also moves away what can be moved."""

    proplet_id: str
    cordoned: bool
    draining: bool = False
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """An operator says what a proplet is to be called."""

    proplet_id: str
    labels: Mapping[str, str]
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """A user deletes a proplet from the list."""

    proplet_id: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed: some deadline may be due."""

    cause: str = "tick"


Event = (
    StartRequested
    | BroadcastRequested
    | ServiceRequested
    | Redefined
    | RolloutRequested
    | Measured
    | SkipRequested
    | StopRequested
    | Announced
    | Heard
    | Gone
    | AttemptReport
    | LegacyReport
    | DispatchRefused
    | StartUnsent
    | ImagePinned
    | ImageNotPinned
    | Forgotten
    | Cordoned
    | Labelled
    | Tick
)

# --- commands --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveTask:
    """Store a task's definition; `new` refuses an id that is taken.

    A hidden part of another task is stored whether it is new or not, unless the id is another task's.
    """

    task: Task
    new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveService:
    """Store what is remembered of a service; its task is stored."""

    service: Service


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRun:
    """Store the run as it now is (and its results, if it has just got some) before any message goes out."""

    run: Run
    round_id: str = ""
    """The training round that the run's task is part of, for the log."""
    flow_id: str = ""
    """The workflow or job that the run's task is part of, which is to be looked at."""
    results: bytes | None = None
    part: str = ""
    """The proplet whose part of a broadcast the results are; empty for the results of the whole run."""
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveProplet:
    """Store the proplet as it now is."""

    proplet: Proplet


@dataclass(frozen=True, slots=True, kw_only=True)
class DropProplet:
    """Remove the proplet."""

    proplet_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PinImage:
    """Ask what the image of a run, or of a service's `revision`, is: `ImagePinned`, `ImageNotPinned` tell."""

    task: Task
    run: int
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SendStart:
    """Send (again) the start of the run's latest attempt."""

    task: Task
    run: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class SendStop:
    """Tell a proplet to end an attempt."""

    task_id: str
    name: str
    run: int
    attempt: int
    proplet_id: str
    lane: Lane
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAck:
    """Tell a proplet that its report is stored, or will never matter."""

    report: AttemptReport


@dataclass(frozen=True, slots=True, kw_only=True)
class SendWelcome:
    """Invite a proplet to the directed lane."""

    proplet_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """An event that must not count; `why` is a metric label."""

    why: Literal[
        "late_report",
        "wrong_sender",
        "unknown_run",
        "legacy_from_directed",
        "downgrade",
        "unproven",
        "not_a_proplet",
        "too_many_proplets",
        "daemon_started",
    ]
    event: Event


Command = (
    SaveTask
    | SaveService
    | SaveRun
    | SaveProplet
    | DropProplet
    | PinImage
    | SendStart
    | SendStop
    | SendAck
    | SendWelcome
    | Ignored
)
