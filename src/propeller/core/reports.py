"""What proplets say of attempts: accepted, started, finished. Pure; what must not count is ignored."""

from dataclasses import replace

from propeller import limits
from propeller.core import events as e
from propeller.core.deadlines import move_on, wait_again
from propeller.core.ledger import FOREVER, Ledger, Now
from propeller.core.policy import failures
from propeller.core.run import Attempt, AttemptState, Run, RunState


def reported(ledger: Ledger, event: e.AttemptReport, now: Now) -> None:
    """Directed word of an attempt: counts only for the live attempt and from its own proplet."""
    run = ledger.runs.get(event.task_id)
    attempt = run.live_attempt if run else None
    if run is None or attempt is None or (run.number, attempt.number) != (event.run, event.attempt):
        ledger.out.append(e.Ignored(why="unknown_run" if run is None else "late_report", event=event))
    elif attempt.proplet_id != event.sender:
        ledger.out.append(e.Ignored(why="wrong_sender", event=event))
    elif event.kind == "finished":
        finish(ledger, run, attempt, event.error, event.failure, event.results, now, event.cause)
    else:
        progress(ledger, run, attempt, event, now)
    ledger.out.append(e.SendAck(report=event))


def legacy_reported(ledger: Ledger, event: e.LegacyReport, now: Now) -> None:
    """A shared result: counts only if the task's live attempt is on the legacy lane."""
    run = ledger.runs.get(event.task_id)
    attempt = run.live_attempt if run else None
    if run is None or attempt is None:
        ledger.out.append(e.Ignored(why="unknown_run", event=event))
    elif attempt.lane != "legacy":
        ledger.out.append(e.Ignored(why="legacy_from_directed", event=event))
    elif event.proplet_id not in {None, attempt.proplet_id}:
        ledger.out.append(e.Ignored(why="wrong_sender", event=event))
    elif not event.error and run.state is not RunState.STOPPING and _only_began(ledger, run, attempt):
        ledger.out.append(e.Ignored(why="daemon_started", event=event))
    else:
        failure = "failed" if event.error else ""
        finish(ledger, run, attempt, event.error, failure, event.results, now, event.cause)


def _only_began(ledger: Ledger, run: Run, attempt: Attempt) -> bool:
    """Whether a success is no end: the original's Rust proplet tells a daemon's when it has started it."""
    proplet = ledger.proplets.get(attempt.proplet_id)
    return ledger.tasks[run.task_id].daemon and not (proplet is not None and proplet.embedded)


def refused(ledger: Ledger, event: e.DispatchRefused, now: Now) -> None:
    """The attempt's start was refused for good: the run fails with that reason."""
    run = ledger.runs.get(event.task_id)
    attempt = run.live_attempt if run else None
    if run and attempt and (run.number, attempt.number) == (event.run, event.attempt):
        finish(ledger, run, attempt, event.error, event.failure, b"null", now, event.cause)


def unsent(ledger: Ledger, event: e.StartUnsent, now: Now) -> None:
    """Have a legacy start sent again soon: that lane acknowledges nothing, so nobody else would notice.

    On the directed lane an unanswered start is repeated anyway.
    """
    run = ledger.runs.get(event.task_id)
    attempt = run.live_attempt if run else None
    if run is None or attempt is None or (run.number, attempt.number) != (event.run, event.attempt):
        return
    if attempt.lane == "legacy" and run.state is RunState.RUNNING:
        ledger.keep(replace(run, resend_mono_s=now.mono_s + limits.DISPATCH_RETRY_S))


def progress(ledger: Ledger, run: Run, attempt: Attempt, event: e.AttemptReport, now: Now) -> None:
    """Accepted or started, by report or by inventory; what is already known changes nothing."""
    state = AttemptState.ACCEPTED if event.kind == "accepted" else AttemptState.RUNNING
    order = (AttemptState.SENT, AttemptState.ACCEPTED, AttemptState.RUNNING)
    if order.index(state) <= order.index(attempt.state):
        return
    started = state is AttemptState.RUNNING
    moved = attempt.to(state)
    if started:
        moved = replace(moved, started_at_s=now.wall_s)
    run = replace(run.with_attempt(moved), resend_mono_s=FOREVER)
    if run.state is RunState.ASSIGNED:
        deadline = now.mono_s + ledger.wall_s(run) + limits.ATTEMPT_GRACE_S
        run = replace(run, deadline_mono_s=deadline)
        if started:
            run = run.to(RunState.RUNNING, started_at_s=run.started_at_s or now.wall_s)
    elif run.state is RunState.STOPPING:
        run = replace(run, resend_mono_s=now.mono_s + limits.DISPATCH_RETRY_S)
        ledger.send_stop(run, moved, run.reason)
    ledger.save(run, event.cause)


def finish(
    ledger: Ledger,
    run: Run,
    attempt: Attempt,
    error: str,
    failure: str,
    results: bytes,
    now: Now,
    cause: str,
) -> None:
    """The attempt ended by its own word; an empty error and failure mean success."""
    failed = bool(error or failure)
    state = AttemptState.SUCCEEDED
    if failed:
        stopped = failure == "stopped" or run.state is RunState.STOPPING
        state = AttemptState.STOPPED if stopped else AttemptState.FAILED
    ended = replace(attempt.to(state), ended_at_s=now.wall_s, error=error, failure=failure)
    run = run.with_attempt(ended)
    task = ledger.tasks[run.task_id]
    returned = state is AttemptState.SUCCEEDED and task.daemon  # a daemon's end is none
    if run.moving and (returned or state is not AttemptState.SUCCEEDED):
        move_on(ledger, run, now, cause)
        return
    if returned and run.state is RunState.STOPPING:
        ledger.end(run, RunState.INTERRUPTED, now, reason=run.reason, failure="stopped", cause=cause)
        return
    if returned or state is AttemptState.FAILED:
        run = replace(run, failures=failures(task, run))
        if wait_again(ledger, run, now, error or "the daemon ended", cause):
            return
    if state is AttemptState.SUCCEEDED:
        # Whoever is quick, or was cut off meanwhile, says only how it ended.
        run = replace(run, started_at_s=run.started_at_s or now.wall_s)
        ledger.end(run, RunState.COMPLETED, now, cause=cause, results=results)
    elif state is AttemptState.STOPPED:
        reason = run.reason if run.state is RunState.STOPPING else error or "stopped"
        ledger.end(run, RunState.INTERRUPTED, now, reason=reason, failure="stopped", cause=cause)
    else:
        ledger.end(run, RunState.FAILED, now, reason=error, failure=failure, cause=cause, results=results)
