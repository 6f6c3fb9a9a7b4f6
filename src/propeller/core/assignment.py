"""Gives waiting runs to proplets, the most urgent and oldest first. Pure; `placement` says who may."""

from dataclasses import replace

from propeller import limits
from propeller.core import events as e
from propeller.core.ledger import FOREVER, Ledger, Now
from propeller.core.placement import choose
from propeller.core.run import Attempt, AttemptState, Run, RunState
from propeller.core.task import Task


def place(ledger: Ledger, now: Now, cause: str) -> None:
    """Assign every waiting run that some proplet can take now; give the others a visible reason."""
    waiting = [run for run in ledger.runs.values() if run.state is RunState.WAITING]
    if not waiting:
        return
    busy = ledger.busy()
    waiting.sort(key=lambda run: (-ledger.tasks[run.task_id].priority, run.created_at_s))
    for run in waiting:
        task = ledger.tasks[run.task_id]
        choice = choose(
            task, ledger.proplets, ledger.order, busy, cursor=ledger.cursor, now_mono_s=now.mono_s
        )
        if choice.proplet_id is not None:
            busy[choice.proplet_id] = busy.get(choice.proplet_id, 0) + 1
            _assign(ledger, run, task, choice.proplet_id, now, cause)
        elif choice.reason != run.reason:
            ledger.save(replace(run, reason=choice.reason), cause)


def _assign(ledger: Ledger, run: Run, task: Task, proplet_id: str, now: Now, cause: str) -> None:
    ledger.cursor = ledger.order.index(proplet_id)
    lane = ledger.proplets[proplet_id].lane
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
