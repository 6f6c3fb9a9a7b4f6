"""Why a run waits, in words for people. Pure."""

from propeller.core.ledger import Ledger
from propeller.core.run import Run


def why_waiting(ledger: Ledger, run: Run, mono_s: float) -> str:
    """What the waiting run waits for now: its own proplet, or any."""
    home = ledger.home(run)
    return _why_not(ledger, home, mono_s) if home else _why_none(ledger, mono_s)


def _why_not(ledger: Ledger, proplet_id: str, mono_s: float) -> str:
    proplet = ledger.proplets.get(proplet_id)
    if proplet is None:
        return f"proplet {proplet_id} is not registered"
    if not proplet.alive(mono_s):
        return f"proplet {proplet_id} is offline"
    return f"proplet {proplet_id} is busy with {ledger.roster.count(proplet_id)} task(s)"


def _why_none(ledger: Ledger, mono_s: float) -> str:
    if not ledger.proplets:
        return "no proplet has registered yet"
    alive = ledger.roster.alive_count(mono_s)
    return (
        f"all {alive} live proplets are busy" if alive else f"all {len(ledger.proplets)} proplets are offline"
    )
