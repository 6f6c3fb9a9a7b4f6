"""A share of a processor core for each device, by the kernel's control groups.

Both generations of groups are used as they are found; nothing of them is left behind, and what a fleet that
was killed left behind is removed by the next. It must not know what a device is.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from os import getpid
from pathlib import Path
from typing import Final

from propeller.errors import EnvironmentError_

PERIOD_US: Final = 100_000
ROOT: Final = Path("/sys/fs/cgroup")
_NAME: Final = "propeller-fleet-"

Confine = Callable[[int, str], None]
"""Hold the process of this id to the share, under this name."""


def unlimited(pid: int, name: str) -> None:
    """Hold nobody to anything."""
    del pid, name


@contextlib.contextmanager
def limited(share: float) -> Iterator[Confine]:
    """Give processes `share` of one core each, for the life of the context; 0 gives them all there is.

    Raises `EnvironmentError_` where groups cannot be made.
    """
    if not share:
        yield unlimited
        return
    quota_us = max(1000, int(share * PERIOD_US))
    old = (ROOT / "cpu" / "cpu.cfs_quota_us").exists() or (ROOT / "cpu" / "cgroup.procs").exists()
    above = ROOT / "cpu" if old else ROOT
    _sweep(above)
    parent = above / f"{_NAME}{getpid()}"
    made: list[Path] = [parent]
    try:
        parent.mkdir()
        if not old:
            (ROOT / "cgroup.subtree_control").write_text("+cpu")
            (parent / "cgroup.subtree_control").write_text("+cpu")
    except OSError as error:
        _remove(made)
        raise EnvironmentError_(
            f"a share of a core needs a control group, and {parent}: {error.strerror}; run as root",
            code="no_cgroup",
        ) from error

    def confine(pid: int, name: str) -> None:
        group = parent / name
        if not group.exists():
            group.mkdir()
            made.append(group)
        if old:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))

    try:
        yield confine
    finally:
        _remove(made)


def _remove(groups: Sequence[Path]) -> None:
    for group in reversed(groups):
        with contextlib.suppress(OSError):
            group.rmdir()


def _sweep(above: Path) -> None:
    """Remove the groups of fleets whose process is no more; those that hold a process stay."""
    for parent in above.glob(f"{_NAME}*"):
        if not Path("/proc", parent.name.removeprefix(_NAME)).exists():
            _remove([parent, *(one for one in parent.iterdir() if one.is_dir())])
