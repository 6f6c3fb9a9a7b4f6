"""Takes in measurements of proplets and tasks, and writes them down apart from everything that matters.

A measurement counts only from a proplet that is registered, on its own lane, and for a task that it holds; it
may be lost. So a flood of them costs one transaction a second at most, and none of anybody else's.
"""

import asyncio
from collections.abc import Callable

from propeller import limits
from propeller.core.engine import Engine
from propeller.core.ids import check_id
from propeller.errors import PropellerError
from propeller.ports import Clock
from propeller.stores.manager import ManagerStore, SaveMetric
from propeller.telemetry.logs import logger
from propeller.telemetry.metrics import RoleMetrics
from propeller.wire import codec
from propeller.wire.history import PropletMeasure, TaskMeasure, shown_proplet, shown_task
from propeller.wire.topics import ControlTopic


class Measures:
    """Holds what came since the last transaction; `run` writes until it is cancelled."""

    def __init__(
        self, *, store: ManagerStore, clock: Clock, engine: Callable[[], Engine], metrics: RoleMetrics
    ) -> None:
        self._store = store
        self._clock = clock
        self._engine = engine
        self._waiting: list[SaveMetric] = []
        self.cpu_percent: dict[str, tuple[float, float]] = {}
        """The latest processor time of each live replica of a service, and when it came (monotonic)."""
        self._dropped = metrics.counter(
            "propeller_manager_measurements_dropped", "Measurements not kept", ["why"]
        )

    def proplet(self, topic: ControlTopic, payload: bytes) -> None:
        """One message of `metrics`. Raises `DecodeError` for what is none."""
        said = codec.decode(PropletMeasure, payload, what="metrics", limit_bytes=limits.METRICS_BYTES_MAX)
        proplet_id = self._sender(topic, said.proplet_id)
        if proplet_id is not None:
            body = shown_proplet(said, proplet_id, self._clock.now().wall_s)
            self._keep(SaveMetric(kind="proplet", subject=proplet_id, body=body))

    def task(self, topic: ControlTopic, payload: bytes) -> None:
        """One message of `task_metrics`. Raises `DecodeError` for what is none."""
        said = codec.decode(TaskMeasure, payload, what="task metrics", limit_bytes=limits.METRICS_BYTES_MAX)
        proplet_id = self._sender(topic, said.proplet_id)
        run = self._engine().ledger.runs.get(check_id(said.task_id, "task_id"))
        if proplet_id is None:
            return
        if run is None or proplet_id not in {one.proplet_id for one in run.attempts if one.live}:
            self._dropped.labels("not_its_task").inc()
            return
        now = self._clock.now()
        if self._engine().ledger.tasks[said.task_id].replica and said.metrics is not None:
            percent = min(max(said.metrics.cpu_percent, 0.0), limits.CPU_PERCENT_MAX)
            self.cpu_percent[said.task_id] = (percent, now.mono_s)
        body = shown_task(said, proplet_id, now.wall_s)
        self._keep(SaveMetric(kind="task", subject=said.task_id, body=body))

    async def run(self) -> None:
        """Write what has come, at most once a second."""
        while True:
            await asyncio.sleep(limits.METRICS_FLUSH_S)
            if not self._waiting:
                continue
            batch, self._waiting = self._waiting, []
            try:
                await self._store.commit(batch)
            except PropellerError as error:
                self._dropped.labels("storage").inc(len(batch))
                logger().warning("measurements not kept", error=error.message)

    def _sender(self, topic: ControlTopic, claimed: str | None) -> str | None:
        """Who it is from: proven on a directed topic; on a shared one only a legacy proplet may be it."""
        proplet_id = topic.sender or claimed or ""
        proplet = self._engine().ledger.proplets.get(proplet_id)
        lane = "directed" if topic.sender else "legacy"
        if (
            proplet is None
            or proplet.lane != lane
            or (topic.sender and claimed not in {None, "", topic.sender})
        ):
            self._dropped.labels("not_a_proplet").inc()
            return None
        return proplet_id

    def _keep(self, measured: SaveMetric) -> None:
        if len(self._waiting) >= limits.METRICS_INBOX_MAX:
            self._dropped.labels("full").inc()
        else:
            self._waiting.append(measured)
