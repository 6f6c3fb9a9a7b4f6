"""A broadcast: one run of a task on many proplets at once, on each by a member of its own. Pure.

A *member* is an ordinary task that names its proplet and is part of the broadcast: it waits, restarts, ends
and is stopped like any other, so that nothing else has to know of broadcasts. The broadcast's own run has no
attempt. It runs while a member does, takes in what each comes to under its proplet's name, and then is

    completed     if every member completed
    failed        if one did not, with who and why
    interrupted   if it was stopped

Its members are those whose proplet is in use, meets the task's constraints and is alive, or was so recently
that it may be on its way back. Who joins later is not part of a run that has begun.
"""

import json
from dataclasses import replace
from hashlib import sha256

from propeller import limits
from propeller.core import events as e
from propeller.core import requests
from propeller.core.constraints import unmet
from propeller.core.ledger import FOREVER, Ledger, Now, Whole
from propeller.core.proplet import Proplet
from propeller.core.run import Run, RunState
from propeller.core.task import Task
from propeller.errors import Conflict

_REASON_CHARS = 400
_DIGEST_CHARS = 16


def members(ledger: Ledger, task: Task, now: Now) -> tuple[Task, ...]:
    """A member for every proplet that a run which starts now reaches; none if there is none."""
    return tuple(
        member(task, proplet.id)
        for proplet in ledger.proplets.values()
        if proplet.open and _about(proplet, now) and unmet(proplet, task.constraints) is None
    )


def member(task: Task, proplet_id: str) -> Task:
    """The part of a broadcast that is one proplet's."""
    return replace(
        task,
        id=member_id(task.id, proplet_id),
        part_of=task.id,
        proplet_id=proplet_id,
        broadcast=False,
        workflow_id="",
        job_id="",
        schedule="",
        is_recurring=False,
        next_run_s=0.0,
        metadata={},
        constraints=(),
        affinities=(),
        placement="",
        reschedule=None,
    )


def member_id(task_id: str, proplet_id: str) -> str:
    """`{task}.{proplet}`, or as much of the task's id and a digest of both where that is too long."""
    plain = f"{task_id}.{proplet_id}"
    if len(plain) <= limits.ID_CHARS_MAX:
        return plain
    digest = sha256(plain.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{task_id[: limits.ID_CHARS_MAX - 1 - _DIGEST_CHARS]}.{digest}"


def begin(ledger: Ledger, event: e.BroadcastRequested, now: Now) -> None:
    """Start the broadcast's run and one of every member, all with the same number."""
    task = event.task
    for one in (task, *event.members):
        ledger.check_not_live(one.id)
    if not event.members:
        raise Conflict(f"no proplet is there for broadcast {task.id}", code="no_proplet")
    run = replace(whole_run(task.id, event.number, now, event.cause), answers=event.answers)
    whole = Whole(task=task, run=run, left=dict.fromkeys(one.id for one in event.members))
    ledger.wholes[task.id] = whole
    _save(ledger, whole, event.cause)
    for one in event.members:
        order = e.StartRequested(task=one, number=event.number, answers=event.answers, cause=event.cause)
        requests.start(ledger, order, now)


def whole_run(task_id: str, number: int, now: Now, cause: str) -> Run:
    """The run of what consists of other tasks: without an attempt, and without a deadline of its own."""
    return Run(
        task_id=task_id,
        number=number,
        state=RunState.RUNNING,
        created_at_s=now.wall_s,
        started_at_s=now.wall_s,
        give_up_mono_s=FOREVER,
        deadline_mono_s=FOREVER,
        cause=cause,
    )


def stop(ledger: Ledger, event: e.StopRequested, now: Now) -> None:
    """Stop a task's live run; a broadcast's by stopping every member that has not ended."""
    whole = ledger.wholes.get(event.task_id)
    if whole is None:
        requests.stop(ledger, event, now)
    elif whole.run.state is RunState.RUNNING:
        whole.run = whole.run.to(RunState.STOPPING, reason=event.reason)
        _save(ledger, whole, event.cause)
        for task_id in list(whole.left):
            requests.stop(ledger, replace(event, task_id=task_id), now)


def gather(ledger: Ledger, now: Now, cause: str) -> None:
    """Take in the members that ended in the event at hand; the last one ends its broadcast."""
    ended, ledger.ended_parts = ledger.ended_parts, []
    for task, run, results in ended:
        whole = ledger.wholes.get(task.part_of)
        if whole is not None and run.task_id in whole.left:
            del whole.left[run.task_id]
            _take_in(ledger, whole, task, run, results, cause)
            _end_if_over(ledger, whole, now, cause)
    hollow, ledger.hollow = ledger.hollow, []
    for whole in hollow:
        _end_if_over(ledger, whole, now, cause)


def restore(ledger: Ledger) -> None:
    """Count what is left of each broadcast after a restart; where that is nothing, the next event ends it."""
    for task_id, task in ledger.tasks.items():
        whole = ledger.wholes.get(task.part_of)
        if whole is not None:
            whole.left[task_id] = None
    ledger.hollow = [whole for whole in ledger.wholes.values() if not whole.left]


def _about(proplet: Proplet, now: Now) -> bool:
    """Whether it is alive, or silent for so short that its work would not be given up yet."""
    return proplet.alive(now.mono_s) or now.mono_s < proplet.lost_at_mono_s < FOREVER


def _take_in(ledger: Ledger, whole: Whole, task: Task, run: Run, results: bytes | None, cause: str) -> None:
    """Keep a member's results, or why there are none, under its proplet's name."""
    if run.state is RunState.COMPLETED:
        part = results or b"null"
    else:
        part = json.dumps({"error": run.reason, "failure": run.failure or "failed"}).encode()
        whole.run = replace(whole.run, failures=whole.run.failures + 1)
        if whole.run.state is RunState.RUNNING:
            told = [whole.run.reason, f"{task.proplet_id}: {run.failure or run.reason}"]
            whole.run = replace(whole.run, reason=", ".join(filter(None, told))[:_REASON_CHARS])
    _save(ledger, whole, cause, results=part, part=task.proplet_id)


def _end_if_over(ledger: Ledger, whole: Whole, now: Now, cause: str) -> None:
    if whole.left:
        return
    del ledger.wholes[whole.task.id]
    state, failure = RunState.COMPLETED, ""
    if whole.run.state is RunState.STOPPING:
        state, failure = RunState.INTERRUPTED, "stopped"
    elif whole.run.failures:
        state, failure = RunState.FAILED, "members"
    whole.run = whole.run.to(state, failure=failure, ended_at_s=now.wall_s)
    _save(ledger, whole, cause)


def _save(ledger: Ledger, whole: Whole, cause: str, *, results: bytes | None = None, part: str = "") -> None:
    flow_id = whole.task.flow_id
    ledger.out.append(e.SaveRun(run=whole.run, flow_id=flow_id, results=results, part=part, cause=cause))
