"""What happens after an attempt ends badly: again on the same proplet, again elsewhere, or never. Pure.

    the guest failed      `restart` times on the same proplet, then `reschedule` times elsewhere (default: 0)
    the attempt was lost  `reschedule` times wherever there is room; by default twice
    a daemon ended        as if it had failed, however it ended; by default it begins again for ever
    a service was lost    (daemons and latent tasks) by default it begins elsewhere, as often as it takes

A daemon that ran for longer than its longest pause counts anew: what fails once a day is not used up.
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
        retry = task.reschedule or (DAEMON if task.endless else LOST)
        return _after(retry, run.losses, "anywhere", mixed)
    ended = {AttemptState.FAILED, AttemptState.SUCCEEDED} if task.daemon else {AttemptState.FAILED}
    if last.state not in ended or last.failure in _HOPELESS:
        return None
    restart = _restart(task)
    if run.failures <= restart.attempts:
        return _after(restart, run.failures, "same", mixed)
    if task.reschedule is None or task.stays:
        return None
    return _after(task.reschedule, run.failures - restart.attempts, "another", mixed)


def failures(task: Task, run: Run) -> int:
    """How many failures count once the run's latest attempt has failed (or ended, for a daemon)."""
    last = run.attempt
    if task.daemon and last is not None and last.started_at_s:
        healthy = last.ended_at_s - last.started_at_s > _restart(task).delay_s_max
        return 1 if healthy else run.failures + 1
    return run.failures + 1


def _restart(task: Task) -> Retry:
    return task.restart or (DAEMON if task.daemon else Retry())


def _after(retry: Retry, count: int, where: str, luck: float) -> Again | None:
    if count > retry.attempts:
        return None
    return Again(retry.pause_s(count - 1, luck), where)
