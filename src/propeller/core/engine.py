"""The manager's decisions: events in, commands out. No I/O, no clock, no randomness; time is an argument.

The engine holds what may still change: live runs with their tasks, and all proplets. It is level-triggered:
a start goes out again until it is accepted, a stop until it is answered, and every heartbeat's inventory is
compared with what should be there. So losing, repeating or reordering any message is harmless, and after a
crash the engine is rebuilt from stored runs and proplets alone (`restore`), with nothing else to replay.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from propeller import limits
from propeller.core import events as e
from propeller.core import fleet, reports, requests
from propeller.core.assignment import place
from propeller.core.deadlines import expire
from propeller.core.ledger import FOREVER, Ledger, Now
from propeller.core.proplet import Proplet
from propeller.core.run import Run
from propeller.core.task import Task

_DECIDERS: Mapping[type, Callable[[Ledger, Any, Now], None]] = {
    e.StartRequested: requests.start,
    e.SkipRequested: requests.skip,
    e.StopRequested: requests.stop,
    e.Forgotten: requests.forget,
    e.Announced: fleet.announced,
    e.Heard: fleet.heard,
    e.Gone: fleet.gone,
    e.AttemptReport: reports.reported,
    e.LegacyReport: reports.legacy_reported,
    e.DispatchRefused: reports.refused,
    e.Tick: lambda _ledger, _event, _now: None,
}


class Engine:
    """Decides for one manager. Not thread-safe: one owner feeds it one event at a time."""

    def __init__(self, *, heartbeat_s: float = limits.HEARTBEAT_S) -> None:
        self.ledger = Ledger(heartbeat_s=heartbeat_s)

    @classmethod
    def restore(
        cls,
        runs: Iterable[tuple[Task, Run]],
        proplets: Iterable[Proplet],
        now: Now,
        *,
        heartbeat_s: float = limits.HEARTBEAT_S,
    ) -> "Engine":
        """An engine after a restart. Deadlines of the stored runs must already be re-armed.

        No proplet counts as alive before it is heard, and none as lost before it had time to be.
        """
        engine = cls(heartbeat_s=heartbeat_s)
        ledger = engine.ledger
        for proplet in proplets:
            lost_at = now.mono_s + ledger.patience_s + limits.ATTEMPT_LOST_S
            ledger.put_proplet(replace(proplet, alive_until_mono_s=-FOREVER, lost_at_mono_s=lost_at))
        for task, run in runs:
            ledger.tasks[task.id] = task
            ledger.keep(run)
        return engine

    def handle(self, event: e.Event, now: Now) -> list[e.Command]:
        """What follows from `event`, in the order it must be done. State here has then already changed.

        Raises `Conflict` or `NotFound` for requests that cannot be, leaving state untouched.
        """
        ledger = self.ledger
        ledger.out = []
        _DECIDERS[type(event)](ledger, event, now)
        expire(ledger, now, event.cause)
        place(ledger, now, event.cause)
        return ledger.out

    def next_deadline(self) -> float:
        """When a `Tick` is due at the latest (monotonic seconds); infinity if nothing is pending."""
        return self.ledger.next_deadline()

    def validate(self) -> None:
        """Raise `Bug` if the state breaks an invariant; tests call it after every event."""
        self.ledger.validate()
