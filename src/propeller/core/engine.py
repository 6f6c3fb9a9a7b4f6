"""The manager's decisions: events in, commands out. No I/O, no clock, no randomness; time is an argument.

The engine holds what may still change: live runs with their tasks, and all proplets. It is level-triggered:
a start goes out again until it is accepted, a stop until it is answered, and every heartbeat's inventory is
compared with what should be there. So losing, repeating or reordering any message is harmless, and after a
crash the engine is rebuilt from stored runs and proplets alone (`restore`), with nothing else to replay.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, replace

from propeller import limits
from propeller.core import events as e
from propeller.core.placement import choose
from propeller.core.policy import after
from propeller.core.proplet import HISTORY_MAX, Proplet
from propeller.core.run import Attempt, AttemptState, Lane, Run, RunState
from propeller.core.task import Task
from propeller.errors import Bug, Conflict, NotFound

_FOREVER = float("inf")
_RESEND_BY_INVENTORY_S = 1.0
"""A start younger than this may have crossed the heartbeat that lacks it."""


@dataclass(frozen=True, slots=True)
class Now:
    """The moment an event is handled: `mono_s` for deadlines, `wall_s` for records."""

    mono_s: float
    wall_s: float


class Engine:
    """Decides for one manager. Not thread-safe: one owner feeds it one event at a time."""

    def __init__(self, *, heartbeat_s: float = limits.HEARTBEAT_S) -> None:
        self.heartbeat_s = heartbeat_s
        self.runs: dict[str, Run] = {}
        """Live runs by task id (a task has at most one)."""
        self.tasks: dict[str, Task] = {}
        """The tasks of live runs."""
        self.proplets: dict[str, Proplet] = {}
        self._order: list[str] = []
        self._cursor = 0
        self._timers: list[tuple[float, str]] = []
        self._armed: dict[str, float] = {}
        """The one timer of each live run that counts; a heap entry that disagrees is stale."""
        self._out: list[e.Command] = []

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
        for proplet in proplets:
            lost_at = now.mono_s + engine._patience_s + limits.ATTEMPT_LOST_S
            engine._put_proplet(replace(proplet, alive_until_mono_s=-_FOREVER, lost_at_mono_s=lost_at))
        for task, run in runs:
            engine.tasks[task.id] = task
            engine._keep(run)
        engine._out.clear()
        return engine

    @property
    def _patience_s(self) -> float:
        return self.heartbeat_s * limits.HEARTBEATS_MISSED_MAX

    def handle(self, event: e.Event, now: Now) -> list[e.Command]:
        """What follows from `event`, in the order it must be done. State here has then already changed.

        Raises `Conflict` or `NotFound` for requests that cannot be, leaving state untouched.
        """
        self._out = []
        match event:
            case e.StartRequested():
                self._start(event, now)
            case e.StopRequested():
                self._stop(event, now)
            case e.Announced():
                self._announced(event, now)
            case e.Heard():
                self._heard(event, now)
            case e.Gone():
                self._gone(event, now)
            case e.AttemptReport():
                self._reported(event, now)
            case e.LegacyReport():
                self._legacy_reported(event, now)
            case e.Forgotten():
                self._forget(event, now)
            case e.Tick():
                pass
        self._expire(now, event.cause)
        self._place(now, event.cause)
        return self._out

    def next_deadline(self) -> float:
        """When a `Tick` is due at the latest (monotonic seconds); infinity if nothing is pending."""
        while self._timers:
            due, task_id = self._timers[0]
            run = self.runs.get(task_id)
            if run is not None and due == self._armed.get(task_id) == self._due(run):
                return due
            heapq.heappop(self._timers)
            if due == self._armed.get(task_id):
                del self._armed[task_id]
                if run is not None:
                    self._arm(run)
        return _FOREVER

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
                or self._due(run) == _FOREVER
            ):
                raise Bug(f"engine state of task {task_id} is impossible: {run!r}")

    # --- requests --------------------------------------------------------------------------------------

    def _start(self, event: e.StartRequested, now: Now) -> None:
        task = event.task
        if task.id in self.runs:
            run = self.runs[task.id]
            raise Conflict(
                f"task {task.id} is already started (run {run.number}, {run.state}); stop it first",
                code="already_started",
            )
        if task.proplet_id and task.proplet_id not in self.proplets:
            raise NotFound(f"proplet {task.proplet_id} is not registered", code="unknown_proplet")
        give_up = now.mono_s + task.wait_s
        self.tasks[task.id] = task
        run = Run(
            task_id=task.id,
            number=event.number,
            created_at_s=now.wall_s,
            give_up_mono_s=give_up,
            deadline_mono_s=give_up,
            cause=event.cause,
        )
        self._save(run, event.cause)

    def _stop(self, event: e.StopRequested, now: Now) -> None:
        run = self.runs.get(event.task_id)
        if run is None or run.state is RunState.STOPPING:
            return
        attempt = run.live_attempt
        if attempt is None or not self._alive(attempt.proplet_id, now):
            self._end(run, RunState.INTERRUPTED, now, reason=event.reason, cause=event.cause)
            return
        run = run.to(
            RunState.STOPPING,
            reason=event.reason,
            deadline_mono_s=now.mono_s + limits.STOP_GRACE_S,
            resend_mono_s=now.mono_s + limits.DISPATCH_RETRY_S,
        )
        self._save(run, event.cause)
        self._send_stop(run, attempt, event.reason)

    def _forget(self, event: e.Forgotten, now: Now) -> None:
        proplet = self.proplets.get(event.proplet_id)
        if proplet is None:
            raise NotFound(f"proplet {event.proplet_id} is not registered", code="unknown_proplet")
        held = [run.task_id for run in self.runs.values() if self._is_on(run, proplet.id)]
        if held:
            raise Conflict(f"proplet {proplet.id} has {len(held)} live task(s), {held[0]} among them")
        if proplet.alive(now.mono_s):
            raise Conflict(f"proplet {proplet.id} is alive and would register again; stop it first")
        del self.proplets[proplet.id]
        self._order.remove(proplet.id)
        self._out.append(e.DropProplet(proplet_id=proplet.id))

    # --- proplets --------------------------------------------------------------------------------------

    def _announced(self, event: e.Announced, now: Now) -> None:
        known = self.proplets.get(event.proplet_id)
        if event.protocol < 2 and known and known.lane == "directed" and known.alive(now.mono_s):  # noqa: PLR2004
            self._out.append(e.Ignored(why="downgrade", event=event))
            return
        proplet = known or Proplet(id=event.proplet_id, name=event.name, registered_at_s=now.wall_s)
        lane: Lane = proplet.lane if event.protocol >= 2 else "legacy"  # noqa: PLR2004
        proplet = replace(
            proplet,
            lane=lane,
            namespace=event.namespace,
            metadata=event.metadata,
            slots=max(1, event.slots),
        )
        if proplet != known:
            self._put_proplet(proplet)
            self._out.append(e.SaveProplet(proplet=proplet))
        if event.protocol >= 2:  # noqa: PLR2004 - the protocol's number
            self._out.append(e.SendWelcome(proplet_id=proplet.id))

    def _heard(self, event: e.Heard, now: Now) -> None:
        proplet = self.proplets.get(event.proplet_id)
        if proplet and event.lane == "legacy" and proplet.lane == "directed":
            self._out.append(e.Ignored(why="legacy_from_directed", event=event))
            return
        known = proplet is not None
        proplet = proplet or Proplet(id=event.proplet_id, name=event.name, registered_at_s=now.wall_s)
        settled = known and proplet.lane == event.lane and proplet.boot == event.boot
        proplet = replace(
            proplet,
            lane=event.lane,
            boot=event.boot,
            last_alive_at_s=now.wall_s,
            alive_until_mono_s=now.mono_s + self._patience_s,
            lost_at_mono_s=now.mono_s + self._patience_s + limits.ATTEMPT_LOST_S,
            history=(*proplet.history[-(HISTORY_MAX - 1) :], now.wall_s),
        )
        self._put_proplet(proplet)
        if not settled:
            self._out.append(e.SaveProplet(proplet=proplet))
        if event.inventory is not None:
            self._reconcile(event.proplet_id, event.inventory, now, event.cause)

    def _gone(self, event: e.Gone, now: Now) -> None:
        proplet = self.proplets.get(event.proplet_id)
        if proplet is None or proplet.lane != event.lane:
            self._out.append(e.Ignored(why="not_a_proplet", event=event))
            return
        if not proplet.alive(now.mono_s):
            return
        lost_at = now.mono_s + limits.ATTEMPT_LOST_S
        self._put_proplet(replace(proplet, alive_until_mono_s=now.mono_s, lost_at_mono_s=lost_at))
        for run in self._on(proplet.id):
            self._arm(run)

    def _reconcile(self, proplet_id: str, inventory: tuple[e.Held, ...], now: Now, cause: str) -> None:
        held = {(item.task_id, item.run, item.attempt): item for item in inventory}
        for item in inventory:
            self._compare(proplet_id, item, now, cause)
        for run in self._on(proplet_id):
            attempt = run.live_attempt
            if attempt and (run.task_id, run.number, attempt.number) not in held:
                self._missing(run, attempt, now)

    def _compare(self, proplet_id: str, item: e.Held, now: Now, cause: str) -> None:
        run = self.runs.get(item.task_id)
        attempt = run.live_attempt if run else None
        wanted = (
            run is not None
            and attempt is not None
            and (run.number, attempt.number, attempt.proplet_id) == (item.run, item.attempt, proplet_id)
        )
        if not wanted:
            if item.state != "finished":
                self._out.append(_stop_unwanted(proplet_id, item))
            return
        if item.state == "finished":
            return
        report = e.AttemptReport(
            kind="accepted" if item.state == "accepted" else "started",
            sender=proplet_id,
            task_id=item.task_id,
            run=item.run,
            attempt=item.attempt,
            cause=cause,
        )
        self._progress(run, attempt, report, now)  # type: ignore[arg-type]

    def _missing(self, run: Run, attempt: Attempt, now: Now) -> None:
        if run.state is RunState.STOPPING:
            return
        if (
            attempt.state is AttemptState.SENT
            and abs(now.wall_s - attempt.sent_at_s) < _RESEND_BY_INVENTORY_S
        ):
            return
        self._out.append(e.SendStart(task=self.tasks[run.task_id], run=run))

    # --- reports ---------------------------------------------------------------------------------------

    def _reported(self, event: e.AttemptReport, now: Now) -> None:
        run = self.runs.get(event.task_id)
        attempt = run.live_attempt if run else None
        if run is None or attempt is None or (run.number, attempt.number) != (event.run, event.attempt):
            self._out.append(e.Ignored(why="unknown_run" if run is None else "late_report", event=event))
        elif attempt.proplet_id != event.sender:
            self._out.append(e.Ignored(why="wrong_sender", event=event))
        elif event.kind == "finished":
            self._finish(run, attempt, event.error, event.failure, event.results, now, event.cause)
        else:
            self._progress(run, attempt, event, now)
        self._out.append(e.SendAck(report=event))

    def _legacy_reported(self, event: e.LegacyReport, now: Now) -> None:
        run = self.runs.get(event.task_id)
        attempt = run.live_attempt if run else None
        if run is None or attempt is None:
            self._out.append(e.Ignored(why="unknown_run", event=event))
        elif attempt.lane != "legacy":
            self._out.append(e.Ignored(why="legacy_from_directed", event=event))
        elif event.proplet_id not in {None, attempt.proplet_id}:
            self._out.append(e.Ignored(why="wrong_sender", event=event))
        else:
            failure = "failed" if event.error else ""
            self._finish(run, attempt, event.error, failure, event.results, now, event.cause)

    def _progress(self, run: Run, attempt: Attempt, event: e.AttemptReport, now: Now) -> None:
        """Accepted or started, by report or by inventory; what is already known changes nothing."""
        state = AttemptState.ACCEPTED if event.kind == "accepted" else AttemptState.RUNNING
        order = (AttemptState.SENT, AttemptState.ACCEPTED, AttemptState.RUNNING)
        if order.index(state) <= order.index(attempt.state):
            return
        started = state is AttemptState.RUNNING
        moved = attempt.to(state)
        if started:
            moved = replace(moved, started_at_s=now.wall_s)
        run = replace(run.with_attempt(moved), resend_mono_s=_FOREVER)
        if run.state is RunState.ASSIGNED:
            deadline = now.mono_s + self._wall_s(run) + limits.ATTEMPT_GRACE_S
            run = replace(run, deadline_mono_s=deadline)
            if started:
                run = run.to(RunState.RUNNING, started_at_s=run.started_at_s or now.wall_s)
        elif run.state is RunState.STOPPING:
            run = replace(run, resend_mono_s=now.mono_s + limits.DISPATCH_RETRY_S)
            self._send_stop(run, moved, run.reason)
        self._save(run, event.cause)

    def _finish(
        self, run: Run, attempt: Attempt, error: str, failure: str, results: bytes, now: Now, cause: str
    ) -> None:
        failed = bool(error or failure)
        state = AttemptState.SUCCEEDED
        if failed:
            stopped = failure == "stopped" or run.state is RunState.STOPPING
            state = AttemptState.STOPPED if stopped else AttemptState.FAILED
        ended = replace(attempt.to(state), ended_at_s=now.wall_s, error=error, failure=failure)
        run = run.with_attempt(ended)
        if state is AttemptState.SUCCEEDED:
            self._end(run, RunState.COMPLETED, now, cause=cause, results=results)
        elif state is AttemptState.STOPPED:
            reason = run.reason if run.state is RunState.STOPPING else error or "stopped"
            self._end(run, RunState.INTERRUPTED, now, reason=reason, failure="stopped", cause=cause)
        else:
            self._end(run, RunState.FAILED, now, reason=error, failure=failure, cause=cause, results=results)

    # --- time ------------------------------------------------------------------------------------------

    def _expire(self, now: Now, cause: str) -> None:
        while self.next_deadline() <= now.mono_s:
            _, task_id = heapq.heappop(self._timers)
            del self._armed[task_id]
            run = self.runs[task_id]
            if run.deadline_mono_s <= now.mono_s:
                self._give_up(run, now, cause)
            elif self._lost_at(run) <= now.mono_s:
                self._lose(run, now, f"proplet {run.attempts[-1].proplet_id} vanished", cause)
            else:
                self._resend(run, now)
            if task_id in self.runs:
                self._arm(self.runs[task_id])

    def _give_up(self, run: Run, now: Now, cause: str) -> None:
        attempt = run.live_attempt
        if run.state is RunState.STOPPING:
            self._end(run, RunState.INTERRUPTED, now, reason=run.reason, failure="stopped", cause=cause)
        elif attempt is None:
            why = f"no proplet took it within {self.tasks[run.task_id].wait_s:g} s: {run.reason}"
            self._end(run, RunState.FAILED, now, reason=why, failure="unplaced", cause=cause)
        else:
            self._lose(run, now, _silence(attempt), cause)

    def _lose(self, run: Run, now: Now, why: str, cause: str) -> None:
        attempt = run.live_attempt
        if attempt is None:
            raise Bug(f"nothing to lose in {run!r}")
        lost = replace(attempt.to(AttemptState.LOST), ended_at_s=now.wall_s, error=why, failure="lost")
        run = run.with_attempt(lost)
        if self._alive(attempt.proplet_id, now):
            self._send_stop(run, lost, why)
        verdict = after(self.tasks[run.task_id], run)
        if not verdict.again or now.mono_s >= run.give_up_mono_s:
            self._end(run, RunState.FAILED, now, reason=why, failure="lost", cause=cause)
            return
        again = run.to(RunState.WAITING, reason=why, resend_mono_s=_FOREVER)
        self._save(replace(again, deadline_mono_s=run.give_up_mono_s), cause)

    def _resend(self, run: Run, now: Now) -> None:
        attempt = run.live_attempt
        if attempt is None or run.resend_mono_s > now.mono_s:
            return
        pause = min(limits.DISPATCH_RETRY_S * 2**attempt.sends, limits.DISPATCH_RETRY_S_MAX)
        run = replace(run, resend_mono_s=now.mono_s + pause)
        run = run.with_attempt(replace(attempt, sends=attempt.sends + 1))
        self.runs[run.task_id] = run
        if not self._alive(attempt.proplet_id, now):
            return
        if run.state is RunState.STOPPING:
            self._send_stop(run, attempt, run.reason)
        elif attempt.state is AttemptState.SENT and attempt.lane == "directed":
            self._out.append(e.SendStart(task=self.tasks[run.task_id], run=run))

    # --- placement -------------------------------------------------------------------------------------

    def _place(self, now: Now, cause: str) -> None:
        waiting = [run for run in self.runs.values() if run.state is RunState.WAITING]
        if not waiting:
            return
        busy = self._busy()
        waiting.sort(key=lambda run: (-self.tasks[run.task_id].priority, run.created_at_s))
        for run in waiting:
            task = self.tasks[run.task_id]
            choice = choose(
                task, self.proplets, self._order, busy, cursor=self._cursor, now_mono_s=now.mono_s
            )
            if choice.proplet_id is not None:
                busy[choice.proplet_id] = busy.get(choice.proplet_id, 0) + 1
                self._assign(run, task, choice.proplet_id, now, cause)
            elif choice.reason != run.reason:
                self._save(replace(run, reason=choice.reason), cause)

    def _assign(self, run: Run, task: Task, proplet_id: str, now: Now, cause: str) -> None:
        self._cursor = self._order.index(proplet_id)
        lane = self.proplets[proplet_id].lane
        number = run.attempts[-1].number + 1 if run.attempts else 1
        attempt = Attempt(number=number, proplet_id=proplet_id, lane=lane, sent_at_s=now.wall_s)
        stays = task.federated or bool(task.proplet_id)
        answer_by = run.give_up_mono_s if stays else now.mono_s + limits.RUN_DISPATCH_S
        run = run.to(
            RunState.ASSIGNED,
            reason="",
            attempts=(*run.attempts, attempt),
            deadline_mono_s=answer_by,
            resend_mono_s=now.mono_s + limits.DISPATCH_RETRY_S,
        )
        if lane == "legacy":
            run = self._running_legacy(run, attempt, now)
        self._save(run, cause)
        self._out.append(e.SendStart(task=task, run=run))

    def _running_legacy(self, run: Run, attempt: Attempt, now: Now) -> Run:
        """The legacy lane has no acknowledgement: a start that went out counts as running."""
        moved = replace(attempt.to(AttemptState.RUNNING), started_at_s=now.wall_s)
        deadline = now.mono_s + self._wall_s(run) + limits.ATTEMPT_GRACE_S
        return run.with_attempt(moved).to(
            RunState.RUNNING,
            started_at_s=run.started_at_s or now.wall_s,
            deadline_mono_s=deadline,
            resend_mono_s=_FOREVER,
        )

    # --- state -----------------------------------------------------------------------------------------

    def _save(self, run: Run, cause: str, results: bytes | None = None) -> None:
        self._keep(run)
        self._out.append(e.SaveRun(run=run, results=results, cause=cause))

    def _keep(self, run: Run) -> None:
        if run.live:
            self.runs[run.task_id] = run
            self._arm(run)
        else:
            del self.runs[run.task_id]
            del self.tasks[run.task_id]

    def _end(
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
        attempt = run.live_attempt
        if attempt is not None:
            ended = replace(
                attempt.to(AttemptState.LOST), ended_at_s=now.wall_s, error=reason, failure="lost"
            )
            run = run.with_attempt(ended)
        run = run.to(state, reason=reason, failure=failure, ended_at_s=now.wall_s)
        self._save(run, cause, results)

    def _send_stop(self, run: Run, attempt: Attempt, reason: str) -> None:
        self._out.append(
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

    def _put_proplet(self, proplet: Proplet) -> None:
        if proplet.id not in self.proplets:
            self._order.append(proplet.id)
        self.proplets[proplet.id] = proplet

    def _alive(self, proplet_id: str, now: Now) -> bool:
        proplet = self.proplets.get(proplet_id)
        return proplet is not None and proplet.alive(now.mono_s)

    def _is_on(self, run: Run, proplet_id: str) -> bool:
        attempt = run.live_attempt
        return attempt is not None and attempt.proplet_id == proplet_id

    def _on(self, proplet_id: str) -> list[Run]:
        return [run for run in self.runs.values() if self._is_on(run, proplet_id)]

    def _busy(self) -> dict[str, int]:
        busy: dict[str, int] = {}
        for run in self.runs.values():
            attempt = run.live_attempt
            if attempt is not None:
                busy[attempt.proplet_id] = busy.get(attempt.proplet_id, 0) + 1
        return busy

    def _wall_s(self, run: Run) -> float:
        return self.tasks[run.task_id].limits.wall_s or limits.GUEST_WALL_S

    def _lost_at(self, run: Run) -> float:
        """When a movable run's live attempt counts as lost; never for work that stays where it is."""
        attempt = run.live_attempt
        task = self.tasks[run.task_id]
        if attempt is None or task.federated or task.proplet_id:
            return _FOREVER
        proplet = self.proplets.get(attempt.proplet_id)
        return proplet.lost_at_mono_s if proplet else -_FOREVER

    def _due(self, run: Run) -> float:
        return min(run.deadline_mono_s, run.resend_mono_s, self._lost_at(run))

    def _arm(self, run: Run) -> None:
        due = self._due(run)
        if due < self._armed.get(run.task_id, _FOREVER):
            self._armed[run.task_id] = due
            heapq.heappush(self._timers, (due, run.task_id))


def _silence(attempt: Attempt) -> str:
    if attempt.state is AttemptState.SENT:
        return f"proplet {attempt.proplet_id} did not accept the start in time"
    return f"proplet {attempt.proplet_id} did not report the end of attempt {attempt.number} in time"


def _stop_unwanted(proplet_id: str, item: e.Held) -> e.SendStop:
    return e.SendStop(
        task_id=item.task_id,
        name="",
        run=item.run,
        attempt=item.attempt,
        proplet_id=proplet_id,
        lane="directed",
        reason="the manager no longer wants this attempt",
    )
