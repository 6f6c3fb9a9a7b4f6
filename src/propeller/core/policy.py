"""What happens after an attempt ends badly: another attempt, or the end of the run. Pure."""

from propeller import limits
from propeller.core.run import AttemptState, Run


def tries_again(run: Run) -> bool:
    """Whether the run gets another attempt, from its latest one's end.

    A guest that failed by itself would fail again: the run fails. A lost attempt (its proplet vanished, or
    it never answered) is tried again up to `limits.ATTEMPTS_MAX`: elsewhere, except work with a home
    (`Ledger.home`), which waits for the same proplet.
    """
    last = run.attempt
    return last is not None and last.state is AttemptState.LOST and len(run.attempts) < limits.ATTEMPTS_MAX
