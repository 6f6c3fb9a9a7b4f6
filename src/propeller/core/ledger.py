"""The engine's state and its bookkeeping: live runs, proplets, timers, and the commands of the event at hand.

It decides nothing. `requests`, `fleet`, `reports`, `deadlines` and `assignment` decide, each for its kind of
event, and change the ledger through the few methods here. No method looks at all runs or all proplets.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field, replace

from propeller import limits
from propeller.core import events as e
from propeller.core.line import Line
from propeller.core.proplet import Proplet
from propeller.core.roster import Roster
from propeller.core.run import Attempt, AttemptState, Run, RunState
from propeller.core.service import Service
from propeller.core.task import Task
from propeller.errors import Bug, Conflict

FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Now:
    """The moment an event is handled: `mono_s` for deadlines, `wall_s` for records."""

    mono_s: float
    wall_s: float
    luck: float = 0.5
    """A number from 0 to 1, drawn by whoever hands over the event: what chance there is comes from it."""


@dataclass(slots=True)
class Whole:
    """A broadcast that runs (see `core.broadcast`): its own run, and which of its members have not ended."""

    task: Task
    run: Run
    left: dict[str, None]


@dataclass(slots=True)
class Standing:
    """A service that runs (see `core.serving`). Below the gap is what a restart may forget."""

    task: Task
    run: Run
    service: Service
    numbers: dict[str, int]
    """The latest run number of each replica that it ever had."""
    replicas: dict[str, None] = field(default_factory=dict)
    """Its live replicas."""

    ready_since: dict[str, tuple[int, float]] = field(default_factory=dict)
    """The attempt of each replica that runs on a live proplet, and since when (monotonic seconds)."""
    healthy_most: int = 0
    progress_mono_s: float = 0.0
    """The most healthy replicas of the new revision so far, and when it came to that."""
    broken: str = ""
    """Why the new revision cannot be."""
    says: str = ""
    """Why its image is not known yet."""
    asked_mono_s: float = -FOREVER
    """When that was asked last."""
    ended: int = 0
    pause_until_mono_s: float = -FOREVER
    """Replicas that ended by themselves since one was healthy, and when the next may begin."""
    advice: deque[tuple[float, int]] = field(default_factory=deque)
    """What the rule asked for lately, and when."""
    due_mono_s: float = -FOREVER
    """When it must be looked at at the latest."""


class Ledger:
    """What may still change. One owner, one event at a time."""

    def __init__(self, *, heartbeat_s: float = limits.HEARTBEAT_S, pins: bool = False) -> None:
        self.heartbeat_s = heartbeat_s
        self.pins = pins
        """Whether somebody answers `PinImage`; without, tags go to proplets as they are."""
        self.runs: dict[str, Run] = {}
        """Live runs by task id (a task has at most one)."""
        self.tasks: dict[str, Task] = {}
        """The tasks of live runs."""
        self.wholes: dict[str, Whole] = {}
        """Broadcasts that run, by task id; their members are among `runs`."""
        self.standing: dict[str, Standing] = {}
        """Services that run, by task id; their replicas are among `runs`."""
        self.restless: dict[str, None] = {}
        """Services of which something has changed since they were looked at."""
        self.ended_replicas: list[tuple[Task, Run]] = []
        """Replicas that ended since their service was looked at."""
        self.look_mono_s = FOREVER
        """When the next service must be looked at."""
        self.ended_parts: list[tuple[Task, Run, bytes | None]] = []
        """Members that ended in the event at hand, with their results."""
        self.hollow: list[Whole] = []
        """Broadcasts that were found without members."""
        self.roster = Roster()
        self.lines: dict[str, Line] = {}
        """Waiting runs by the one proplet that may have them; those that anybody may have under ``""``."""
        self.picky: dict[str, bool] = {}
        """Waiting runs that choose among proplets; True until all proplets were looked at for them."""
        self.resting: dict[str, None] = {}
        """Waiting runs whose pause is not over."""
        self.unexplained: list[str] = []
        """Tasks whose runs began to wait in the event at hand."""
        self.timers: list[tuple[float, str]] = []
        self.armed: dict[str, float] = {}
        """The one timer of each live run that counts; a heap entry that disagrees is stale."""
        self.out: list[e.Command] = []

    @property
    def proplets(self) -> dict[str, Proplet]:
        """All proplets by id, in order of registration."""
        return self.roster.proplets

    @property
    def patience_s(self) -> float:
        """How long after a heartbeat a proplet still counts as alive (seconds)."""
        return self.heartbeat_s * limits.HEARTBEATS_MISSED_MAX

    def next_deadline(self) -> float:
        """When a `Tick` is due at the latest (monotonic seconds); infinity if nothing is pending."""
        while self.timers:
            due, task_id = self.timers[0]
            run = self.runs.get(task_id)
            if run is not None and due == self.armed.get(task_id) == self.due(run):
                return due
            heapq.heappop(self.timers)
            if due == self.armed.get(task_id):
                del self.armed[task_id]
                if run is not None:
                    self.arm(run)
        return FOREVER

    def validate(self) -> None:
        """Raise `Bug` if the state breaks an invariant; tests call it after every event."""
        for task_id, run in self.runs.items():
            live = [attempt for attempt in run.attempts if attempt.live]
            numbers = [attempt.number for attempt in run.attempts]
            if (
                not run.live
                or task_id not in self.tasks
                or len(live) > 1
                or numbers != sorted(set(numbers))
                or (run.state is RunState.WAITING) == bool(live)
                or self.due(run) == FOREVER
            ):
                raise Bug(f"engine state of task {task_id} is impossible: {run!r}")
            self._validate_place(run)
        if sum(map(self.roster.count, self.proplets)) > len(self.runs):
            raise Bug("proplets hold more attempts than there are live runs")

    def _validate_place(self, run: Run) -> None:
        attempt = run.live_attempt
        if attempt is None and self._place(run) != self._listed(run):
            raise Bug(f"a waiting run is in no line: {run!r}")
        if attempt is not None and run.task_id not in self.roster.held(attempt.proplet_id):
            raise Bug(f"a proplet does not know what it holds: {run!r}")

    def save(self, run: Run, cause: str, results: bytes | None = None) -> None:
        """Keep the run and have it stored, with its results if it has just got some."""
        task = self.tasks[run.task_id]
        self.keep(run)
        self.out.append(
            e.SaveRun(run=run, round_id=task.round_id, flow_id=task.flow_id, results=results, cause=cause)
        )

    def keep(self, run: Run) -> None:
        """Hold a live run, list it where it belongs and arm its timer; let an ended one go."""
        before = self.runs.get(run.task_id)
        if self.tasks[run.task_id].replica:
            self.restless[self.tasks[run.task_id].part_of] = None
        there, here = self._place(before), self._place(run)
        if there != here:
            self._unlist(run.task_id, there)
            self._list(run, here)
        if run.live:
            self.runs[run.task_id] = run
            self.arm(run)
        else:
            del self.runs[run.task_id]
            del self.tasks[run.task_id]

    def live(self, task_id: str) -> Run | None:
        """The task's run that has not ended, if there is one: its own, a broadcast's or a service's."""
        whole = self.wholes.get(task_id) or self.standing.get(task_id)
        return whole.run if whole else self.runs.get(task_id)

    def check_not_live(self, task_id: str) -> None:
        """Raise `Conflict` while a run of the task is live."""
        live = self.live(task_id)
        if live is not None:
            raise Conflict(
                f"task {task_id} is already started (run {live.number}, {live.state}); stop it first",
                code="already_started",
            )

    def home(self, run: Run) -> str:
        """The one proplet that may have the run: named, or where federated work began; empty if any may."""
        task = self.tasks[run.task_id]
        if run.stays_on:
            return run.stays_on
        if task.proplet_id or not task.federated or not run.attempts:
            return task.proplet_id
        return run.attempts[-1].proplet_id

    def waiting_for(self, proplet_id: str) -> Run | None:
        """The run that is next in line for that proplet alone, or for anybody if it is empty."""
        line = self.lines.get(proplet_id)
        task_id = line.first() if line else None
        return self.runs[task_id] if task_id is not None else None

    def urgency(self, run: Run) -> tuple[int, float]:
        """Sorts runs: the most urgent first, then the oldest."""
        return (-self.tasks[run.task_id].priority, run.created_at_s)

    def _place(self, run: Run | None) -> tuple[str, str] | None:
        """Where a run is listed: waiting in a line, held by a proplet, or nowhere."""
        if run is None or not run.live:
            return None
        attempt = run.live_attempt
        if attempt is not None:
            # A latent task that is loaded waits for calls beside the others: it takes no slot.
            stands = attempt.state is AttemptState.RUNNING and self.tasks[run.task_id].latent
            return ("stands" if stands else "held", attempt.proplet_id)
        if run.resend_mono_s < FOREVER:
            return ("rests", "")
        home = self.home(run)
        if not home and (run.avoids or self.tasks[run.task_id].picky):
            return ("picks", "")
        return ("waits", home)

    def _listed(self, run: Run) -> tuple[str, str] | None:
        """Where a waiting run is found, for `validate`."""
        if run.task_id in self.resting:
            return ("rests", "")
        if run.task_id in self.picky:
            return ("picks", "")
        home = self.home(run)
        return ("waits", home) if home in self.lines and self.lines[home].has(run.task_id) else None

    def _list(self, run: Run, place: tuple[str, str] | None) -> None:
        match place:
            case ("held" | "stands" as how, proplet_id):
                self.roster.hold(proplet_id, run.task_id, slot=how == "held")
            case ("waits", home):
                line = self.lines.setdefault(home, Line())
                line.join(run.task_id, self.tasks[run.task_id].priority, in_front=bool(run.attempts))
                self.unexplained.append(run.task_id)
                self.roster.stir(home)
            case ("picks", _):
                self.picky[run.task_id] = True
                self.unexplained.append(run.task_id)
            case ("rests", _):
                self.resting[run.task_id] = None

    def _unlist(self, task_id: str, place: tuple[str, str] | None) -> None:
        match place:
            case ("held" | "stands", proplet_id):
                self.roster.release(proplet_id, task_id)
            case ("waits", home):
                self.lines[home].leave(task_id, self.tasks[task_id].priority)
                if not self.lines[home]:
                    del self.lines[home]
            case ("picks", _):
                del self.picky[task_id]
            case ("rests", _):
                del self.resting[task_id]

    def end(
        self,
        run: Run,
        state: RunState,
        now: Now,
        *,
        reason: str = "",
        failure: str = "",
        cause: str,
        results: bytes | None = None,
    ) -> None:
        """End a run; an attempt that could still have reported counts as lost."""
        attempt = run.live_attempt
        if attempt is not None:
            ended = replace(
                attempt.to(AttemptState.LOST), ended_at_s=now.wall_s, error=reason, failure="lost"
            )
            run = run.with_attempt(ended)
        run = run.to(state, reason=reason, failure=failure, ended_at_s=now.wall_s)
        if self.tasks[run.task_id].replica:
            self.ended_replicas.append((self.tasks[run.task_id], run))
        elif self.tasks[run.task_id].part_of:
            self.ended_parts.append((self.tasks[run.task_id], run, results))
        self.save(run, cause, results)

    def send_stop(self, run: Run, attempt: Attempt, reason: str) -> None:
        """Have the attempt's proplet told to end it."""
        self.out.append(
            e.SendStop(
                task_id=run.task_id,
                name=self.tasks[run.task_id].name,
                run=run.number,
                attempt=attempt.number,
                proplet_id=attempt.proplet_id,
                lane=attempt.lane,
                reason=reason,
            )
        )

    def alive(self, proplet_id: str, now: Now) -> bool:
        """Whether that proplet is registered and alive."""
        proplet = self.proplets.get(proplet_id)
        return proplet is not None and proplet.alive(now.mono_s)

    def on(self, proplet_id: str) -> list[Run]:
        """The live runs on that proplet."""
        return [self.runs[task_id] for task_id in self.roster.held(proplet_id)]

    def siblings(self, task: Task, proplet_id: str) -> int:
        """How many other replicas of the same service that proplet has."""
        held = self.roster.held(proplet_id)
        return sum(name != task.id and self.tasks[name].part_of == task.part_of for name in held)

    def wall_s(self, run: Run) -> float:
        """The run's wall-time limit (seconds): the task's own, else the default; none for a service."""
        if self.tasks[run.task_id].endless:
            return limits.ENDLESS_S
        return self.tasks[run.task_id].limits.wall_s or limits.GUEST_WALL_S

    def lost_at(self, run: Run) -> float:
        """When a movable run's live attempt counts as lost; never for work that stays where it is."""
        attempt = run.live_attempt
        task = self.tasks[run.task_id]
        if attempt is None or task.stays or not task.disconnect.replace:
            return FOREVER
        proplet = self.proplets.get(attempt.proplet_id)
        if proplet is None:
            return -FOREVER
        return proplet.lost_at_mono_s - limits.ATTEMPT_LOST_S + task.disconnect.lost_after_s

    def due(self, run: Run) -> float:
        """When something must be done about the run at the latest (monotonic seconds)."""
        return min(run.deadline_mono_s, run.resend_mono_s, self.lost_at(run))

    def pop_due(self) -> Run:
        """The run whose deadline `next_deadline` just named; its timer is gone until `rearm`."""
        _, task_id = heapq.heappop(self.timers)
        del self.armed[task_id]
        return self.runs[task_id]

    def rearm(self, task_id: str) -> None:
        """Give the run a timer again, if it is still live."""
        if task_id in self.runs:
            self.arm(self.runs[task_id])

    def arm(self, run: Run) -> None:
        """Make sure that the timer of the run rings no later than it is due."""
        due = self.due(run)
        if due < self.armed.get(run.task_id, FOREVER):
            self.armed[run.task_id] = due
            heapq.heappush(self.timers, (due, run.task_id))
