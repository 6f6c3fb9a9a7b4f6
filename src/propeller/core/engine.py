"""The manager's decisions: events in, commands out. No I/O, no clock, no randomness; time is an argument.

The engine holds what may still change: live runs with their tasks, and all proplets. It is level-triggered:
a start goes out again until it is accepted, a stop until it is answered, and every heartbeat's inventory is
compared with what should be there. So losing, repeating or reordering any message is harmless, and after a
crash the engine is rebuilt from stored runs and proplets alone (`restore`), with nothing else to replay.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from propeller import limits
from propeller.core import broadcast, fleet, operation, reports, requests, serving
from propeller.core import events as e
from propeller.core.assignment import place
from propeller.core.deadlines import expire
from propeller.core.ledger import FOREVER, Ledger, Now, Whole
from propeller.core.placement import why_waiting
from propeller.core.proplet import Proplet
from propeller.core.run import Run, RunState
from propeller.core.service import ServiceRecord, ServiceState
from propeller.core.task import Task
from propeller.core.upkeep import upkeep
from propeller.errors import Bug

_DECIDERS: Mapping[type, Callable[[Ledger, Any, Now], None]] = {
    e.StartRequested: requests.start,
    e.SkipRequested: requests.skip,
    e.BroadcastRequested: broadcast.begin,
    e.ServiceRequested: serving.begin,
    e.Redefined: serving.redefine,
    e.RolloutRequested: serving.rollout,
    e.Measured: serving.measure,
    e.StopRequested: serving.stop,
    e.Forgotten: requests.forget,
    e.ImagePinned: serving.pinned,
    e.ImageNotPinned: serving.not_pinned,
    e.Cordoned: operation.cordon,
    e.Labelled: operation.label,
    e.Announced: fleet.announced,
    e.Heard: fleet.heard,
    e.Gone: fleet.gone,
    e.AttemptReport: reports.reported,
    e.LegacyReport: reports.legacy_reported,
    e.DispatchRefused: reports.refused,
    e.StartUnsent: reports.unsent,
    e.Tick: lambda _ledger, _event, _now: None,
}


_LOOKS_MAX = 8
"""Looks at services in one event: what a placement changes is seen at once."""
_NOBODY: Mapping[str, Proplet] = MappingProxyType({})


class Engine:
    """Decides for one manager. Not thread-safe: one owner feeds it one event at a time."""

    def __init__(self, *, heartbeat_s: float = limits.HEARTBEAT_S, pins: bool = False) -> None:
        self.ledger = Ledger(heartbeat_s=heartbeat_s, pins=pins)

    @classmethod
    def restore(
        cls,
        runs: Iterable[tuple[Task, Run]],
        proplets: Iterable[Proplet],
        now: Now,
        *,
        heartbeat_s: float = limits.HEARTBEAT_S,
        pins: bool = False,
        heard: Mapping[str, Proplet] = _NOBODY,
        services: Iterable[ServiceRecord] = (),
    ) -> "Engine":
        """An engine after a restart. Deadlines of the stored runs must already be re-armed.

        No proplet counts as alive before it is heard, and none as lost before it had time to be. `heard` is
        what this very process knew before: who is alive there stays alive.
        """
        engine = cls(heartbeat_s=heartbeat_s, pins=pins)
        ledger = engine.ledger
        lost_at = now.mono_s + ledger.patience_s + limits.ATTEMPT_LOST_S
        ledger.roster.restore(_as_heard(proplet, heard.get(proplet.id), lost_at) for proplet in proplets)
        own: list[Run] = []
        for task, run in runs:
            if task.service:
                own.append(run)
            elif task.broadcast:
                ledger.wholes[task.id] = Whole(task=task, run=run, left={})
            else:
                ledger.tasks[task.id] = task
                ledger.keep(run)
        broadcast.restore(ledger)
        kept = {record.task.id: record for record in services}
        for run in own:
            if run.task_id not in kept:
                raise Bug(f"nothing is remembered of service {run.task_id}: {run!r}")
            serving.restore(ledger, kept[run.task_id], run, now)
        return engine

    def handle(self, event: e.Event, now: Now) -> list[e.Command]:
        """What follows from `event`, in the order it must be done. State here has then already changed.

        Raises `Conflict` or `NotFound` for requests that cannot be, leaving state untouched.
        """
        ledger = self.ledger
        ledger.out = []
        _DECIDERS[type(event)](ledger, event, now)
        expire(ledger, now, event.cause)
        for _ in range(_LOOKS_MAX):
            upkeep(ledger, now, event.cause)
            place(ledger, now, event.cause)
            if not (ledger.restless or ledger.ended_replicas):
                break
        broadcast.gather(ledger, now, event.cause)
        return _saved_once(ledger.out)

    def why_waiting(self, run: Run, now: Now) -> str:
        """What a waiting run waits for at this moment; its stored reason for any other run."""
        live = self.ledger.runs.get(run.task_id)
        if live is None or live.number != run.number or live.state is not RunState.WAITING:
            return run.reason
        return why_waiting(self.ledger, live, now.mono_s)

    def next_deadline(self) -> float:
        """When a `Tick` is due at the latest (monotonic seconds); infinity if nothing is pending."""
        return min(self.ledger.next_deadline(), self.ledger.look_mono_s)

    def service(self, task_id: str, now: Now) -> ServiceState | None:
        """A running service as it stands; None for any other task."""
        return serving.shown(self.ledger, task_id, now)

    def validate(self) -> None:
        """Raise `Bug` if the state breaks an invariant; tests call it after every event."""
        self.ledger.validate()
        serving.validate(self.ledger)


def _as_heard(stored: Proplet, known: Proplet | None, lost_at_mono_s: float) -> Proplet:
    if known is None or known.lane != stored.lane:
        return replace(stored, alive_until_mono_s=-FOREVER, lost_at_mono_s=lost_at_mono_s)
    return replace(
        stored,
        last_alive_at_s=known.last_alive_at_s,
        alive_until_mono_s=known.alive_until_mono_s,
        lost_at_mono_s=known.lost_at_mono_s,
        history=known.history,
    )


def _saved_once(commands: list[e.Command]) -> list[e.Command]:
    """The commands with only the last record of each run, and those that bring results: each row once."""
    last = {command.run.key: at for at, command in enumerate(commands) if isinstance(command, e.SaveRun)}
    return [
        command
        for at, command in enumerate(commands)
        if not isinstance(command, e.SaveRun) or command.results is not None or last[command.run.key] == at
    ]
