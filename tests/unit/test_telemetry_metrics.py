import asyncio
import time

import pytest

from propeller.errors import Bug
from propeller.telemetry.metrics import RoleMetrics, watch_loop_lag


def test_roles_in_one_process_count_apart():
    """The same metric of two roles has two values, each in its own exposition."""
    manager, coordinator = RoleMetrics("manager"), RoleMetrics("coordinator")
    for role, times in ((manager, 1), (coordinator, 2)):
        role.counter("propeller_rounds", "Rounds", ["state"]).labels("completed").inc(times)
    assert b'propeller_rounds_total{state="completed"} 1.0' in manager.render()
    assert b'propeller_rounds_total{state="completed"} 2.0' in coordinator.render()
    assert b'role="coordinator"' in coordinator.render()


def test_asking_again_returns_the_same_metric():
    """Two rooms of a role that ask for one name share the metric."""
    metrics = RoleMetrics("manager")
    assert metrics.gauge("x_bytes", "X") is metrics.gauge("x_bytes", "X")
    assert metrics.histogram("y_seconds", "Y") is metrics.histogram("y_seconds", "Y")


def test_one_name_with_two_kinds_is_a_bug():
    """A name cannot be a gauge here and a counter there."""
    metrics = RoleMetrics("manager")
    metrics.gauge("x", "X")
    with pytest.raises(Bug, match="already a Gauge"):
        metrics.counter("x", "X")


async def test_a_blocked_loop_shows_as_lag():
    """Holding the loop for 0.3 s shows as at least 0.15 s of lag in every role of the loop."""
    roles = [RoleMetrics("a"), RoleMetrics("b")]
    watcher = asyncio.create_task(watch_loop_lag(*roles))
    await asyncio.sleep(0.01)
    time.sleep(0.3)  # noqa: ASYNC251 - blocking the loop is the point
    await asyncio.sleep(0.05)
    watcher.cancel()
    for role in roles:
        assert role.registry.get_sample_value("propeller_event_loop_lag_seconds") > 0.15
