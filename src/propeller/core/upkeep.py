"""Looks at services of which something has changed, or whose time has come, and does what they need. Pure.

`core.reconcile` says what that is. Here replicas become tasks and runs: what was seen is gathered from the
ledger, a plan's stops and starts go there. It is level-triggered: whatever happened, the next look mends it.
"""

from dataclasses import replace

from propeller import limits
from propeller.core import events as e
from propeller.core import requests
from propeller.core.broadcast import member_id
from propeller.core.ledger import FOREVER, Ledger, Now, Standing
from propeller.core.placement import why_waiting
from propeller.core.reconcile import Circumstances, Plan, Seen, decide
from propeller.core.retry import DAEMON
from propeller.core.run import AttemptState, Run, RunState
from propeller.core.service import Phase, Turn
from propeller.core.serving import keep, leaving, ready, refuse, tell, unpinned
from propeller.core.task import REPLICA, Task

_TURNS_MAX = 4
"""Turns of one look: going back and being back, at most, and some to spare."""


def upkeep(ledger: Ledger, now: Now, cause: str) -> None:
    """Look at every service that may need something."""
    timely = ledger.look_mono_s <= now.mono_s
    if not (timely or ledger.restless or ledger.ended_replicas):
        return
    _take_in_ended(ledger, now, cause)
    names, ledger.restless = ledger.restless, {}
    if timely:
        names |= {name: None for name, one in ledger.standing.items() if one.due_mono_s <= now.mono_s}
    for name in names:
        standing = ledger.standing.get(name)
        if standing is not None:
            _look(ledger, standing, now, cause)
    ledger.look_mono_s = min((one.due_mono_s for one in ledger.standing.values()), default=FOREVER)


def _take_in_ended(ledger: Ledger, now: Now, cause: str) -> None:
    ended, ledger.ended_replicas = ledger.ended_replicas, []
    for task, run in ended:
        standing = ledger.standing[task.part_of]
        del standing.replicas[task.id]
        standing.ready_since.pop(task.id, None)
        if run.state is not RunState.INTERRUPTED:
            _blame(ledger, standing, task, run, now, cause)


def _blame(ledger: Ledger, standing: Standing, task: Task, run: Run, now: Now, cause: str) -> None:
    """A replica ended by itself: the new revision is no good, or the next one waits a while."""
    why = f"{task.id} ended: {run.reason or run.failure or 'it returned'}"[: limits.REASON_CHARS_MAX]
    if standing.service.phase is Phase.ROLLING and task.revision == standing.service.target.number:
        standing.broken = standing.broken or why
        return
    standing.ended += 1
    standing.pause_until_mono_s = now.mono_s + DAEMON.pause_s(standing.ended - 1, now.luck)
    tell(ledger, standing, why, cause)


def _look(ledger: Ledger, standing: Standing, now: Now, cause: str) -> None:
    if standing.run.state is RunState.STOPPING:
        _wind_up(ledger, standing, now, cause)
        return
    if standing.broken and _never_was(ledger, standing):
        _fail(ledger, standing, now, cause)
        return
    seen = _seen(ledger, standing, now)
    for _ in range(_TURNS_MAX):
        plan = decide(standing.service, standing.task.rollout, seen, _circumstances(ledger, standing, now))
        if plan.turn is None:
            break
        _turn(ledger, standing, plan, now, cause)
    _act(ledger, standing, plan, now, cause)
    _ask(ledger, standing, now)
    standing.due_mono_s = _due(ledger, standing, now)


def _wind_up(ledger: Ledger, standing: Standing, now: Now, cause: str) -> None:
    """Stop what still goes on of a service that is stopped, and end it with the last replica."""
    reason = standing.run.reason
    for name in list(standing.replicas):
        if not leaving(ledger.runs[name]):
            requests.stop(ledger, e.StopRequested(task_id=name, reason=reason, cause=cause), now)
    _take_in_ended(ledger, now, cause)
    standing.due_mono_s = FOREVER
    if not standing.replicas:
        _end(ledger, standing, RunState.INTERRUPTED, reason, "stopped", now, cause)


def _never_was(ledger: Ledger, standing: Standing) -> bool:
    """Whether nothing of it ever ran, for want of an image."""
    steady = standing.service.phase is Phase.STEADY
    return steady and not standing.replicas and unpinned(ledger, standing)


def _fail(ledger: Ledger, standing: Standing, now: Now, cause: str) -> None:
    """End a service that never had an image."""
    _end(ledger, standing, RunState.FAILED, standing.broken, "image", now, cause)


def _end(
    ledger: Ledger, standing: Standing, state: RunState, reason: str, failure: str, now: Now, cause: str
) -> None:
    standing.run = standing.run.to(state, failure=failure, ended_at_s=now.wall_s)
    tell(ledger, standing, reason, cause)
    del ledger.standing[standing.task.id]


def _seen(ledger: Ledger, standing: Standing, now: Now) -> list[Seen]:
    """What the ledger knows of the replicas; notes since when each is ready."""
    seen = []
    for name in standing.replicas:
        run = ledger.runs[name]
        seen.append(_one_seen(ledger, standing, run, now))
    healthy = [one for one in seen if one.healthy]
    if any(one.revision == standing.service.stable.number for one in healthy):
        standing.ended = 0
    fresh = sum(one.revision == standing.service.target.number for one in healthy)
    if fresh > standing.healthy_most:
        standing.healthy_most, standing.progress_mono_s = fresh, now.mono_s
    return seen


def _one_seen(ledger: Ledger, standing: Standing, run: Run, now: Now) -> Seen:
    attempt, since = run.live_attempt, standing.ready_since
    if attempt is None or not ready(ledger, run, now):
        since.pop(run.task_id, None)
    elif since.get(run.task_id, (0, 0.0))[0] != attempt.number:
        since[run.task_id] = (attempt.number, now.mono_s)
    began = since.get(run.task_id)
    return Seen(
        id=run.task_id,
        revision=ledger.tasks[run.task_id].revision,
        proplet_id=attempt.proplet_id if attempt else "",
        healthy=began is not None and now.mono_s >= began[1] + standing.task.rollout.healthy_s,
        stopping=leaving(run),
        failures=run.failures,
        says=_says(ledger, run, now),
    )


def _says(ledger: Ledger, run: Run, now: Now) -> str:
    failed = [one for one in run.attempts if one.state is AttemptState.FAILED]
    if failed:
        return failed[-1].error or failed[-1].failure or "it failed"
    if run.state is RunState.WAITING:
        return f"waits: {why_waiting(ledger, run, now.mono_s)}"
    return run.reason or f"is {run.state}"


def _circumstances(ledger: Ledger, standing: Standing, now: Now) -> Circumstances:
    known = not unpinned(ledger, standing)
    late = now.mono_s >= standing.progress_mono_s + standing.task.rollout.deadline_s
    broken = standing.broken
    if not known and late:
        broken = broken or standing.says or "its registry did not say what its image is"
    return Circumstances(
        pinned=known,
        may_start=now.mono_s >= standing.pause_until_mono_s
        and (known or standing.service.phase is not Phase.STEADY),
        late=late,
        broken=broken,
    )


def _turn(ledger: Ledger, standing: Standing, plan: Plan, now: Now, cause: str) -> None:
    service = standing.service
    match plan.turn:
        case Turn.REFUSED:
            refuse(ledger, standing, plan.why, now, cause)
        case Turn.PROVEN:
            tell(ledger, standing, f"revision {service.target.number} is in", cause)
            proven = service.turned(
                Turn.PROVEN, stable=service.target, previous=service.stable, outcome="proven", why=""
            )
            keep(ledger, standing, proven)
        case Turn.SETTLED:
            keep(ledger, standing, service.turned(Turn.SETTLED, target=service.stable))


def _act(ledger: Ledger, standing: Standing, plan: Plan, now: Now, cause: str) -> None:
    made_of = standing.service.made_of.number
    for name in plan.stop:
        old = ledger.tasks[name].revision != made_of
        reason = f"revision {made_of} takes its place" if old else "its service is scaled down"
        requests.stop(ledger, e.StopRequested(task_id=name, reason=reason, cause=cause), now)
    for number in plan.start:
        _start(ledger, standing, number, now, cause)


def _start(ledger: Ledger, standing: Standing, number: int, now: Now, cause: str) -> None:
    """Begin a run of the first replica that has none, made of that revision."""
    service = standing.service
    revision = service.target if number == service.target.number else service.stable
    at = 1
    while (name := member_id(service.task_id, f"{REPLICA}{at}")) in standing.replicas:
        at += 1
    task = replace(revision.task, id=name, part_of=service.task_id, revision=number)
    # Never below the service's own number, which a deleted service of this name leaves behind (`retired`).
    standing.numbers[name] = max(standing.numbers.get(name, 0) + 1, standing.run.number)
    standing.replicas[name] = None
    ledger.out.append(e.SaveTask(task=task))
    order = e.StartRequested(
        task=task, number=standing.numbers[name], image_digest=revision.digest, cause=cause
    )
    requests.start(ledger, order, now)


def _ask(ledger: Ledger, standing: Standing, now: Now) -> None:
    """Have it looked up what the image of the newest revision means, again and again."""
    if unpinned(ledger, standing) and now.mono_s >= standing.asked_mono_s + limits.IMAGE_PIN_S:
        standing.asked_mono_s = now.mono_s
        target = standing.service.target
        ledger.out.append(e.PinImage(task=target.task, run=standing.run.number, revision=target.number))


def _due(ledger: Ledger, standing: Standing, now: Now) -> float:
    """When the next look is due though nothing happens."""
    due = [FOREVER]
    if unpinned(ledger, standing):
        due.append(standing.asked_mono_s + limits.IMAGE_PIN_S)
    if standing.service.phase is not Phase.STEADY:
        due += [
            now.mono_s + limits.SERVICE_LOOK_S,
            standing.progress_mono_s + standing.task.rollout.deadline_s,
        ]
    if standing.ended:
        healthy_s = standing.task.rollout.healthy_s
        due += [since + healthy_s for _, since in standing.ready_since.values()]
    if standing.pause_until_mono_s > now.mono_s:
        due.append(standing.pause_until_mono_s)
    return min(at for at in due if at > now.mono_s)
