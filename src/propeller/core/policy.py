"""What happens after an attempt ends badly: again on the same proplet, again elsewhere, or never. Pure.

    the guest failed      `restart` times on the same proplet, then `reschedule` times elsewhere (default: 0)
    the attempt was lost  `reschedule` times wherever there is room; by default twice

A failure that says that it would always fail so is never tried again. Work that stays where its data is, or
that names its proplet, waits for that proplet instead of going elsewhere.
"""

from dataclasses import dataclass
from zlib import crc32

from propeller.core.retry import DAEMON, LOST, Retry
from propeller.core.run import AttemptState, Run
from propeller.core.task import Task

_HOPELESS = frozenset(
    {
        "configuration",
        "denied",
        "invalid_module",
        "invalid_update",
        "parent_results",
        "update_refused",
    }
)
"""Failures that no further attempt can mend."""


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt after `pause_s`: on the same proplet, or on any (which may be it) or another one."""

    pause_s: float
    where: str


def again(task: Task, run: Run, luck: float) -> Again | None:
    """Whether and how the run goes on after its latest attempt; None if it fails.

    `luck`, from 0 to 1, is drawn once per event; it is mixed with the task, so that tasks that failed
    together do not come back together.
    """
    last = run.attempt
    mixed = (luck + crc32(task.id.encode()) / 2**32) % 1.0
    if last is None:
        return None
    if last.state is AttemptState.LOST:
        retry = task.reschedule or LOST
        return _after(retry, run.losses, "anywhere", mixed)
    if last.state is not AttemptState.FAILED or last.failure in _HOPELESS:
        return None
    restart = task.restart or (DAEMON if task.daemon else Retry())
    if run.failures <= restart.attempts:
        return _after(restart, run.failures, "same", mixed)
    if task.reschedule is None or task.stays:
        return None
    return _after(task.reschedule, run.failures - restart.attempts, "another", mixed)


def _after(retry: Retry, count: int, where: str, luck: float) -> Again | None:
    if count > retry.attempts:
        return None
    return Again(retry.pause_s(count - 1, luck), where)
