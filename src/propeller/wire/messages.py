"""MQTT messages, both lanes. Field names are the original's where the original has the message.

Everything a peer may leave out has a default, everything it may send as null accepts null, and unknown
fields are ignored, so that older and newer peers are understood. Protocol 2 (directed topics) adds `run`,
`attempt` and acknowledgement; the legacy lane has neither.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

NonNegative = Annotated[int, Meta(ge=0)]


class Wire(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all messages: immutable, by name only, defaults left out."""


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
    inputs: list[str] | msgspec.UnsetType | None = msgspec.UNSET
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


# --- federated rounds ------------------------------------------------------------------------------------


class RoundStart(Wire, frozen=True):
    """`B/fl/rounds/start`: launch one round. Extra fields over the original's default when absent."""

    round_id: str
    model_uri: str
    task_wasm_image: str
    participants: list[str]
    hyperparams: dict[str, Any] | None = None
    k_of_n: NonNegative = 0
    timeout_s: float = 0.0
    experiment_id: str = ""
    seed: int = 0
    """The experiment's seed, from which each trainer's own is derived."""


class RoundLaunched(Wire, frozen=True):
    """The manager has the round's tasks on disk."""

    round_id: str
    tasks: NonNegative = 0
    refused: str = ""
    """Why the round can never be launched (an unknown participant, say); empty if it was."""


class RoundComplete(Wire, frozen=True):
    """A round's end, well or not; repeated until the manager says `closed`."""

    round_id: str
    state: Literal["completed", "failed"]
    reason: str = ""
    model_version: int | None = None
    model_topic: str = ""
    num_updates: NonNegative = 0
    contributors: list[str] = []
    """Participants whose updates count; their tasks are about to end by themselves."""
    total_samples: NonNegative = 0
    completed_at: str = ""


class RoundClosed(Wire, frozen=True):
    """The manager stopped what was left of the round."""

    round_id: str


class RoundNext(Struct, frozen=True, kw_only=True):
    """`fl/rounds/next`: a new global model exists (the original's fields, all of them, always)."""

    round_id: str
    new_model_version: int
    model_uri: str
    timestamp: str
    status: str = "complete"
    next_round_available: bool = True


class Verdict(Wire, frozen=True):
    """The coordinator's answer to an update that came by MQTT; `status` mirrors the HTTP status."""

    round_id: str
    status: int
    error: str = ""
    reason: str = ""
