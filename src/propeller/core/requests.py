"""What users and services ask of the engine: start, stop, forget. Pure; raises what the caller did wrong."""

from dataclasses import replace

from propeller import limits
from propeller.core import events as e
from propeller.core.ledger import Ledger, Now
from propeller.core.pinning import ask, unpinned
from propeller.core.run import Run, RunState
from propeller.errors import Conflict, NotFound


def start(ledger: Ledger, event: e.StartRequested, now: Now) -> None:
    """Begin a run of the task; it waits until a proplet takes it."""
    task = event.task
    ledger.check_not_live(task.id)
    if task.proplet_id and task.proplet_id not in ledger.proplets:
        raise NotFound(f"proplet {task.proplet_id} is not registered", code="unknown_proplet")
    give_up = now.mono_s + task.wait_s
    ledger.tasks[task.id] = task
    run = Run(
        task_id=task.id,
        number=event.number,
        created_at_s=now.wall_s,
        give_up_mono_s=give_up,
        deadline_mono_s=give_up,
        cause=event.cause,
        answers=event.answers,
        image_digest=event.image_digest,
    )
    ledger.save(ask(ledger, run, now) if unpinned(ledger, run) else run, event.cause)


def skip(ledger: Ledger, event: e.SkipRequested, now: Now) -> None:
    """Record a run that its flow passes over; it never waits."""
    ledger.check_not_live(event.task.id)
    run = Run(
        task_id=event.task.id,
        number=event.number,
        created_at_s=now.wall_s,
        give_up_mono_s=now.mono_s,
        deadline_mono_s=now.mono_s,
        cause=event.cause,
        answers=event.answers,
    )
    ended = run.to(RunState.SKIPPED, reason=event.reason, ended_at_s=now.wall_s)
    ledger.out.append(e.SaveRun(run=ended, flow_id=event.task.flow_id, cause=event.cause))


def stop(ledger: Ledger, event: e.StopRequested, now: Now) -> None:
    """End the task's live run: at once if nobody runs it, else by a stop that repeats until answered."""
    run = ledger.runs.get(event.task_id)
    if run is not None and run.moving:
        ledger.save(replace(run, moving=False, reason=event.reason), event.cause)
        return
    if run is None or run.state is RunState.STOPPING:
        return
    attempt = run.live_attempt
    if attempt is None or not ledger.alive(attempt.proplet_id, now):
        ledger.end(run, RunState.INTERRUPTED, now, reason=event.reason, cause=event.cause)
        return
    run = run.to(
        RunState.STOPPING,
        reason=event.reason,
        deadline_mono_s=now.mono_s + limits.STOP_GRACE_S,
        resend_mono_s=now.mono_s + limits.DISPATCH_RETRY_S,
    )
    ledger.save(run, event.cause)
    ledger.send_stop(run, attempt, event.reason)


def forget(ledger: Ledger, event: e.Forgotten, now: Now) -> None:
    """Remove a proplet that is neither alive nor busy."""
    proplet = ledger.proplets.get(event.proplet_id)
    if proplet is None:
        raise NotFound(f"proplet {event.proplet_id} is not registered", code="unknown_proplet")
    held = ledger.roster.held(proplet.id)
    if held:
        raise Conflict(f"proplet {proplet.id} has {len(held)} live task(s), {held[0]} among them")
    if proplet.alive(now.mono_s):
        raise Conflict(f"proplet {proplet.id} is alive and would register again; stop it first")
    ledger.roster.drop(proplet.id)
    ledger.out.append(e.DropProplet(proplet_id=proplet.id))
