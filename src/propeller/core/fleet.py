"""What proplets say of themselves, and the comparison of what they hold with what they should hold. Pure."""

from dataclasses import replace

from propeller import limits
from propeller.core import events as e
from propeller.core.deadlines import replace_lost
from propeller.core.ledger import Ledger, Now
from propeller.core.proplet import HISTORY_MAX, Proplet
from propeller.core.reports import progress
from propeller.core.run import Attempt, AttemptState, Lane, Run, RunState

_CROSSED_S = 1.0
"""A start younger than this may have crossed the heartbeat or the announcement that knows nothing of it."""
_DIRECTED = 2
"""The protocol number that asks for the directed lane."""


def announced(ledger: Ledger, event: e.Announced, now: Now) -> None:
    """Register a proplet, or note what it now says of itself; welcome it if it speaks protocol 2.

    Of one that is alive on the directed lane only its own word counts: on the shared topic anybody can give
    it a thousand slots.
    """
    known = ledger.proplets.get(event.proplet_id)
    if event.protocol < _DIRECTED and known and known.lane == "directed" and known.alive(now.mono_s):
        ledger.out.append(e.Ignored(why="downgrade", event=event))
        return
    if known is None and len(ledger.proplets) >= limits.PROPLETS_MAX:
        ledger.out.append(e.Ignored(why="too_many_proplets", event=event))
        return
    proplet = known or Proplet(id=event.proplet_id, name=event.name, registered_at_s=now.wall_s)
    lane: Lane = proplet.lane if event.protocol >= _DIRECTED else "legacy"
    proplet = replace(
        proplet,
        lane=lane,
        namespace=event.namespace,
        metadata=event.metadata,
        slots=max(1, event.slots),
    )
    if (
        proplet != known
        and known
        and not event.proven
        and known.lane == "directed"
        and known.alive(now.mono_s)
    ):
        ledger.out.append(e.Ignored(why="unproven", event=event))
    elif proplet != known:
        ledger.roster.put(proplet)
        ledger.out.append(e.SaveProplet(proplet=proplet))
    if event.protocol >= _DIRECTED:
        ledger.out.append(e.SendWelcome(proplet_id=proplet.id))
    else:
        _lost_by_restart(ledger, proplet, now, event.cause)


def _lost_by_restart(ledger: Ledger, proplet: Proplet, now: Now, cause: str) -> None:
    """The original's devices announce themselves once per process, and keep nothing over its end."""
    for run in ledger.on(proplet.id):
        attempt = run.live_attempt
        if attempt and attempt.lane == "legacy" and abs(now.wall_s - attempt.sent_at_s) >= _CROSSED_S:
            replace_lost(ledger, run, now, f"proplet {proplet.id} was restarted", cause)


def heard(ledger: Ledger, event: e.Heard, now: Now) -> None:
    """A heartbeat: the proplet is alive, on that lane, and holds what its inventory says."""
    proplet = ledger.proplets.get(event.proplet_id)
    if proplet and event.lane == "legacy" and proplet.lane == "directed":
        ledger.out.append(e.Ignored(why="legacy_from_directed", event=event))
        return
    known = proplet is not None
    if not known and len(ledger.proplets) >= limits.PROPLETS_MAX:
        ledger.out.append(e.Ignored(why="too_many_proplets", event=event))
        return
    proplet = proplet or Proplet(id=event.proplet_id, name=event.name, registered_at_s=now.wall_s)
    settled = known and proplet.lane == event.lane and proplet.boot == event.boot
    proplet = replace(
        proplet,
        lane=event.lane,
        boot=event.boot,
        last_alive_at_s=now.wall_s,
        alive_until_mono_s=now.mono_s + ledger.patience_s,
        lost_at_mono_s=now.mono_s + ledger.patience_s + limits.ATTEMPT_LOST_S,
        history=(*proplet.history[-(HISTORY_MAX - 1) :], now.wall_s),
    )
    ledger.roster.beat(proplet)
    if not settled:
        ledger.out.append(e.SaveProplet(proplet=proplet))
    if event.inventory is not None:
        _reconcile(ledger, event.proplet_id, event.inventory, now, event.cause)


def gone(ledger: Ledger, event: e.Gone, now: Now) -> None:
    """A farewell: offline at once, and its movable attempts have limited time to be heard of again."""
    proplet = ledger.proplets.get(event.proplet_id)
    if proplet is None or proplet.lane != event.lane:
        ledger.out.append(e.Ignored(why="not_a_proplet", event=event))
        return
    if not proplet.alive(now.mono_s):
        return
    lost_at = now.mono_s + limits.ATTEMPT_LOST_S
    ledger.roster.fade(replace(proplet, alive_until_mono_s=now.mono_s, lost_at_mono_s=lost_at))
    for run in ledger.on(proplet.id):
        ledger.arm(run)


def _reconcile(ledger: Ledger, proplet_id: str, inventory: tuple[e.Held, ...], now: Now, cause: str) -> None:
    held = {(item.task_id, item.run, item.attempt): item for item in inventory}
    for item in inventory:
        _compare(ledger, proplet_id, item, now, cause)
    for run in ledger.on(proplet_id):
        attempt = run.live_attempt
        if attempt and (run.task_id, run.number, attempt.number) not in held:
            _missing(ledger, run, attempt, now)


def _compare(ledger: Ledger, proplet_id: str, item: e.Held, now: Now, cause: str) -> None:
    run = ledger.runs.get(item.task_id)
    attempt = run.live_attempt if run else None
    wanted = (
        run is not None
        and attempt is not None
        and (run.number, attempt.number, attempt.proplet_id) == (item.run, item.attempt, proplet_id)
    )
    if not wanted:
        if item.state != "finished":
            ledger.out.append(_stop_unwanted(proplet_id, item))
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
    progress(ledger, run, attempt, report, now)  # type: ignore[arg-type]


def _missing(ledger: Ledger, run: Run, attempt: Attempt, now: Now) -> None:
    if run.state is RunState.STOPPING:
        return
    if attempt.state is AttemptState.SENT and abs(now.wall_s - attempt.sent_at_s) < _CROSSED_S:
        return
    ledger.out.append(e.SendStart(task=ledger.tasks[run.task_id], run=run))


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
