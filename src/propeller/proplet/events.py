"""What can happen to a proplet's agent, and what it may ask its shell to do. Frozen data only."""

from dataclasses import dataclass

from propeller.proplet.records import Held, Outcome
from propeller.wire.messages import AckItem, AttemptKey, HeldAttempt, Start, Stop, Usage

# --- events ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Booted:
    """The process is up and its spool is read: what was cut off goes on. The first event, once."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The bus has a new connection, its subscriptions stand."""


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The manager answered the announcement: directed topics may be used."""

    heartbeat_s: float


@dataclass(frozen=True, slots=True)
class StartReceived:
    """A start message on the directed lane; `key` is its (id, run, attempt)."""

    key: AttemptKey
    start: Start


@dataclass(frozen=True, slots=True)
class StopReceived:
    """A stop message."""

    stop: Stop


@dataclass(frozen=True, slots=True)
class AckReceived:
    """The manager has stored these events, or will never need them."""

    items: tuple[AckItem, ...]


@dataclass(frozen=True, slots=True)
class GuestStarted:
    """Everything the attempt needs was fetched and its guest begins."""

    key: AttemptKey


@dataclass(frozen=True, slots=True)
class Serving:
    """The module of a latent task is loaded and waits for calls; until then there is nothing to do."""

    key: AttemptKey


@dataclass(frozen=True, slots=True)
class UpdateMade:
    """The guest of a federated task ended well; what is left is to deliver its update."""

    key: AttemptKey
    update: bytes
    usage: Usage
    form: str = ""
    """The format of the file in the workspace that has the tensors; without one they are in `update`."""


@dataclass(frozen=True, slots=True)
class GuestEnded:
    """The work on an attempt is over, well, badly or by a kill; nothing of it runs any more."""

    key: AttemptKey
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class SaveFailed:
    """A `SaveHeld` could not be done; if it was a required one, the commands after it were not either."""

    key: AttemptKey
    why: str


@dataclass(frozen=True, slots=True)
class HeartbeatDue:
    """`Agent.heartbeat_due_s` has passed."""


@dataclass(frozen=True, slots=True)
class ResendDue:
    """`Agent.resend_due_s` has passed."""


Event = (
    Booted
    | Connected
    | Welcomed
    | StartReceived
    | StopReceived
    | AckReceived
    | GuestStarted
    | Serving
    | UpdateMade
    | GuestEnded
    | SaveFailed
    | HeartbeatDue
    | ResendDue
)

# --- commands --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SaveHeld:
    """Write the record durably before going on. If a `required` one fails, drop the rest of the commands."""

    held: Held
    required: bool = False


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop an acknowledged attempt's record and remember its key as done."""

    key: AttemptKey


@dataclass(frozen=True, slots=True)
class PublishEvent:
    """Tell the manager that an attempt was accepted or has started."""

    key: AttemptKey
    started: bool


@dataclass(frozen=True, slots=True)
class PublishFinished:
    """Tell the manager how an attempt ended; `payload` is the encoded message."""

    key: AttemptKey
    payload: bytes


@dataclass(frozen=True, slots=True)
class PublishAlive:
    """Send a heartbeat with everything that is held."""

    attempts: tuple[HeldAttempt, ...]


@dataclass(frozen=True, slots=True)
class PublishCreate:
    """Announce this proplet on the shared topic."""


@dataclass(frozen=True, slots=True)
class Run:
    """Prepare and run the attempt's guest; answers `GuestStarted`, then `UpdateMade` or `GuestEnded`."""

    held: Held


@dataclass(frozen=True, slots=True)
class Deliver:
    """Deliver the attempt's saved update; answers `GuestEnded`."""

    held: Held


@dataclass(frozen=True, slots=True)
class Kill:
    """End the attempt's work at once; what it answers no longer matters, only that it is over."""

    key: AttemptKey


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing is done about a message; for the log and the counters. `why` is a short stable word."""

    why: str
    task_id: str


Command = (
    SaveHeld
    | Forget
    | PublishEvent
    | PublishFinished
    | PublishAlive
    | PublishCreate
    | Run
    | Deliver
    | Kill
    | Ignored
)
