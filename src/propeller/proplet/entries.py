"""An attempt in the agent's memory, and how two attempts compare. Pure."""

from dataclasses import dataclass

from propeller.proplet.records import AttemptState, Held
from propeller.wire.messages import AttemptKey, Start

NEVER = float("inf")
RESEND_S = 1.0
RESEND_S_MAX = 15.0
"""An unacknowledged event goes out again after the first pause; the pauses double up to the second."""


@dataclass(slots=True)
class Entry:
    """An attempt in memory: its record, and what the manager has yet to hear of it."""

    held: Held
    told: bool = False
    saved: bool = True
    pause_s: float = RESEND_S
    resend_s: float = NEVER
    serving: bool = False
    """A latent task that is loaded: it runs, takes no slot, and ends only by order."""

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.held.state is not AttemptState.FINISHED


def rivals(other: AttemptKey, key: AttemptKey, start: Start) -> bool:
    """Whether only the later of two attempts can be wanted: runs of a service may live side by side."""
    return other.task_id == key.task_id and (other.run == key.run or not start.daemon)


def rank(key: AttemptKey) -> tuple[int, int]:
    """Which of two attempts of a task is the later one: the higher."""
    return (key.run, key.attempt)


def latest(held: Held) -> str:
    """The kind of the event that tells the attempt's present state."""
    return "started" if held.state is AttemptState.RUNNING else held.state.value
