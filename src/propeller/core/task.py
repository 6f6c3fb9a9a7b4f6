"""What a user asked to be run. A task is a definition; its runs and their attempts live in `core.run`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

from propeller import limits
from propeller.core import constraints as c
from propeller.core import schedule
from propeller.core.ids import check_id
from propeller.core.replicas import Rollout, Scale, check_rollout, check_scale
from propeller.core.retry import Disconnect, Retry, check_disconnect, check_retry
from propeller.errors import BadInput, TooLarge


class TaskState(IntEnum):
    """What a task shows: the state of its latest run, with the original's numbers."""

    PENDING = 0
    SCHEDULED = 1
    RUNNING = 2
    COMPLETED = 3
    FAILED = 4
    SKIPPED = 5
    INTERRUPTED = 6


TERMINAL = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.SKIPPED, TaskState.INTERRUPTED})
"""States that a run never leaves."""


REPLICA = "replica-"
"""What the last part of a replica's id begins with; its number follows."""
_RESERVED = re.compile(rf"\.{REPLICA}\d+")
PLACEMENTS = ("", "round_robin", "least_loaded")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLimits:
    """A task's own guest limits; None leaves the proplet's default. Seconds and bytes."""

    wall_s: float | None = None
    cpu_s: float | None = None
    memory_bytes: int | None = None
    stdout_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A checked definition. Construct through `define`, which is the only place that decides what is lawful.

    `file_sha256` names inline Wasm in the blob store; the bytes themselves never live here.
    """

    id: str
    name: str
    created_at_s: float
    updated_at_s: float
    kind: str = "standard"
    image_url: str = ""
    file_sha256: str = ""
    file_bytes: int = 0
    file_shown: str = ""
    """The module as views show it: redacted base64."""
    cli_args: tuple[str, ...] | None = None
    inputs: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    daemon: bool = False
    latent: bool = False
    """Loaded and waiting for calls rather than run to an end."""
    proplet_id: str = ""
    broadcast: bool = False
    part_of: str = ""
    """The broadcast or service of which it is a hidden part; empty for what users define."""
    revision: int = 0
    """As a replica: the revision of its service that it is made of (see `core.service`); else 0."""
    replicas: int | None = None
    """As a service: how many replicas it is started with; None for what runs once."""
    scale: Scale | None = None
    rollout: Rollout = field(default_factory=Rollout)
    priority: int = 50
    mode: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    wait_s: float = limits.RUN_WAIT_S
    """How long a run may wait for its proplet (seconds)."""
    limits: TaskLimits = field(default_factory=TaskLimits)
    workflow_id: str = ""
    job_id: str = ""
    depends_on: tuple[str, ...] = ()
    run_if: str = ""
    schedule: str = ""
    timezone: str = ""
    is_recurring: bool = False
    next_run_s: float = 0.0
    """When the schedule fires next (Unix seconds); 0 without one."""
    constraints: tuple[c.Constraint, ...] = ()
    affinities: tuple[c.Affinity, ...] = ()
    placement: str = ""
    """How to choose among proplets that are equally preferred: `round_robin` (default) or `least_loaded`."""
    restart: Retry | None = None
    reschedule: Retry | None = None
    disconnect: Disconnect = field(default_factory=Disconnect)
    fl: Mapping[str, object] = field(default_factory=dict)
    """The experiment that a task of kind federated stands for; empty for a task that runs by itself."""
    experiment_id: str = ""
    """The experiment of its latest start."""
    starts: int = 0
    """How often such a task was started."""

    @property
    def endless(self) -> bool:
        """Whether its runs go on until they are stopped."""
        return self.daemon or self.latent

    @property
    def service(self) -> bool:
        """Whether it is kept at a number of replicas."""
        return self.replicas is not None

    @property
    def replica(self) -> bool:
        """Whether it is one of a service's replicas."""
        return self.revision > 0

    @property
    def tagged(self) -> bool:
        """Whether its image is named by a tag, which may mean another one tomorrow."""
        url = self.image_url.strip().lower()
        return bool(url) and not url.startswith(("http://", "https://")) and "@" not in url

    @property
    def flow_id(self) -> str:
        """The workflow or job it is part of; empty for none."""
        return self.workflow_id or self.job_id

    @property
    def picky(self) -> bool:
        """Whether it is not all the same to it which proplet with room it gets."""
        return bool(self.constraints or self.affinities or self.replica) or self.placement == "least_loaded"

    @property
    def stays(self) -> bool:
        """Whether its runs may not move to another proplet."""
        return self.federated or bool(self.proplet_id)

    @property
    def round_id(self) -> str:
        """The training round this task is part of, by its environment; empty for a plain task."""
        return self.env.get("ROUND_ID", "")

    @property
    def handle(self) -> bool:
        """Whether it stands for an experiment: it has no runs of its own, and shows how that one is."""
        return bool(self.fl)

    @property
    def federated(self) -> bool:
        """Federated tasks run where the data is: they restart, and are never moved to another proplet."""
        return bool(self.round_id)


def define(task: Task) -> Task:
    """Return `task` if everything it says is lawful, else raise naming the field and the remedy."""
    check_id(task.id, "task id")
    if _RESERVED.search(task.id):
        raise BadInput(f"task id {task.id} is like a replica's; choose another", code="reserved_id")
    _check_name(task.name)
    _check_placement(task)
    _check_bounds(task)
    _check_env(task.env)
    _check_metadata(task.metadata)
    _check_flow(task)
    _check_policies(task)
    _check_handle(task)
    _check_service(task)
    if task.schedule:
        schedule.parse(task.schedule)
        schedule.zone(task.timezone)
    return task


def _check_name(name: str) -> None:
    if not name:
        raise BadInput("missing identity name: give the task a `name`", code="missing_name")
    if len(name) > limits.TASK_NAME_CHARS_MAX:
        raise BadInput(f"name is longer than {limits.TASK_NAME_CHARS_MAX} characters")


def _check_handle(task: Task) -> None:
    if not task.fl:
        return
    if task.kind != "federated":
        raise BadInput("`fl` describes the experiment of a task of kind federated", code="bad_kind")
    if task.endless or task.flow_id or task.schedule or task.proplet_id or task.round_id:
        raise BadInput(
            "a task that stands for an experiment has no proplet, round, schedule, workflow or job of its "
            "own; say in `fl` who takes part",
            code="bad_handle",
        )


def _check_service(task: Task) -> None:
    check_rollout(task.rollout)
    if task.replicas is None:
        if task.scale is not None or task.rollout != Rollout():
            raise BadInput("scale and rollout are a service's: give it replicas", code="bad_service")
        return
    if not 0 <= task.replicas <= limits.REPLICAS_MAX:
        raise BadInput(f"replicas must be 0 to {limits.REPLICAS_MAX}, got {task.replicas}")
    if not task.endless:
        raise BadInput("replicas are of a daemon or a latent task: what runs to an end is started again")
    if task.broadcast or task.proplet_id or task.schedule or task.flow_id:
        raise BadInput(
            "a service has no broadcast, proplet, schedule, workflow or job: its replicas go where there is "
            "room, until it is stopped",
            code="bad_service",
        )
    if task.scale is not None:
        check_scale(task.scale, latent=task.latent)
        if not task.scale.min <= task.replicas <= task.scale.max:
            raise BadInput(
                f"replicas is {task.replicas}; its scale goes from {task.scale.min} to {task.scale.max}",
                code="bad_service",
            )


def _check_placement(task: Task) -> None:
    if task.daemon and task.federated:
        raise BadInput("a daemon is never part of a training round: a round ends")
    if task.latent and (task.daemon or task.broadcast or task.federated):
        raise BadInput("a latent task is neither a daemon, nor broadcast, nor part of a training round")
    if task.broadcast and task.proplet_id:
        raise BadInput("invalid value provided: broadcast and proplet_id are mutually exclusive")
    if task.broadcast and task.federated:
        raise BadInput("a broadcast is not part of a training round; name its participants instead")
    if task.proplet_id:
        check_id(task.proplet_id, "proplet_id")
    if task.placement not in PLACEMENTS:
        raise BadInput(
            f"placement is {task.placement[:64]!r}; it can be {', '.join(filter(None, PLACEMENTS))}"
        )
    c.check(task.constraints, task.affinities)


def _check_flow(task: Task) -> None:
    if task.run_if not in {"", "success", "failure"}:
        raise BadInput(f"run_if is {task.run_if[:64]!r}; it can be success or failure", code="bad_run_if")
    if task.workflow_id and task.job_id:
        raise BadInput("a task is part of a workflow or of a job, not of both", code="two_flows")
    if task.depends_on and not task.flow_id:
        raise BadInput("depends_on needs the workflow_id of the tasks it names", code="missing_workflow_id")
    for name, value in (("workflow_id", task.workflow_id), ("job_id", task.job_id)):
        if value:
            check_id(value, name)


def _check_policies(task: Task) -> None:
    check_retry("restart", task.restart)
    check_retry("reschedule", task.reschedule)
    check_disconnect(task.disconnect)
    if task.stays and task.reschedule and task.reschedule.attempts:
        raise BadInput(
            "a task that names its proplet or trains where the data is cannot be rescheduled: use restart",
            code="bad_policy",
        )


def _check_bounds(task: Task) -> None:
    if not 0 <= task.priority <= 100:  # noqa: PLR2004 - the bound is the wire's
        raise BadInput(f"priority must be between 0 and 100, got {task.priority}")
    if len(task.inputs) > limits.TASK_INPUTS_MAX:
        raise TooLarge(f"inputs has {len(task.inputs)} elements; the limit is {limits.TASK_INPUTS_MAX}")
    for name, value, most in (
        ("limits.wall_s", task.limits.wall_s, limits.GUEST_WALL_S_MAX),
        ("limits.cpu_s", task.limits.cpu_s, limits.GUEST_WALL_S_MAX),
        ("limits.memory_bytes", task.limits.memory_bytes, limits.GUEST_MEMORY_BYTES_MAX),
        ("limits.stdout_bytes", task.limits.stdout_bytes, limits.TASK_RESULT_BYTES_MAX),
    ):
        if value is not None and not 0 < value <= most:
            raise BadInput(f"{name} must be above 0 and at most {most}, got {value}")


def _check_env(env: Mapping[str, str]) -> None:
    size = 0
    for name, value in env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise BadInput(f"env name {name!r} must be non-empty and free of '=' and NUL (values: of NUL)")
        size += len(name) + len(value)
    if size > limits.TASK_ENV_BYTES_MAX:
        raise TooLarge(f"env holds {size} characters; the limit is {limits.TASK_ENV_BYTES_MAX}")
    if env.get("ROUND_ID"):
        check_id(env["ROUND_ID"], "env ROUND_ID")  # it becomes part of topics and of the coordinator's paths


def _check_metadata(metadata: Mapping[str, object]) -> None:
    """Stores write integers of 64 bits; JSON has longer ones."""
    unseen: list[object] = [metadata]
    while unseen:
        value = unseen.pop()
        if isinstance(value, Mapping):
            unseen += value.values()
        elif isinstance(value, list | tuple):
            unseen += value
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            raise BadInput("metadata holds an integer beyond 64 bits; write it as a string")


def touch(task: Task, now_s: float) -> Task:
    """The same task, updated at `now_s`."""
    return replace(task, updated_at_s=now_s)
