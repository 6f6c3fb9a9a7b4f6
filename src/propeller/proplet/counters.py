"""What a proplet counts, and how Prometheus reads it. A few numbers: no library in a small process."""

import resource
import time
from dataclasses import dataclass, field
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(slots=True)
class Counters:
    """Counts since the process started; the shell adds to them."""

    started: int = 0
    completed: int = 0
    failed: int = 0
    running: int = 0
    connects: int = 0
    fetched_bytes: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    """Messages that nothing was done about, by reason."""
    spool_errors: int = 0

    def ignore(self, why: str) -> None:
        """Count one message ignored for `why`."""
        self.ignored[why] = self.ignored.get(why, 0) + 1


def render(counters: Counters, *, since_s: float) -> bytes:
    """All of it in the Prometheus text format; `since_s` is how long the process has run (seconds)."""
    lines = [
        *_lines("proplet_tasks_started_total", "counter", "Guests started", counters.started),
        *_lines("proplet_tasks_completed_total", "counter", "Attempts that ended well", counters.completed),
        *_lines("proplet_tasks_failed_total", "counter", "Attempts that ended badly", counters.failed),
        *_lines("proplet_tasks_running", "gauge", "Attempts being worked on", counters.running),
        *_lines(
            "proplet_mqtt_reconnects_total",
            "counter",
            "Connections made after the first",
            max(0, counters.connects - 1),
        ),
        *_lines(
            "proplet_wasm_fetch_bytes_total", "counter", "Bytes of modules fetched", counters.fetched_bytes
        ),
        *_lines("proplet_spool_errors_total", "counter", "Records not written", counters.spool_errors),
        "# HELP proplet_messages_ignored_total Messages that nothing was done about",
        "# TYPE proplet_messages_ignored_total counter",
        *(
            f'proplet_messages_ignored_total{{why="{why}"}} {count}'
            for why, count in sorted(counters.ignored.items())
        ),
        *_process(since_s),
    ]
    return ("\n".join(lines) + "\n").encode()


def _process(since_s: float) -> list[str]:
    """The process itself, its ended guests' workers included, and its container."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    user_s, system_s = own.ru_utime + children.ru_utime, own.ru_stime + children.ru_stime
    ratio = time.process_time() / max(since_s, 1e-3)
    return [
        *_lines("proplet_cpu_usage_ratio", "gauge", "CPU used since start, 1 is one core", round(ratio, 6)),
        *_lines("proplet_cpu_user_seconds", "gauge", "CPU time in user mode", round(user_s, 3)),
        *_lines("proplet_cpu_system_seconds", "gauge", "CPU time in the kernel", round(system_s, 3)),
        *_lines("proplet_memory_rss_bytes", "gauge", "Resident memory of the agent", _rss_bytes()),
        *_lines(
            "proplet_memory_container_usage_bytes",
            "gauge",
            "Memory of the container, 0 if unknown",
            _cgroup("memory.current"),
        ),
        *_lines(
            "proplet_memory_container_limit_bytes",
            "gauge",
            "Memory limit of the container, 0 if none or unknown",
            _cgroup("memory.max"),
        ),
    ]


def _lines(name: str, kind: str, about: str, value: float) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}", f"{name} {value}"]


def _rss_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


def _cgroup(name: str) -> int:
    try:
        return int((_CGROUP / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
