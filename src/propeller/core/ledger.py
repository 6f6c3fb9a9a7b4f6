"""The engine's state and its bookkeeping: live runs, proplets, timers, and the commands of the event at hand.

It decides nothing. `requests`, `fleet`, `reports`, `deadlines` and `assignment` decide, each for its kind of
event, and change the ledger through the few methods here.
"""

import heapq
from dataclasses import dataclass, replace

from propeller import limits
from propeller.core import events as e
from propeller.core.proplet import Proplet
from propeller.core.run import Attempt, AttemptState, Run, RunState
from propeller.core.task import Task
from propeller.errors import Bug

FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Now:
    """The moment an event is handled: `mono_s` for deadlines, `wall_s` for records."""

    mono_s: float
    wall_s: float


class Ledger:
    """What may still change. One owner, one event at a time."""

    def __init__(self, *, heartbeat_s: float = limits.HEARTBEAT_S) -> None:
        self.heartbeat_s = heartbeat_s
        self.runs: dict[str, Run] = {}
        """Live runs by task id (a task has at most one)."""
        self.tasks: dict[str, Task] = {}
        """The tasks of live runs."""
        self.proplets: dict[str, Proplet] = {}
        self.order: list[str] = []
        self.cursor = 0
        self.timers: list[tuple[float, str]] = []
        self.armed: dict[str, float] = {}
        """The one timer of each live run that counts; a heap entry that disagrees is stale."""
        self.out: list[e.Command] = []

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

    def save(self, run: Run, cause: str, results: bytes | None = None) -> None:
        """Keep the run and have it stored, with its results if it has just got some."""
        round_id = self.tasks[run.task_id].round_id
        self.keep(run)
        self.out.append(e.SaveRun(run=run, round_id=round_id, results=results, cause=cause))

    def keep(self, run: Run) -> None:
        """Hold a live run and arm its timer; let an ended one go."""
        if run.live:
            self.runs[run.task_id] = run
            self.arm(run)
        else:
            del self.runs[run.task_id]
            del self.tasks[run.task_id]

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

    def put_proplet(self, proplet: Proplet) -> None:
        """Add or replace a proplet; new ones join the end of the round-robin order."""
        if proplet.id not in self.proplets:
            self.order.append(proplet.id)
        self.proplets[proplet.id] = proplet

    def alive(self, proplet_id: str, now: Now) -> bool:
        """Whether that proplet is registered and alive."""
        proplet = self.proplets.get(proplet_id)
        return proplet is not None and proplet.alive(now.mono_s)

    def is_on(self, run: Run, proplet_id: str) -> bool:
        """Whether the run has a live attempt on that proplet."""
        attempt = run.live_attempt
        return attempt is not None and attempt.proplet_id == proplet_id

    def on(self, proplet_id: str) -> list[Run]:
        """The live runs on that proplet."""
        return [run for run in self.runs.values() if self.is_on(run, proplet_id)]

    def busy(self) -> dict[str, int]:
        """Live attempts by proplet id."""
        busy: dict[str, int] = {}
        for run in self.runs.values():
            attempt = run.live_attempt
            if attempt is not None:
                busy[attempt.proplet_id] = busy.get(attempt.proplet_id, 0) + 1
        return busy

    def wall_s(self, run: Run) -> float:
        """The run's wall-time limit (seconds): the task's own, else the default."""
        return self.tasks[run.task_id].limits.wall_s or limits.GUEST_WALL_S

    def lost_at(self, run: Run) -> float:
        """When a movable run's live attempt counts as lost; never for work that stays where it is."""
        attempt = run.live_attempt
        task = self.tasks[run.task_id]
        if attempt is None or task.federated or task.proplet_id:
            return FOREVER
        proplet = self.proplets.get(attempt.proplet_id)
        return proplet.lost_at_mono_s if proplet else -FOREVER

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
