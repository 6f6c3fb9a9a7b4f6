"""Which proplet a choosy run gets, and why a run waits, in words for people. Pure."""

from collections.abc import Iterable

from propeller.core.constraints import score, unmet
from propeller.core.ledger import Ledger
from propeller.core.pinning import unpinned
from propeller.core.run import Run


def why_waiting(ledger: Ledger, run: Run, mono_s: float) -> str:
    """What the waiting run waits for now: its own proplet, or any."""
    if run.task_id in ledger.resting:
        if unpinned(ledger, run):
            return run.reason or "its image is looked up"
        left_s = max(0.0, run.resend_mono_s - mono_s)
        return f"{run.reason}; tries again in {left_s:.0f} s"
    home = ledger.home(run)
    constraints = ledger.tasks[run.task_id].constraints
    if not home and constraints:
        able = [one for one in ledger.proplets.values() if unmet(one, constraints) is None]
        if not able:
            return f"no registered proplet meets {' and '.join(map(str, constraints))}"[:500]
        return f"all {len(able)} proplets that meet its constraints are busy, cordoned or offline"
    return _why_not(ledger, home, mono_s) if home else _why_none(ledger, mono_s)


def _why_not(ledger: Ledger, proplet_id: str, mono_s: float) -> str:
    proplet = ledger.proplets.get(proplet_id)
    if proplet is None:
        return f"proplet {proplet_id} is not registered"
    if not proplet.alive(mono_s):
        return f"proplet {proplet_id} is offline"
    if not proplet.open:
        return f"proplet {proplet_id} is {'drained' if proplet.draining else 'cordoned'}"
    return f"proplet {proplet_id} is busy with {ledger.roster.count(proplet_id)} task(s)"


def _why_none(ledger: Ledger, mono_s: float) -> str:
    if not ledger.proplets:
        return "no proplet has registered yet"
    alive = ledger.roster.alive_count(mono_s)
    closed = sum(not one.open for one in ledger.proplets.values() if one.alive(mono_s)) if alive else 0
    if closed:
        return f"all {alive} live proplets are busy or cordoned"
    return (
        f"all {alive} live proplets are busy" if alive else f"all {len(ledger.proplets)} proplets are offline"
    )


def pick(ledger: Ledger, run: Run, candidates: Iterable[str], mono_s: float) -> str | None:
    """The best of some proplets with room for a run that chooses, or None; among equals the first.

    A replica goes where fewest of its service are, whatever it prefers besides. The proplet that the run
    avoids is taken only where no other is alive.
    """
    task = ledger.tasks[run.task_id]
    alone = ledger.roster.alive_count(mono_s) <= 1
    best: tuple[int, float, int] | None = None
    chosen = None
    for proplet_id in candidates:
        proplet = ledger.proplets[proplet_id]
        if (proplet_id == run.avoids and not alone) or unmet(proplet, task.constraints) is not None:
            continue
        load = ledger.roster.count(proplet_id) if task.placement == "least_loaded" else 0
        crowd = ledger.siblings(task, proplet_id) if task.replica else 0
        rank = (-crowd, score(proplet, task.affinities), -load)
        if best is None or rank > best:
            best, chosen = rank, proplet_id
    return chosen
