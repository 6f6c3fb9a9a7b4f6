"""Measures a proplet and its guests at intervals and sends what it finds. Best effort: nothing is repeated.

Host metrics every `interval_s`; each guest at once and then every `TASK_S`, a daemon every `DAEMON_S`, or as
often as its start says.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from propeller.ports import Clock
from propeller.proplet.gauges import Gauges, ProcessReading, guest_metrics, machine_memory_bytes
from propeller.wire.messages import AggregatedMetrics, AttemptKey, GuestMetrics, HostMetrics, TaskMetrics

TASK_S = 10.0
DAEMON_S = 120.0
"""Intervals between the samples of a guest, as the original's profiles have them."""
FIRST_S = 0.1
"""A guest that is over by then was never worth a sample."""

Send = Callable[[HostMetrics | TaskMetrics], None]


@dataclass(slots=True)
class _Watched:
    """A guest under measurement; `first` is its process when it began, `last` at the latest sample."""

    pid: int
    every_s: float
    began_s: float
    due_s: float
    first: ProcessReading
    last: ProcessReading
    last_s: float
    seen: AggregatedMetrics = field(default_factory=AggregatedMetrics)


class Monitor:
    """The measurements of one proplet; `run` it beside the rest. `interval_s` 0: the host is not measured."""

    def __init__(
        self,
        proplet_id: str,
        namespace: str,
        gauges: Gauges,
        *,
        interval_s: float,
        clock: Clock,
        send: Send,
    ) -> None:
        self._proplet_id = proplet_id
        self._namespace = namespace
        self._gauges = gauges
        self._interval_s = interval_s
        self._clock = clock
        self._send = send
        self._machine_bytes = machine_memory_bytes()
        self._watched: dict[AttemptKey, _Watched] = {}
        self._wake = asyncio.Event()

    def watch(self, key: AttemptKey, pid: int, *, daemon: bool, every_s: float = 0.0) -> None:
        """Measure the attempt's guest, which begins now in process `pid`, until `unwatch`."""
        reading, now_s = self._gauges.process(pid), self._clock.now().mono_s
        if reading is None:
            return
        self._watched[key] = _Watched(
            pid=pid,
            every_s=max(every_s, FIRST_S) if every_s > 0 else DAEMON_S if daemon else TASK_S,
            began_s=now_s,
            due_s=now_s + FIRST_S,
            first=reading,
            last=reading,
            last_s=now_s,
        )
        self._wake.set()

    def unwatch(self, key: AttemptKey) -> None:
        """The guest has ended."""
        self._watched.pop(key, None)

    async def run(self) -> None:
        """Measure until cancelled."""
        host_due_s = self._clock.now().mono_s + self._interval_s if self._interval_s > 0 else float("inf")
        while True:
            now_s = self._clock.now().mono_s
            if host_due_s <= now_s:
                self._measure_host()
                host_due_s = now_s + self._interval_s
            for key, watched in tuple(self._watched.items()):
                if watched.due_s <= now_s:
                    self._measure(key, watched, now_s)
            due_s = min((host_due_s, *(watched.due_s for watched in self._watched.values())))
            self._wake.clear()
            try:
                async with asyncio.timeout(None if due_s == float("inf") else max(0.0, due_s - now_s)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _measure_host(self) -> None:
        cpu, memory = self._gauges.host()
        self._send(
            HostMetrics(
                proplet_id=self._proplet_id,
                namespace=self._namespace,
                timestamp=self._stamp(),
                cpu_metrics=cpu,
                memory_metrics=memory,
            )
        )

    def _measure(self, key: AttemptKey, watched: _Watched, now_s: float) -> None:
        reading = self._gauges.process(watched.pid)
        if reading is None:
            self.unwatch(key)
            return
        since = replace(
            reading,
            read_bytes=reading.read_bytes - watched.first.read_bytes,
            written_bytes=reading.written_bytes - watched.first.written_bytes,
        )
        sample = guest_metrics(
            since,
            watched.last,
            over_s=now_s - watched.last_s,
            uptime_s=now_s - watched.began_s,
            machine_bytes=self._machine_bytes,
        )
        watched.seen = _aggregated(watched.seen, sample)
        watched.last, watched.last_s, watched.due_s = reading, now_s, now_s + watched.every_s
        self._send(
            TaskMetrics(
                task_id=key.task_id,
                proplet_id=self._proplet_id,
                metrics=sample,
                aggregated=watched.seen,
                timestamp=self._stamp(),
                run=key.run,
                attempt=key.attempt,
            )
        )

    def _stamp(self) -> str:
        now = datetime.fromtimestamp(self._clock.now().wall_s, UTC)
        return now.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _aggregated(seen: AggregatedMetrics, sample: GuestMetrics) -> AggregatedMetrics:
    """All samples so far, this one included."""
    count = seen.sample_count + 1
    return AggregatedMetrics(
        avg_cpu_usage=round(seen.avg_cpu_usage + (sample.cpu_percent - seen.avg_cpu_usage) / count, 2),
        max_cpu_usage=max(seen.max_cpu_usage, sample.cpu_percent),
        avg_memory_usage=seen.avg_memory_usage + (sample.memory_bytes - seen.avg_memory_usage) // count,
        max_memory_usage=max(seen.max_memory_usage, sample.memory_bytes),
        total_disk_read=sample.disk_read_bytes,
        total_disk_write=sample.disk_write_bytes,
        sample_count=count,
    )
