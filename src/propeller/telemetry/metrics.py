"""Prometheus metrics, one registry per role, because several roles live in one process and answer apart.

It must not know what is counted: rooms ask for a counter, a gauge or a histogram by name and keep it.
"""

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase

import propeller
from propeller import limits
from propeller.errors import Bug

CONTENT_TYPE = "text/plain; version=0.0.4"
"""What `RoleMetrics.render` returns, as a content type; the server adds the charset, as to all texts."""

LAG_SAMPLE_S = 0.1
"""Pause between two samples of the loop's lag."""
LAG_WINDOW_S = 10.0
"""The gauge shows the worst sample of the present and the last window, so that a scrape cannot miss it."""

SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

M = TypeVar("M", bound=MetricWrapperBase)


class RoleMetrics:
    """The metrics of one role. Asking again for a name returns the same metric."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.registry = CollectorRegistry()
        self._metrics: dict[str, MetricWrapperBase] = {}
        ProcessCollector(registry=self.registry)
        Info("propeller", "What this endpoint speaks for", registry=self.registry).info(
            {"role": role, "version": propeller.__version__}
        )

    def counter(self, name: str, about: str, labels: Sequence[str] = ()) -> Counter:
        """A count that only grows; `name` without the `_total` that the exposition adds."""
        return self._known(name, Counter) or self._keep(
            name, Counter(name, about, labels, registry=self.registry)
        )

    def gauge(self, name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
        """A value that goes up and down; unit last in the name."""
        return self._known(name, Gauge) or self._keep(
            name, Gauge(name, about, labels, registry=self.registry)
        )

    def histogram(
        self, name: str, about: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = SECONDS_BUCKETS
    ) -> Histogram:
        """A distribution; the default buckets are seconds of requests and rounds."""
        return self._known(name, Histogram) or self._keep(
            name, Histogram(name, about, labels, buckets=buckets, registry=self.registry)
        )

    def render(self) -> bytes:
        """All metrics of this role in the Prometheus text format."""
        return generate_latest(self.registry)

    def _known(self, name: str, kind: type[M]) -> M | None:
        metric = self._metrics.get(name)
        if metric is None:
            return None
        if not isinstance(metric, kind):
            raise Bug(
                f"metric {name} of {self.role} is already a {type(metric).__name__}, not a {kind.__name__}"
            )
        return metric

    def _keep(self, name: str, metric: M) -> M:
        self._metrics[name] = metric
        return metric


async def watch_loop_lag(*roles: RoleMetrics) -> None:
    """Until cancelled, show in each role's `propeller_event_loop_lag_seconds` how late this loop runs.

    The value is the worst lag of the last ten to twenty seconds; over `limits.EVENT_LOOP_LAG_S_MAX` is a
    defect. One watcher serves every role of a loop.
    """
    gauges = [
        role.gauge(
            "propeller_event_loop_lag_seconds",
            f"Worst recent lateness of the event loop; over {limits.EVENT_LOOP_LAG_S_MAX} is a defect",
        )
        for role in roles
    ]
    loop = asyncio.get_running_loop()
    before, worst, window_ends = 0.0, 0.0, loop.time() + LAG_WINDOW_S
    while True:
        due = loop.time() + LAG_SAMPLE_S
        await asyncio.sleep(LAG_SAMPLE_S)
        worst = max(worst, loop.time() - due)
        for gauge in gauges:
            gauge.set(max(before, worst))
        if due > window_ends:
            before, worst, window_ends = worst, 0.0, due + LAG_WINDOW_S
