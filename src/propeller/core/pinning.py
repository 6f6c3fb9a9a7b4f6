"""A tag is looked up once a run, before anybody gets the run, and every attempt has what it meant then. Pure.

Until then the run rests, and is asked for again every few seconds: a registry that is away is a reason to
wait, an image that is not there is the end. Knows no registries: `PinImage` goes out, a word comes back.
"""

from dataclasses import replace

from propeller import limits
from propeller.core import events as e
from propeller.core.ledger import FOREVER, Ledger, Now
from propeller.core.run import Run, RunState


def unpinned(ledger: Ledger, run: Run) -> bool:
    """Whether the run must not be given to anybody yet."""
    return ledger.pins and not run.image_digest and ledger.tasks[run.task_id].tagged


def ask(ledger: Ledger, run: Run, now: Now) -> Run:
    """The run with its next question armed; this one goes out."""
    ledger.out.append(e.PinImage(task=ledger.tasks[run.task_id], run=run.number))
    return replace(run, resend_mono_s=now.mono_s + limits.IMAGE_PIN_S)


def pinned(ledger: Ledger, event: e.ImagePinned, _now: Now) -> None:
    """Let the run be placed, with what its tag means from now on."""
    run = _waiting(ledger, event)
    if run is not None:
        run = replace(run, image_digest=event.digest, reason="", resend_mono_s=FOREVER)
        ledger.save(run, event.cause)


def not_pinned(ledger: Ledger, event: e.ImageNotPinned, now: Now) -> None:
    """End the run, or have it say what it waits for; the question goes out again in its own time."""
    run = _waiting(ledger, event)
    if run is None:
        return
    if event.for_good:
        ledger.end(run, RunState.FAILED, now, reason=event.error, failure="image", cause=event.cause)
    elif run.reason != event.error:
        ledger.save(replace(run, reason=event.error), event.cause)


def _waiting(ledger: Ledger, event: e.ImagePinned | e.ImageNotPinned) -> Run | None:
    run = ledger.runs.get(event.task_id)
    if run is None or run.number != event.run or run.state is not RunState.WAITING:
        return None
    return run if unpinned(ledger, run) else None
