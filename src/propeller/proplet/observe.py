"""Reads along with a guest while it runs: what it prints becomes its log, its process is measured.

The standard output of a training round is its update, so only its standard error is a log. Decides nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from propeller.ports import Clock, GuestJob
from propeller.proplet.job import is_federated
from propeller.proplet.logs import GuestLog, Send
from propeller.proplet.monitor import Monitor
from propeller.wire.messages import AttemptKey, Start


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """`send` takes a log's chunks; without a `monitor` nothing is measured."""

    clock: Clock
    send: Send
    monitor: Monitor | None

    @contextmanager
    def watching(self, key: AttemptKey, start: Start, job: GuestJob) -> Iterator[GuestJob]:
        """The job as it must be run to be observed; what was printed last goes out at the end."""
        log = GuestLog(
            key,
            clock=self.clock,
            send=self.send,
            streams=("stderr",) if is_federated(start) else ("stdout", "stderr"),
        )

        def begun(pid: int) -> None:
            if self.monitor is not None:
                every_s = start.metrics_s if isinstance(start.metrics_s, float | int) else 0.0
                self.monitor.watch(key, pid, daemon=start.daemon, every_s=every_s)

        try:
            yield replace(job, on_output=log.take, on_worker=begun)
        finally:
            log.close()
            if self.monitor is not None:
                self.monitor.unwatch(key)
