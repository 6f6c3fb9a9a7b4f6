"""What is kept of the past, as it is shown: events of tasks, and measurements as any proplet sends them.

Three kinds of senders write a moment in three ways: RFC 3339 text, an object with `secs_since_epoch` and
`nanos_since_epoch`, or milliseconds since the device was switched on, which say nothing to others. A moment
that cannot be read is the moment at which the message came; a number that is missing is 0.
"""

from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from propeller.wire.tasks import rfc3339

_EARLIEST_S = 1_000_000_000.0
"""A number below it (September 2001) counts from a device's start, not from 1970."""
_LATEST_S = 100_000_000_000.0
"""A number above it is in milliseconds."""


class EventView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a task's history."""

    time: str
    event: str
    run: int = 0
    state: str = ""
    attempt: int = 0
    attempt_state: str = ""
    proplet_id: str = ""
    reason: str = ""
    cause: str = ""


class EventPage(Struct, frozen=True, kw_only=True):
    """`GET /tasks/{id}/events`: oldest first."""

    offset: int
    limit: int
    total: int
    events: list[EventView]


class Cpu(Struct, frozen=True, kw_only=True):
    """Processor time of a proplet."""

    user_seconds: float = 0.0
    system_seconds: float = 0.0
    percent: float = 0.0


class Memory(Struct, frozen=True, kw_only=True):
    """Memory of a proplet; the last four are shown where they were sent."""

    rss_bytes: float = 0
    heap_alloc_bytes: float = 0
    heap_sys_bytes: float = 0
    heap_inuse_bytes: float = 0
    container_usage_bytes: float | UnsetType | None = UNSET
    container_limit_bytes: float | UnsetType | None = UNSET
    heap_free_bytes: float | UnsetType | None = UNSET
    heap_max_alloc_bytes: float | UnsetType | None = UNSET


class Guest(Struct, frozen=True, kw_only=True):
    """What one task uses."""

    cpu_percent: float = 0.0
    memory_bytes: float = 0
    memory_percent: float = 0.0
    disk_read_bytes: float = 0
    disk_write_bytes: float = 0
    uptime_seconds: float = 0
    thread_count: float = 0
    file_descriptor_count: float | UnsetType | None = UNSET


class Aggregated(Struct, frozen=True, kw_only=True):
    """Over all samples so far."""

    avg_cpu_usage: float = 0.0
    max_cpu_usage: float = 0.0
    avg_memory_usage: float = 0
    max_memory_usage: float = 0
    total_disk_read: float = 0
    total_disk_write: float = 0
    sample_count: float = 0


class PropletMeasure(Struct, frozen=True, kw_only=True):
    """`metrics`, as sent."""

    proplet_id: str | None = None
    namespace: str | None = None
    timestamp: Any = None
    cpu_metrics: Cpu | None = None
    memory_metrics: Memory | None = None


class TaskMeasure(Struct, frozen=True, kw_only=True):
    """`task_metrics`, as sent."""

    task_id: str
    proplet_id: str | None = None
    timestamp: Any = None
    metrics: Guest | None = None
    aggregated: Aggregated | None = None


class MetricsPage(Struct, frozen=True, kw_only=True):
    """`GET /proplets/{id}/metrics` and `GET /tasks/{id}/metrics`, newest first."""

    offset: int
    limit: int
    total: int
    metrics: list[msgspec.Raw]


def shown_proplet(said: PropletMeasure, proplet_id: str, now_s: float) -> bytes:
    """A proplet's measurement as it is shown; `proplet_id` is who it is known to come from."""
    return msgspec.json.encode(
        {
            "proplet_id": proplet_id,
            "namespace": said.namespace or "",
            "timestamp": moment(said.timestamp, now_s),
            "cpu_metrics": said.cpu_metrics or Cpu(),
            "memory_metrics": _whole(said.memory_metrics or Memory()),
        }
    )


def shown_task(said: TaskMeasure, proplet_id: str, now_s: float) -> bytes:
    """A task's measurement as it is shown."""
    shown: dict[str, Any] = {
        "task_id": said.task_id,
        "proplet_id": proplet_id,
        "metrics": _whole(said.metrics or Guest()),
        "timestamp": moment(said.timestamp, now_s),
    }
    if said.aggregated is not None:
        shown["aggregated"] = _whole(said.aggregated)
    return msgspec.json.encode(shown)


def moment(said: Any, now_s: float) -> str:
    """A moment of a message as RFC 3339; `now_s` where it cannot be read."""
    if isinstance(said, str):
        try:
            return rfc3339(datetime.fromisoformat(said).timestamp())
        except (ValueError, OverflowError, OSError):
            return rfc3339(now_s)
    if isinstance(said, dict):
        seconds, nanos = said.get("secs_since_epoch"), said.get("nanos_since_epoch", 0)
        said = seconds + nanos / 1e9 if _is_number(seconds) and _is_number(nanos) else None
    if not _is_number(said):
        return rfc3339(now_s)
    at_s = said / 1000.0 if said > _LATEST_S else float(said)
    return rfc3339(at_s if _EARLIEST_S <= at_s < _LATEST_S else now_s)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(measured: Struct) -> dict[str, Any]:
    """Counts travel as numbers of either kind; what is whole is shown whole, what is null is left out."""
    shown = msgspec.to_builtins(measured)
    return {
        name: int(value) if name.endswith(("_bytes", "_count")) or name in _COUNTS else value
        for name, value in shown.items()
        if value is not None
    }


_COUNTS = {
    "avg_memory_usage",
    "max_memory_usage",
    "total_disk_read",
    "total_disk_write",
    "uptime_seconds",
}
