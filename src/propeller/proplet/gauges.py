"""What the kernel says of this machine, this process and its guests' processes, by `/proc`. Sends nothing.

Every reading is total: what cannot be read is 0. A guest's figures are those of the process it runs in.
"""

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from propeller.wire.messages import CpuMetrics, GuestMetrics, MemoryMetrics

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = resource.getpagesize()
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReading:
    """One process at one moment; counters grow from its start. `cpu_s` are its processor seconds."""

    cpu_s: float
    memory_bytes: int
    read_bytes: int
    written_bytes: int
    threads: int
    descriptors: int


class Gauges(Protocol):
    """Reads the instruments of a device. Cheap enough for the event loop."""

    def host(self) -> tuple[CpuMetrics, MemoryMetrics]:
        """The machine and the proplet's own processes, since the last call where it is a rate."""
        ...

    def process(self, pid: int) -> ProcessReading | None:
        """A guest's process, or None if it is gone."""
        ...


class ProcGauges:
    """`Gauges` of Linux."""

    def __init__(self) -> None:
        self._busy = _machine_ticks()

    def host(self) -> tuple[CpuMetrics, MemoryMetrics]:
        """See `Gauges`. Processor time of ended workers counts to the proplet's."""
        before, self._busy = self._busy, _machine_ticks()
        total = self._busy[1] - before[1]
        percent = 100.0 * (self._busy[0] - before[0]) / total if total > 0 else 0.0
        own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = CpuMetrics(
            user_seconds=round(own.ru_utime + ended.ru_utime, 3),
            system_seconds=round(own.ru_stime + ended.ru_stime, 3),
            percent=round(min(max(percent, 0.0), 100.0), 2),
        )
        usage, limit = _number(_CGROUP / "memory.current"), _number(_CGROUP / "memory.max")
        rss = _fields(Path("/proc/self/statm"))
        memory = MemoryMetrics(
            rss_bytes=int(rss[1]) * _PAGE_BYTES if len(rss) > 1 else 0,
            container_usage_bytes=usage or None,
            container_limit_bytes=limit or None,
        )
        return cpu, memory

    def process(self, pid: int) -> ProcessReading | None:
        """See `Gauges`."""
        root = Path(f"/proc/{pid}")
        try:
            stat = (root / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        io = dict(zip(*[iter(_fields(root / "io"))] * 2, strict=False))
        try:
            descriptors = sum(1 for _ in (root / "fd").iterdir())
        except OSError:
            descriptors = 0
        return ProcessReading(
            cpu_s=(int(stat[11]) + int(stat[12])) / _TICKS_PER_S,
            memory_bytes=int(stat[21]) * _PAGE_BYTES,
            read_bytes=int(io.get("read_bytes:", 0)),
            written_bytes=int(io.get("write_bytes:", 0)),
            threads=int(stat[17]),
            descriptors=descriptors,
        )


def machine_memory_bytes() -> int:
    """The machine's memory, 0 if unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES
    except (OSError, ValueError):
        return 0


def guest_metrics(
    now: ProcessReading, before: ProcessReading, *, over_s: float, uptime_s: float, machine_bytes: int
) -> GuestMetrics:
    """The sample of a guest: rates between two readings `over_s` apart; its I/O since `before` it began."""
    percent = 100.0 * (now.cpu_s - before.cpu_s) / over_s if over_s > 0 else 0.0
    return GuestMetrics(
        cpu_percent=round(max(percent, 0.0), 2),
        memory_bytes=now.memory_bytes,
        memory_percent=round(100.0 * now.memory_bytes / machine_bytes, 2) if machine_bytes else 0.0,
        disk_read_bytes=now.read_bytes,
        disk_write_bytes=now.written_bytes,
        uptime_seconds=int(uptime_s),
        thread_count=now.threads,
        file_descriptor_count=now.descriptors,
    )


def _machine_ticks() -> tuple[int, int]:
    """(busy, all) ticks of all processors since boot; idle and waiting for disks are not busy."""
    fields = _fields(Path("/proc/stat"))
    ticks = [int(field) for field in fields[1:9]] if len(fields) > 9 else []  # noqa: PLR2004 - "cpu" and 8 counts
    return (sum(ticks) - ticks[3] - ticks[4], sum(ticks)) if ticks else (0, 0)


def _fields(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
