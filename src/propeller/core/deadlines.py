"""What follows when time runs out: an end, a lost attempt, or the same message once more. Pure."""

from dataclasses import replace

from propeller import limits
from propeller.core import events as e
from propeller.core.ledger import FOREVER, Ledger, Now
from propeller.core.pinning import ask, unpinned
from propeller.core.placement import why_waiting
from propeller.core.policy import again
from propeller.core.run import Attempt, AttemptState, Run, RunState
from propeller.errors import Bug

_EVENT_DEADLINES_MAX = 64
"""Deadlines that one event acts on: after a restart all may be due at once, and none may hold the loop."""
_DOUBLINGS_MAX = 16
"""Pauses reach their bound long before; a power without a bound would not fit a float after some hours."""


def expire(ledger: Ledger, now: Now, cause: str) -> None:
    """Act on deadlines that have passed by `now`; what is too much for one event is due at the next."""
    for _ in range(_EVENT_DEADLINES_MAX):
        if ledger.next_deadline() > now.mono_s:
            return
        run = ledger.pop_due()
        if run.deadline_mono_s <= now.mono_s:
            _give_up(ledger, run, now, cause)
        elif ledger.lost_at(run) <= now.mono_s:
            _lose(ledger, run, now, f"proplet {run.attempts[-1].proplet_id} vanished", cause)
        else:
            _resend(ledger, run, now)
        ledger.rearm(run.task_id)


def _give_up(ledger: Ledger, run: Run, now: Now, cause: str) -> None:
    attempt = run.live_attempt
    if run.state is RunState.STOPPING and run.moving and attempt is not None:
        lost = replace(attempt.to(AttemptState.LOST), ended_at_s=now.wall_s, error=run.reason, failure="lost")
        move_on(ledger, run.with_attempt(lost), now, cause)
    elif run.state is RunState.STOPPING:
        ledger.end(run, RunState.INTERRUPTED, now, reason=run.reason, failure="stopped", cause=cause)
    elif attempt is None and (ledger.tasks[run.task_id].replica or _began(ledger, run)):
        _wait_on(ledger, run, now, cause)
    elif attempt is None:
        waits_for = why_waiting(ledger, run, now.mono_s)
        why = f"no proplet took it within {ledger.tasks[run.task_id].wait_s:g} s: {waits_for}"
        ledger.end(run, RunState.FAILED, now, reason=why, failure="unplaced", cause=cause)
    else:
        _lose(ledger, run, now, _silence(attempt), cause)


def _began(ledger: Ledger, run: Run) -> bool:
    return bool(run.attempts) and ledger.tasks[run.task_id].daemon


def _wait_on(ledger: Ledger, run: Run, now: Now, cause: str) -> None:
    """A daemon that ran once, and a replica, waits until it is stopped; no longer for where it began."""
    give_up = now.mono_s + ledger.tasks[run.task_id].wait_s
    ledger.save(replace(run, stays_on="", give_up_mono_s=give_up, deadline_mono_s=give_up), cause)


def _lose(ledger: Ledger, run: Run, now: Now, why: str, cause: str) -> None:
    attempt = run.live_attempt
    if attempt is None:
        raise Bug(f"nothing to lose in {run!r}")
    if ledger.alive(attempt.proplet_id, now):
        ledger.send_stop(run, attempt, why)
    replace_lost(ledger, run, now, why, cause)


def replace_lost(ledger: Ledger, run: Run, now: Now, why: str, cause: str) -> None:
    """The run's live attempt is gone, and nobody is left to be told: another one, or the run's end.

    A run that was being stopped has what it wanted; one that was being moved goes on elsewhere.
    """
    attempt = run.live_attempt
    if attempt is None:
        raise Bug(f"nothing to lose in {run!r}")
    lost = replace(attempt.to(AttemptState.LOST), ended_at_s=now.wall_s, error=why, failure="lost")
    run = replace(run.with_attempt(lost), losses=run.losses + 1)
    if run.moving:
        move_on(ledger, run, now, cause)
    elif run.state is RunState.STOPPING:
        ledger.end(run, RunState.INTERRUPTED, now, reason=run.reason, failure="stopped", cause=cause)
    elif not wait_again(ledger, run, now, why, cause):
        ledger.end(run, RunState.FAILED, now, reason=why, failure="lost", cause=cause)


def wait_again(ledger: Ledger, run: Run, now: Now, why: str, cause: str) -> bool:
    """Have the run wait for another attempt if its task's policies allow one; False if not.

    A run whose work stays where it is has one span for all of its attempts; others wait anew for each.
    """
    task = ledger.tasks[run.task_id]
    verdict = again(task, run, now.luck)
    if verdict is None or (task.federated and now.mono_s >= run.give_up_mono_s):
        return False
    begins = now.mono_s + verdict.pause_s
    give_up = run.give_up_mono_s if task.federated else begins + task.wait_s
    last = run.attempts[-1].proplet_id
    run = run.to(
        RunState.WAITING,
        reason=why,
        stays_on=last if verdict.where == "same" else "",
        avoids=last if verdict.where == "another" else "",
        resend_mono_s=begins if verdict.pause_s > 0 else FOREVER,
        give_up_mono_s=give_up,
        deadline_mono_s=give_up,
    )
    ledger.save(run, cause)
    return True


def move_on(ledger: Ledger, run: Run, now: Now, cause: str) -> None:
    """Have a run whose attempt was taken from a drained proplet wait for another one."""
    give_up = now.mono_s + ledger.tasks[run.task_id].wait_s
    run = run.to(
        RunState.WAITING,
        moving=False,
        stays_on="",
        resend_mono_s=FOREVER,
        give_up_mono_s=give_up,
        deadline_mono_s=give_up,
    )
    ledger.save(run, cause)


def _resend(ledger: Ledger, run: Run, now: Now) -> None:
    attempt = run.live_attempt
    if run.resend_mono_s > now.mono_s:
        return
    if attempt is None:
        over = replace(run, resend_mono_s=FOREVER)
        ledger.keep(ask(ledger, run, now) if unpinned(ledger, run) else over)
        return
    pause = min(
        limits.DISPATCH_RETRY_S * 2 ** min(attempt.sends, _DOUBLINGS_MAX), limits.DISPATCH_RETRY_S_MAX
    )
    run = replace(run, resend_mono_s=now.mono_s + pause)
    run = run.with_attempt(replace(attempt, sends=attempt.sends + 1))
    ledger.keep(run)
    if not ledger.alive(attempt.proplet_id, now):
        return
    if run.state is RunState.STOPPING:
        ledger.send_stop(run, attempt, run.reason)
    elif run.state is RunState.RUNNING and attempt.lane == "legacy":
        # Its start never went out: it begins now. If it cannot go out again, that is said again.
        deadline = now.mono_s + ledger.wall_s(run) + limits.ATTEMPT_GRACE_S
        ledger.keep(replace(run, resend_mono_s=FOREVER, deadline_mono_s=deadline))
        ledger.out.append(e.SendStart(task=ledger.tasks[run.task_id], run=run))
    elif attempt.state is AttemptState.SENT and attempt.lane == "directed":
        ledger.out.append(e.SendStart(task=ledger.tasks[run.task_id], run=run))


def _silence(attempt: Attempt) -> str:
    if attempt.state is AttemptState.SENT:
        return f"proplet {attempt.proplet_id} did not accept the start in time"
    return f"proplet {attempt.proplet_id} did not report the end of attempt {attempt.number} in time"
