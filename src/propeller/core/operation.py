"""What operators do with proplets: take them out of use, move their work away, call them names. Pure."""

from dataclasses import replace

from propeller import limits
from propeller.core import events as e
from propeller.core.ledger import Ledger, Now
from propeller.core.proplet import Proplet
from propeller.core.run import RunState
from propeller.errors import BadInput, NotFound


def cordon(ledger: Ledger, event: e.Cordoned, now: Now) -> None:
    """Take a proplet out of use, or back; draining stops what can run elsewhere, which then goes there.

    Work that stays where it is ends there in its own time.
    """
    proplet = _known(ledger, event.proplet_id)
    _changed(ledger, replace(proplet, cordoned=event.cordoned, draining=event.draining))
    if not event.draining or not proplet.alive(now.mono_s):
        return
    for run in ledger.on(proplet.id):
        attempt = run.live_attempt
        if attempt is None or run.state is RunState.STOPPING or ledger.tasks[run.task_id].stays:
            continue
        reason = f"proplet {proplet.id} is drained"
        run = run.to(  # noqa: PLW2901 - the run's next state
            RunState.STOPPING,
            reason=reason,
            moving=True,
            deadline_mono_s=now.mono_s + limits.STOP_GRACE_S,
            resend_mono_s=now.mono_s + limits.DISPATCH_RETRY_S,
        )
        ledger.save(run, event.cause)
        ledger.send_stop(run, attempt, reason)


def label(ledger: Ledger, event: e.Labelled, _now: Now) -> None:
    """Give a proplet these labels instead of those that it had; raises `BadInput` for unlawful ones."""
    if len(event.labels) > limits.LABELS_MAX:
        raise BadInput(f"{len(event.labels)} labels are too many; the limit is {limits.LABELS_MAX}")
    for name, value in event.labels.items():
        if not name or max(len(name), len(value)) > limits.LABEL_CHARS_MAX:
            raise BadInput(
                f"label {name[:80]!r} must have a name, and name and value at most "
                f"{limits.LABEL_CHARS_MAX} characters"
            )
    _changed(ledger, replace(_known(ledger, event.proplet_id), labels=dict(event.labels)))


def _known(ledger: Ledger, proplet_id: str) -> Proplet:
    proplet = ledger.proplets.get(proplet_id)
    if proplet is None:
        raise NotFound(f"proplet {proplet_id} is not registered", code="unknown_proplet")
    return proplet


def _changed(ledger: Ledger, proplet: Proplet) -> None:
    if proplet != ledger.proplets[proplet.id]:
        ledger.roster.put(proplet)
        ledger.out.append(e.SaveProplet(proplet=proplet))
