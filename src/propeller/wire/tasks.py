"""HTTP bodies of the manager: tasks, proplets and their pages. Names, numbers and shapes are the original's.

A request may leave out anything but the name, may send null for lists and objects, zero times, and fields
that only servers set; a view always carries the same keys.
"""

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from propeller import limits

ZERO_TIME = "0001-01-01T00:00:00Z"
"""How the wire writes a time that is not set."""


def rfc3339(seconds: float) -> str:
    """Unix seconds as RFC 3339 with microseconds; 0 is the wire's zero time."""
    if not seconds:
        return ZERO_TIME
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class LimitsBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task's own guest limits; seconds and bytes."""

    wall_s: float | None = None
    cpu_s: float | None = None
    memory_bytes: int | None = None
    stdout_bytes: int | None = None


class RetryBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`restart` and `reschedule`: how many further attempts, and the pauses before them."""

    attempts: int = 0
    delay_s: float = 1.0
    delay_s_max: float = 300.0
    jitter: float = 0.5


class DisconnectBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`disconnect`: when a vanished proplet's attempt counts as lost, and whether it is replaced."""

    lost_after_s: float = limits.ATTEMPT_LOST_S
    replace: bool = True


class RolloutBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`rollout`: how a service's new revision comes in, and when it goes back."""

    surge: int = 1
    healthy_s: float = 5.0
    deadline_s: float = 300.0
    failures: int = 2


class ScaleBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`scale`: the rule that sets the number of a service's replicas; `max` 0 takes it away."""

    min: int = 1
    max: int = 0
    on: Literal["queue", "cpu"] = "queue"
    target: float = 1.0
    tolerance: float = 0.1
    window_s: float = 300.0


class ReplicasBody(Struct, frozen=True, kw_only=True):
    """`POST /tasks/{id}/scale`."""

    replicas: int


class ConstraintBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One condition on a proplet; numbers may be sent as such."""

    attribute: str
    operator: str = "="
    value: str | int | float = ""

    @property
    def text(self) -> str:
        """The value as text."""
        return self.value if isinstance(self.value, str) else _number_text(self.value)


class AffinityBody(ConstraintBody, frozen=True, kw_only=True, omit_defaults=True):
    """One preference."""

    weight: float = 1.0


class FederatedBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The experiment that a task of kind federated stands for: the original's names, from `seed` on ours."""

    job_id: str = ""
    """The experiment's id; otherwise the task's."""
    model_ref: str = ""
    algorithm: str = ""
    """The strategy."""
    update_format: str = ""
    total_rounds: int = 1
    clients_per_round: int = 0
    """How many proplets are drawn for each round; 0: all that are registered."""
    min_participants: int = 0
    """A round begins with so many connected, and is no good with fewer updates; 0: `clients_per_round`."""
    round_timeout_sec: float = 0.0
    hyperparams: dict[str, Any] | None = None
    local_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    evaluation: bool = False
    participants: list[str] = []
    """From whom to draw; otherwise from all."""


class TaskBody(Struct, frozen=True, kw_only=True):
    """`POST /tasks`. Fields below the gap are understood and refused unless they have their zero value."""

    id: str | None = None
    name: str = ""
    kind: str | None = None
    image_url: str | None = None
    file: str | None = None
    cli_args: list[str] | None = None
    inputs: list[str | int | float] | None = None
    env: dict[str, str] | None = None
    proplet_id: str | None = None
    priority: int | None = None
    mode: str | None = None
    metadata: dict[str, Any] | None = None
    limits: LimitsBody | None = None
    daemon: bool | None = None
    broadcast: bool | None = None
    replicas: int | None = None
    """A service: so many are kept running."""
    scale: ScaleBody | None = None
    rollout: RolloutBody | None = None
    depends_on: list[str] | None = None
    run_if: str | None = None
    workflow_id: str | None = None
    job_id: str | None = None
    schedule: str | None = None
    is_recurring: bool | None = None
    timezone: str | None = None
    constraints: list[ConstraintBody] | None = None
    affinities: list[AffinityBody] | None = None
    placement: str | None = None
    restart: RetryBody | None = None
    reschedule: RetryBody | None = None
    disconnect: DisconnectBody | None = None
    fl: FederatedBody | None = None

    latent: bool | None = None
    encrypted: bool | None = None
    kbs_resource_path: str | None = None
    hal_storage_path: str | None = None
    monitoring_profile: dict[str, Any] | None = None

    def inputs_text(self) -> tuple[str, ...]:
        """Inputs as text: a number becomes its shortest decimal form."""
        return tuple(item if isinstance(item, str) else _number_text(item) for item in self.inputs or ())


def _number_text(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)  # noqa: PLR2004


class InvokeBody(Struct, frozen=True, kw_only=True):
    """`POST /tasks/{id}/invoke`: what this call has of its own."""

    inputs: list[str | int | float] | None = None
    env: dict[str, str] | None = None

    def inputs_text(self) -> tuple[str, ...]:
        """Inputs as text, as a task has them."""
        return tuple(item if isinstance(item, str) else _number_text(item) for item in self.inputs or ())


class AttemptView(Struct, frozen=True, kw_only=True):
    """One attempt of the shown run."""

    attempt: int
    proplet_id: str
    state: str
    error: str = ""
    failure: str = ""
    task_id: str = ""
    """Of a service: the replica whose attempt it is."""
    revision: int = 0
    """What the replica is made of."""


class ServiceView(Struct, frozen=True, kw_only=True):
    """How a running service is."""

    wanted: int
    """How many replicas there are to be now."""
    ready: int
    """How many run, on proplets that are alive."""
    updated: int
    """How many of those are of the newest revision."""
    revision: int
    phase: Literal["steady", "rolling", "rolling_back"]
    outcome: Literal["", "rolling", "proven", "rolled_back"]
    """How the last rollout went, if there was one."""
    why: str
    """Why it was rolled back."""


class TaskView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task as every route shows it; `state` and times are those of its latest run."""

    id: str
    name: str
    state: int | UnsetType = UNSET  # never unset in practice: keeps 0 from being omitted
    kind: str = ""
    image_url: str = ""
    file: str = ""
    cli_args: list[str] | UnsetType | None = UNSET
    inputs: list[str] = []
    env: dict[str, str] = {}
    daemon: bool | UnsetType = UNSET
    latent: bool = False
    encrypted: bool | UnsetType = UNSET
    proplet_id: str = ""
    broadcast: bool = False
    replicas: int | UnsetType = UNSET
    scale: ScaleBody | UnsetType = UNSET
    rollout: RolloutBody | UnsetType = UNSET
    service: ServiceView | UnsetType = UNSET
    priority: int = 0
    mode: str = ""
    metadata: dict[str, Any] = {}
    limits: LimitsBody | UnsetType = UNSET
    depends_on: list[str] = []
    run_if: str = ""
    workflow_id: str = ""
    job_id: str = ""
    schedule: str = ""
    is_recurring: bool = False
    timezone: str = ""
    constraints: list[ConstraintBody] = []
    affinities: list[AffinityBody] = []
    placement: str = ""
    restart: RetryBody | UnsetType = UNSET
    reschedule: RetryBody | UnsetType = UNSET
    disconnect: DisconnectBody | UnsetType = UNSET
    results: msgspec.Raw | UnsetType = UNSET
    results_bytes: int = 0
    """How long results are that a list leaves out: `GET /tasks/{id}/results` has them."""
    error: str = ""
    failure: str = ""
    reason: str = ""
    """Why a waiting task waits, or how it ended."""
    run: int = 0
    image_digest: str = ""
    """What the tag of `image_url` meant when the run began."""
    attempts: list[AttemptView] = []
    start_time: str = ""
    finish_time: str = ""
    created_at: str = ""
    updated_at: str = ""
    next_run: str = ""
    fl: dict[str, Any] = {}
    experiment_id: str = ""
    """The experiment that a task of kind federated was last started as."""


class TaskPage(Struct, frozen=True, kw_only=True):
    """`GET /tasks`."""

    offset: int
    limit: int
    total: int
    tasks: list[TaskView]


class PropletView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A proplet as every route shows it."""

    id: str
    name: str
    task_count: int | UnsetType = UNSET
    alive: bool | UnsetType = UNSET
    protocol: int = 0
    slots: int = 0
    cordoned: bool = False
    draining: bool = False
    labels: dict[str, str] = {}
    last_alive_at: str = ""
    metadata: dict[str, Any] | UnsetType = UNSET


class PropletPage(Struct, frozen=True, kw_only=True):
    """`GET /proplets`."""

    offset: int
    limit: int
    total: int
    proplets: list[PropletView]


class HistoryPage(Struct, frozen=True, kw_only=True):
    """`GET /proplets/{id}/alive-history`: times of heartbeats, oldest first."""

    offset: int
    limit: int
    total: int
    history: list[str]
