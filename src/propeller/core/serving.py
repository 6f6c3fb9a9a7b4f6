"""What is asked of services: start, stop, change, roll out, scale. Pure; `core.upkeep` does what follows.

A service's own run has no attempt: it runs from its start until it is stopped, and says what last happened.
Everything that one request changes, the definition too, is saved together.
"""

from dataclasses import replace

from propeller import limits
from propeller.core import broadcast, pinning
from propeller.core import events as e
from propeller.core.ledger import FOREVER, Ledger, Now, Standing
from propeller.core.run import AttemptState, Run, RunState
from propeller.core.scaling import advised, bounded, steadied
from propeller.core.service import (
    Phase,
    ReplicaState,
    Revision,
    Service,
    ServiceRecord,
    ServiceState,
    Turn,
    restored,
    template,
)
from propeller.errors import Bug, Conflict


def begin(ledger: Ledger, event: e.ServiceRequested, now: Now) -> None:
    """Start the service's run; its replicas follow when it is looked at."""
    task = event.task
    ledger.check_not_live(task.id)
    run = broadcast.whole_run(task.id, event.number, now, event.cause)
    standing = Standing(task=task, run=run, service=_begun(event), numbers=dict(event.numbers))
    ledger.standing[task.id] = standing
    _watch_anew(standing, now)
    ledger.restless[task.id] = None
    tell(ledger, standing, "", event.cause)
    keep(ledger, standing, standing.service)


def _begun(event: e.ServiceRequested) -> Service:
    """The service at the start of a run: one revision, which what its tag means now is part of."""
    task, before = event.task, event.before
    number = before.revisions + 1 if before else 1
    revision = Revision(number=number, task=template(task))
    previous = before.previous if before else None
    if before is not None and before.stable.task != revision.task:
        previous = before.stable
    return Service(
        task_id=task.id,
        wanted=task.replicas or 0,
        target=revision,
        stable=revision,
        previous=previous,
        revisions=number,
    )


def restore(ledger: Ledger, record: ServiceRecord, run: Run, now: Now) -> None:
    """Take in a service that runs. Its rollout gets its whole time anew: nobody's silence was the image's."""
    standing = Standing(task=record.task, run=run, service=record.service, numbers=dict(record.numbers))
    ledger.standing[run.task_id] = standing
    standing.replicas = dict.fromkeys(
        name for name, task in ledger.tasks.items() if task.replica and task.part_of == run.task_id
    )
    _watch_anew(standing, now)
    ledger.look_mono_s = now.mono_s


def stop(ledger: Ledger, event: e.StopRequested, now: Now) -> None:
    """Stop a task's live run; a service's by stopping all of its replicas."""
    standing = ledger.standing.get(event.task_id)
    if standing is None:
        broadcast.stop(ledger, event, now)
    elif standing.run.state is RunState.RUNNING:
        standing.run = standing.run.to(RunState.STOPPING)
        tell(ledger, standing, event.reason, event.cause)
        ledger.restless[event.task_id] = None


def redefine(ledger: Ledger, event: e.Redefined, now: Now) -> None:
    """Store the definition; what replicas are made of is rolled out if that has changed."""
    standing = ledger.standing.get(event.task.id)
    if standing is None:
        if ledger.live(event.task.id):
            raise Conflict(
                f"task {event.task.id} runs by itself; stop it to make it a service", code="already_started"
            )
        ledger.out.append(e.SaveTask(task=event.task))
        return
    if standing.task != event.before:
        raise Conflict(f"task {event.task.id} was changed meanwhile; ask again", code="changed")
    standing.task = event.task
    ledger.out.append(e.SaveTask(task=event.task))
    if standing.run.state is not RunState.RUNNING:
        return
    wanted = standing.service.wanted if event.wanted is None else event.wanted
    scaled(ledger, standing, bounded(event.task.scale, wanted), event.cause, now, cause=event.cause)
    _follow(ledger, standing, now, event.cause)
    ledger.restless[event.task.id] = None


def _follow(ledger: Ledger, standing: Standing, now: Now, cause: str) -> None:
    service, made_of = standing.service, template(standing.task)
    if made_of == service.made_of.task:
        return
    if service.phase is Phase.ROLLING and made_of == service.stable.task:
        refuse(ledger, standing, "its definition was changed back", now, cause)
    else:
        roll(ledger, standing, service.revised(made_of), now, cause)


def rollout(ledger: Ledger, event: e.RolloutRequested, now: Now) -> None:
    """Bring the revision before back, or new replicas of the same definition in."""
    standing = ledger.standing.get(event.task_id)
    if standing is None or standing.run.state is not RunState.RUNNING:
        raise Conflict(f"task {event.task_id} is no service that runs", code="not_running")
    service = standing.service
    if event.how == "restart":
        roll(ledger, standing, service.revised(service.made_of.task), now, event.cause)
    elif service.phase is Phase.ROLLING:
        refuse(ledger, standing, f"undone by {event.cause}", now, event.cause)
    elif service.phase is Phase.ROLLING_BACK or service.previous is None:
        raise Conflict(f"service {event.task_id} has no revision to go back to", code="no_revision")
    else:
        wanted = service.revised(service.previous.task, digest=service.previous.digest)
        standing.task = restored(standing.task, wanted, now.wall_s)
        ledger.out.append(e.SaveTask(task=standing.task))
        roll(ledger, standing, wanted, now, event.cause)
    ledger.restless[event.task_id] = None


def roll(ledger: Ledger, standing: Standing, revision: Revision, now: Now, cause: str) -> None:
    """Begin to bring that revision in."""
    service = standing.service.turned(
        Turn.REDEFINED, target=revision, revisions=revision.number, outcome="rolling", why=""
    )
    _watch_anew(standing, now)
    tell(ledger, standing, f"revision {revision.number} comes in", cause)
    keep(ledger, standing, service)


def refuse(ledger: Ledger, standing: Standing, why: str, now: Now, cause: str) -> None:
    """Go back to the stable revision, and have the definition say so."""
    service = standing.service
    standing.task = restored(standing.task, service.stable, now.wall_s)
    ledger.out.append(e.SaveTask(task=standing.task))
    told = f"revision {service.target.number} is rolled back to {service.stable.number}: {why}"
    _watch_anew(standing, now)
    tell(ledger, standing, told[: limits.REASON_CHARS_MAX], cause)
    keep(
        ledger,
        standing,
        service.turned(Turn.REFUSED, outcome="rolled_back", why=why[: limits.REASON_CHARS_MAX]),
    )


def measure(ledger: Ledger, event: e.Measured, now: Now) -> None:
    """Have as many replicas as the rule asks for."""
    standing = ledger.standing.get(event.task_id)
    rule = standing.task.scale if standing else None
    if standing is None or rule is None or standing.run.state is not RunState.RUNNING or not event.count:
        return
    wanted = standing.service.wanted
    advice = standing.advice
    advice.append((now.mono_s, advised(rule, wanted, event.total, event.count)))
    while advice and advice[0][0] < now.mono_s - rule.window_s:
        advice.popleft()
    value = event.total / event.count
    why = f"{value:.3g} {'calls' if rule.on == 'queue' else '% of a core'} per replica, for {rule.target:g}"
    scaled(ledger, standing, steadied(wanted, (asked for _, asked in advice)), why, now, cause=event.cause)
    ledger.restless[event.task_id] = None


def scaled(ledger: Ledger, standing: Standing, wanted: int, why: str, now: Now, *, cause: str) -> None:
    """Want so many replicas from now on."""
    before = standing.service.wanted
    if wanted != before:
        standing.advice.append((now.mono_s, wanted))
        tell(ledger, standing, f"scaled from {before} to {wanted}: {why}", cause)
        keep(ledger, standing, replace(standing.service, wanted=wanted))


def pinned(ledger: Ledger, event: e.ImagePinned, now: Now) -> None:
    """What the image of a run, or of a service's revision, means."""
    if not event.revision:
        pinning.pinned(ledger, event, now)
        return
    standing = _asking(ledger, event)
    if standing is None:
        return
    service, revision = standing.service, replace(standing.service.target, digest=event.digest)
    stable = revision if service.stable.number == revision.number else service.stable
    if standing.says:
        standing.says = ""
        tell(ledger, standing, "", event.cause)
    keep(ledger, standing, replace(service, target=revision, stable=stable))
    ledger.restless[event.task_id] = None


def not_pinned(ledger: Ledger, event: e.ImageNotPinned, now: Now) -> None:
    """A revision without an image is refused; a service that has no other ends."""
    if not event.revision:
        pinning.not_pinned(ledger, event, now)
        return
    standing = _asking(ledger, event)
    if standing is None:
        return
    if event.for_good:
        standing.broken = event.error
        ledger.restless[event.task_id] = None
    elif standing.says != event.error:
        standing.says = event.error
        tell(ledger, standing, event.error, event.cause)


def _asking(ledger: Ledger, event: e.ImagePinned | e.ImageNotPinned) -> Standing | None:
    standing = ledger.standing.get(event.task_id)
    if standing is None or standing.run.number != event.run:
        return None
    if standing.service.target.number != event.revision:
        return None
    return standing if unpinned(ledger, standing) else None


def unpinned(ledger: Ledger, standing: Standing) -> bool:
    """Whether it is not known yet what the image of its newest revision means."""
    target = standing.service.target
    return ledger.pins and target.task.tagged and not target.digest


def ready(ledger: Ledger, run: Run, now: Now) -> bool:
    """Whether a replica runs, on a proplet that is alive."""
    attempt = run.live_attempt
    return (
        run.state is RunState.RUNNING
        and attempt is not None
        and attempt.state is AttemptState.RUNNING
        and ledger.alive(attempt.proplet_id, now)
    )


def shown(ledger: Ledger, task_id: str, now: Now) -> ServiceState | None:
    """A running service as it stands; None for any other task."""
    standing = ledger.standing.get(task_id)
    if standing is None:
        return None
    replicas = [
        ReplicaState(
            task_id=name,
            revision=ledger.tasks[name].revision,
            run=ledger.runs[name],
            ready=ready(ledger, ledger.runs[name], now),
        )
        for name in standing.replicas
    ]
    return ServiceState(service=standing.service, replicas=tuple(replicas))


def validate(ledger: Ledger) -> None:
    """Raise `Bug` if a service and its replicas disagree; tests call it after every event."""
    live = {name for name, task in ledger.tasks.items() if task.replica}
    known = {name for standing in ledger.standing.values() for name in standing.replicas}
    if live != known:
        raise Bug(f"replicas {sorted(live ^ known)} are live without their service, or the other way round")
    for standing in ledger.standing.values():
        staying = [name for name in standing.replicas if not leaving(ledger.runs[name])]
        most = standing.service.wanted + standing.task.rollout.surge
        if len(staying) > most or (standing.run.state is RunState.STOPPING and staying):
            raise Bug(f"service {standing.task.id} has {len(staying)} replicas, and at most {most}")


def leaving(run: Run) -> bool:
    """Whether a replica is being stopped for good."""
    return run.state is RunState.STOPPING and not run.moving


def keep(ledger: Ledger, standing: Standing, service: Service) -> None:
    """Have what is remembered of a service stored."""
    standing.service = service
    ledger.out.append(e.SaveService(service=service))


def tell(ledger: Ledger, standing: Standing, what: str, cause: str) -> None:
    """Have the service's run say what happened last."""
    standing.run = replace(standing.run, reason=what)
    ledger.out.append(e.SaveRun(run=standing.run, cause=cause))


def _watch_anew(standing: Standing, now: Now) -> None:
    standing.healthy_most, standing.progress_mono_s = 0, now.mono_s
    standing.broken, standing.says, standing.asked_mono_s = "", "", -FOREVER
    standing.advice.append((now.mono_s, standing.service.wanted))
