"""What happens after an attempt ends badly: restart, reschedule or give up. Pure."""

from dataclasses import dataclass

from propeller import limits
from propeller.core.run import AttemptState, Run
from propeller.core.task import Task


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to try again; `same_proplet` for tasks whose data does not move."""

    again: bool
    same_proplet: bool = False


def after(task: Task, run: Run) -> Verdict:
    """Decide from the latest attempt's end.

    A guest that failed by itself would fail again: the run fails. A lost attempt (its proplet vanished, or
    it never answered) is tried again up to `limits.ATTEMPTS_MAX`: elsewhere, except federated tasks and
    those that name a proplet, which wait for the same one.
    """
    last = run.attempt
    if last is None or last.state is not AttemptState.LOST or len(run.attempts) >= limits.ATTEMPTS_MAX:
        return Verdict(again=False)
    return Verdict(again=True, same_proplet=task.federated or bool(task.proplet_id))
