"""Gives waiting runs to proplets, the most urgent and oldest first, and says why the others wait. Pure.

Runs that anybody may have go round among all proplets with room; those with a home wait for it. Whoever has
room after an event had none before it or was stirred by it, so nobody else needs to be looked at.
"""

from collections.abc import Sequence
from dataclasses import replace

from propeller import limits
from propeller.core import events as e
from propeller.core.ledger import FOREVER, Ledger, Now
from propeller.core.placement import pick, why_waiting
from propeller.core.run import Attempt, AttemptState, Run, RunState
from propeller.core.task import Task

_ANYBODY = ""


def place(ledger: Ledger, now: Now, cause: str) -> None:
    """Assign every waiting run that some proplet can take now; give those that begin to wait a reason."""
    stirred = ledger.roster.take_stirred()
    _serve_homes(ledger, stirred, now, cause, patient=True)
    _serve_picky(ledger, stirred, now, cause, patient=True)
    _serve_anybody(ledger, now, cause)
    _serve_picky(ledger, stirred, now, cause, patient=False)
    _serve_homes(ledger, stirred, now, cause, patient=False)
    _explain(ledger, now, cause)


def _serve_homes(ledger: Ledger, stirred: Sequence[str], now: Now, cause: str, *, patient: bool) -> None:
    """Give proplets the runs that only they may have; the patient let a more urgent run of anybody's pass."""
    for proplet_id in stirred:
        while ledger.roster.has_room(proplet_id, now.mono_s):
            run, other = ledger.waiting_for(proplet_id), ledger.waiting_for(_ANYBODY)
            if run is None or (patient and other and ledger.urgency(other) < ledger.urgency(run)):
                break
            _assign(ledger, run, proplet_id, now, cause)


def _serve_anybody(ledger: Ledger, now: Now, cause: str) -> None:
    while (run := ledger.waiting_for(_ANYBODY)) is not None:
        proplet_id = ledger.roster.next_with_room(now.mono_s)
        if proplet_id is None:
            return
        _assign(ledger, run, proplet_id, now, cause)


def _serve_picky(ledger: Ledger, stirred: Sequence[str], now: Now, cause: str, *, patient: bool) -> None:
    """Give runs that choose the best proplet: of all when they begin to wait, then of those with news."""
    if not ledger.picky:
        return
    if not any(ledger.roster.has_room(one, now.mono_s) for one in stirred) and not any(ledger.picky.values()):
        return  # a full fleet's heartbeats are news to nobody
    for run in sorted((ledger.runs[task_id] for task_id in ledger.picky), key=ledger.urgency):
        other = ledger.waiting_for(_ANYBODY)
        if patient and other and ledger.urgency(other) < ledger.urgency(run):
            break
        fresh = ledger.picky[run.task_id]
        able = ledger.roster.all_with_room(now.mono_s) if fresh else stirred
        room = [one for one in able if one and ledger.roster.has_room(one, now.mono_s)]
        proplet_id = pick(ledger, run, room, now.mono_s)
        if proplet_id is not None:
            ledger.roster.had_turn(proplet_id)
            _assign(ledger, run, proplet_id, now, cause)
        else:
            ledger.picky[run.task_id] = False


def _explain(ledger: Ledger, now: Now, cause: str) -> None:
    """A stored reason is that of the moment when the wait began; views ask anew."""
    begun, ledger.unexplained = ledger.unexplained, []
    for task_id in begun:
        run = ledger.runs.get(task_id)
        if run is not None and run.state is RunState.WAITING:
            ledger.save(replace(run, reason=why_waiting(ledger, run, now.mono_s)), cause)


def _assign(ledger: Ledger, run: Run, proplet_id: str, now: Now, cause: str) -> None:
    task: Task = ledger.tasks[run.task_id]
    lane = ledger.proplets[proplet_id].lane
    number = run.attempts[-1].number + 1 if run.attempts else 1
    attempt = Attempt(number=number, proplet_id=proplet_id, lane=lane, sent_at_s=now.wall_s)
    answer_by = run.give_up_mono_s if task.stays else now.mono_s + limits.RUN_DISPATCH_S
    run = run.to(
        RunState.ASSIGNED,
        reason="",
        attempts=(*run.attempts[-limits.ATTEMPTS_KEPT + 1 :], attempt),
        deadline_mono_s=answer_by,
        resend_mono_s=now.mono_s + limits.DISPATCH_RETRY_S,
    )
    if lane == "legacy":
        run = _running_legacy(ledger, run, attempt, now)
    ledger.save(run, cause)
    ledger.out.append(e.SendStart(task=task, run=run))


def _running_legacy(ledger: Ledger, run: Run, attempt: Attempt, now: Now) -> Run:
    """The legacy lane has no acknowledgement: a start that went out counts as running."""
    moved = replace(attempt.to(AttemptState.RUNNING), started_at_s=now.wall_s)
    deadline = now.mono_s + ledger.wall_s(run) + limits.ATTEMPT_GRACE_S
    return run.with_attempt(moved).to(
        RunState.RUNNING,
        started_at_s=run.started_at_s or now.wall_s,
        deadline_mono_s=deadline,
        resend_mono_s=FOREVER,
    )
