"""MQTT messages, both lanes, of tasks and proplets; `rounds` has those of federated rounds.

Everything a peer may leave out has a default, everything it may send as null accepts null, and unknown
fields are ignored, so that older and newer peers are understood. Protocol 2 (directed topics) adds `run`,
`attempt` and acknowledgement; the legacy lane has neither.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

NonNegative = Annotated[int, Meta(ge=0)]


class Wire(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all messages: immutable, by name only, defaults left out."""


# --- modules through the broker --------------------------------------------------------------------------


class ImageWish(Wire, frozen=True):
    """`B/registry/proplet`: somebody needs a module. `app_name` is what the start message calls it."""

    app_name: str


class ImageChunk(Wire, frozen=True, omit_defaults=False):
    """`B/registry/server`: a piece of a module for all who asked, or (`error`) why there is none.

    Pieces come in any order and more than once; `data` is base64.
    """

    app_name: str
    chunk_idx: NonNegative | msgspec.UnsetType = msgspec.UNSET
    total_chunks: NonNegative | msgspec.UnsetType = msgspec.UNSET
    data: str | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET
    failure: str | msgspec.UnsetType = msgspec.UNSET


# --- proplet → manager -----------------------------------------------------------------------------------


class PropletMetadata(Wire, frozen=True):
    """What a proplet says of itself. Empty means unknown."""

    description: str | None = None
    tags: list[str] | None = None
    location: str | None = None
    ip: str | None = None
    environment: str | None = None
    os: str | None = None
    hostname: str | None = None
    cpu_arch: str | None = None
    total_memory_bytes: float | None = None
    proplet_version: str | None = None
    wasm_runtime: str | None = None
    labels: dict[str, str] | None = None


class Create(Wire, frozen=True):
    """Announcement on the shared `create` topic. `protocol` 2 asks for a welcome on the directed lane."""

    proplet_id: str
    namespace: str | None = None
    metadata: PropletMetadata = PropletMetadata()
    protocol: int = 1
    slots: int = 1


class AttemptKey(Wire, frozen=True):
    """Names one attempt of one run of one task; the domain key of every protocol-2 event."""

    task_id: str
    run: NonNegative
    attempt: NonNegative


class HeldAttempt(AttemptKey, frozen=True):
    """One line of a heartbeat's inventory."""

    state: Literal["accepted", "running", "finished"]


class Alive(Wire, frozen=True):
    """Heartbeat, and last will (`status` "offline"). `attempts` is the full inventory (protocol 2)."""

    proplet_id: str | None = None
    status: str = "alive"
    namespace: str | None = None
    attempts: list[HeldAttempt] | None = None
    boot: str = ""
    """Random per process start: tells a restarted proplet from a reconnected one."""


class Usage(Wire, frozen=True):
    """What a guest used, measured by the host."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_bytes: int = 0


class AttemptEvent(AttemptKey, frozen=True):
    """Directed `events/{id}`: an attempt was accepted (it is in the spool) or its guest started."""

    kind: Literal["accepted", "started"]


class AttemptFinished(AttemptKey, frozen=True):
    """Directed `results/{id}`: an attempt ended. Repeated until acknowledged.

    `error` empty means success. `failure` is the typed kind (`ports.FailureKind`, or `configuration`,
    `image`, `model`, `data`, `invalid_update`, `update_refused`, `update_undelivered`, `internal`, `lost`),
    empty on success. `results` is any JSON value.
    """

    proplet_id: str = ""
    results: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""
    failure: str = ""
    stderr: str = ""
    usage: Usage = Usage()


class LegacyResult(Wire, frozen=True):
    """Shared `results`: the original's; at most one live attempt of a task is on the legacy lane."""

    task_id: str
    proplet_id: str | None = None
    results: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None


class InvokeResult(Wire, frozen=True):
    """`invoke_results`: how one call of a latent task ended; `failure` is its typed kind (protocol 2)."""

    task_id: str
    invocation_id: str
    proplet_id: str | None = None
    results: str | None = None
    error: str | None = None
    failure: str = ""


class LogChunk(AttemptKey, frozen=True):
    """Directed `logs/{id}`: a piece of what an attempt's guest printed. Best effort: sent once.

    `seq` counts the attempt's chunks from 0, so that a gap shows; `dropped_bytes` is how much the proplet
    has left out so far. `last`: the attempt prints no more.
    """

    seq: NonNegative
    stream: Literal["stdout", "stderr"] = "stdout"
    text: str = ""
    dropped_bytes: NonNegative = 0
    last: bool = False


class CpuMetrics(Wire, frozen=True):
    """Of the proplet: processor seconds of its processes, and how busy the machine is (0 to 100)."""

    user_seconds: float = 0.0
    system_seconds: float = 0.0
    percent: float = 0.0


class MemoryMetrics(Wire, frozen=True):
    """Of the proplet; a field that was not measured is 0 or left out."""

    rss_bytes: NonNegative = 0
    heap_alloc_bytes: NonNegative = 0
    heap_sys_bytes: NonNegative = 0
    heap_inuse_bytes: NonNegative = 0
    container_usage_bytes: NonNegative | None = None
    container_limit_bytes: NonNegative | None = None


class HostMetrics(Wire, frozen=True, omit_defaults=False):
    """`metrics`: the proplet and its machine at one moment; `timestamp` is RFC 3339."""

    proplet_id: str
    namespace: str = "default"
    timestamp: str = ""
    cpu_metrics: CpuMetrics = CpuMetrics()
    memory_metrics: MemoryMetrics = MemoryMetrics()


class GuestMetrics(Wire, frozen=True, omit_defaults=False):
    """Of the process that an attempt's guest runs in."""

    cpu_percent: float = 0.0
    memory_bytes: NonNegative = 0
    memory_percent: float = 0.0
    disk_read_bytes: NonNegative = 0
    disk_write_bytes: NonNegative = 0
    uptime_seconds: NonNegative = 0
    thread_count: NonNegative = 0
    file_descriptor_count: NonNegative = 0


class AggregatedMetrics(Wire, frozen=True, omit_defaults=False):
    """Over all samples of the attempt so far."""

    avg_cpu_usage: float = 0.0
    max_cpu_usage: float = 0.0
    avg_memory_usage: NonNegative = 0
    max_memory_usage: NonNegative = 0
    total_disk_read: NonNegative = 0
    total_disk_write: NonNegative = 0
    sample_count: NonNegative = 0


class TaskMetrics(Wire, frozen=True, omit_defaults=False):
    """`task_metrics`: one sample of a running attempt."""

    task_id: str
    proplet_id: str
    metrics: GuestMetrics = GuestMetrics()
    aggregated: AggregatedMetrics | None = None
    timestamp: str = ""
    run: NonNegative = 0
    attempt: NonNegative = 0


# --- manager → proplet -----------------------------------------------------------------------------------


class Welcome(Wire, frozen=True):
    """Answer to a protocol-2 announcement; from here on the proplet speaks directed topics."""

    protocol: int = 2
    heartbeat_s: float = 10.0


class AckItem(AttemptKey, frozen=True):
    """One acknowledged event; the proplet forgets it."""

    kind: Literal["accepted", "started", "finished"]


class Ack(Wire, frozen=True):
    """Application acknowledgement: the named events are stored for good (or will never matter)."""

    events: list[AckItem]


class ModuleRef(Wire, frozen=True):
    """Where a protocol-2 proplet gets an inline module: content hash, size, and the manager's URL."""

    sha256: str
    url: str
    bytes: NonNegative = 0


class TaskLimits(Wire, frozen=True):
    """A task's own limits; absent ones are the proplet's defaults."""

    wall_s: float | None = None
    cpu_s: float | None = None
    memory_bytes: int | None = None
    stdout_bytes: int | None = None


class Start(Struct, frozen=True, kw_only=True):
    """Start message. The first block is the original's and always complete; the second is protocol 2."""

    id: str
    name: str
    state: int = 0
    image_url: str | msgspec.UnsetType = msgspec.UNSET
    file: str | msgspec.UnsetType = msgspec.UNSET
    inputs: list[str | int | float] | msgspec.UnsetType | None = msgspec.UNSET
    """Texts; numbers only for the original's microcontrollers, which read nothing else."""
    cli_args: list[str] | None = None
    broadcast: bool = False
    daemon: bool = False
    latent: bool = False
    encrypted: bool = False
    env: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    proplet_id: str | msgspec.UnsetType = msgspec.UNSET

    run: int | msgspec.UnsetType = msgspec.UNSET
    attempt: int | msgspec.UnsetType = msgspec.UNSET
    module: ModuleRef | msgspec.UnsetType = msgspec.UNSET
    limits: TaskLimits | msgspec.UnsetType = msgspec.UNSET
    update_token: str | msgspec.UnsetType = msgspec.UNSET
    """Proves to the coordinator that this participant was asked for this round; never shown to the guest."""
    seed: int | msgspec.UnsetType = msgspec.UNSET
    """A trainer's only randomness: from (experiment seed, round, participant)."""
    parent_results: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    """What the dependencies that completed came to, by task id; only with `depends_on`."""
    metrics_s: float | msgspec.UnsetType = msgspec.UNSET
    """How often its guest is to be measured, where that is not as often as others (seconds)."""


class Stop(Struct, frozen=True, kw_only=True):
    """Stop message; `name` and `state` are there for embedded peers, which demand them."""

    id: str
    name: str = ""
    state: str = "stopped"
    broadcast: bool = False
    proplet_id: str | msgspec.UnsetType = msgspec.UNSET
    run: int | msgspec.UnsetType = msgspec.UNSET
    attempt: int | msgspec.UnsetType = msgspec.UNSET
    reason: str = ""


class Invoke(Struct, frozen=True, kw_only=True):
    """Call a latent task. `run` and `attempt` (protocol 2) name the attempt that is to serve it."""

    id: str
    invocation_id: str
    broadcast: bool = False
    proplet_id: str | msgspec.UnsetType = msgspec.UNSET
    inputs: list[str] | None = None
    env: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    run: int | msgspec.UnsetType = msgspec.UNSET
    attempt: int | msgspec.UnsetType = msgspec.UNSET
    timeout_s: float | msgspec.UnsetType = msgspec.UNSET
    """How long the caller waits for the answer."""
