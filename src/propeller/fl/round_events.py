"""What happens to a round, and what the shell must do about it. Types only; `fl.round` decides."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from propeller.errors import CallerError
from propeller.fl.model_ref import ModelRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An update that counts, without its tensors."""

    participant: str
    samples: int
    content: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    staleness: int = 0
    """Versions made between the one it started from and the round's base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An update that does not count, and why."""

    participant: str
    code: str
    message: str = ""


# --- what happens to a round -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """The manager has the round's tasks, or says why it will never have them."""

    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantsDrawn:
    """The manager drew the round's participants; `k` updates close its set."""

    participants: tuple[str, ...]
    k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantsLost:
    """These participants' tasks ended for good without an update; participant → why."""

    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """An admitted update arrived."""

    update: Accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A task started by hand wants to take part."""

    participant: str
    base: ModelRef


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: `due_mono_s` may have come. Harmless at any moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregated:
    """The new model is in the registry, or what an evaluation measured, which makes no version."""

    version: int | None = None
    model_hash: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationFailed:
    """An attempt to aggregate or to store the model failed; `retryable` if it may yet succeed."""

    reason: str
    retryable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Somebody ends the round."""

    reason: str


Event = (
    Launched
    | ParticipantsDrawn
    | ParticipantsLost
    | Submitted
    | Joined
    | Tick
    | Aggregated
    | AggregationFailed
    | Stopped
)

# --- what the shell must do ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """Store this update with the round, then tell its sender that it counts."""

    update: Accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """Tell the sender that this very update already counts."""

    participant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Tell the sender why not."""

    error: CallerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Tell the task started by hand that it takes part."""

    participant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """Aggregate the closed set, in this (ascending) order, and report `Aggregated` or `AggregationFailed`."""

    participants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Announce:
    """The round has ended: tell the manager, the experiment, and anyone who listens."""


Command = Accept | Repeat | Refuse | Welcome | Aggregate | Announce
