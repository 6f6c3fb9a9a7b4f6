"""An attempt in the agent's memory, and how two attempts compare. Pure."""

from collections.abc import Iterable
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


class Kin:
    """Attempts by their task: a start may have to give way to any of its own, and to no other."""

    def __init__(self, known: Iterable[AttemptKey]) -> None:
        self._of_task: dict[str, set[AttemptKey]] = {}
        for key in known:
            self.add(key)

    def add(self, key: AttemptKey) -> None:
        """Know an attempt."""
        self._of_task.setdefault(key.task_id, set()).add(key)

    def drop(self, key: AttemptKey) -> None:
        """Know it no longer."""
        family = self._of_task[key.task_id]
        family.discard(key)
        if not family:
            del self._of_task[key.task_id]

    def rivals(self, key: AttemptKey, start: Start) -> list[AttemptKey]:
        """Known attempts of which and this one only the later can be wanted, the earliest first.

        Runs of a service may live side by side.
        """
        family = self._of_task.get(key.task_id, ())
        return sorted((one for one in family if one.run == key.run or not start.daemon), key=rank)


def rank(key: AttemptKey) -> tuple[int, int]:
    """Which of two attempts of a task is the later one: the higher."""
    return (key.run, key.attempt)


def latest(held: Held) -> str:
    """The kind of the event that tells the attempt's present state."""
    return "started" if held.state is AttemptState.RUNNING else held.state.value
