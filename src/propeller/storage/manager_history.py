"""The manager's flows, services, schedules, task histories and measurements in a database: half of its store.

It decides nothing about them. `manager_store` has the tasks and runs, and joins both halves into one class.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from propeller import limits
from propeller.core.events import SaveRun, SaveService
from propeller.core.flow import Flow
from propeller.core.retention import Keep
from propeller.core.run import RunState
from propeller.core.service import Service, ServiceRecord
from propeller.core.task import Task
from propeller.errors import Conflict
from propeller.ports import Instant
from propeller.storage.connection import Connection, Row, SqlDatabase
from propeller.storage.queries import Queries, of_many
from propeller.stores.manager import (
    DropFlow,
    FlowRecord,
    HistoryKind,
    MetricKind,
    SaveFlow,
    SaveMetric,
    SettleFlow,
    TaskEvent,
)
from propeller.wire import codec

_FLOWS = Queries.load("manager", "flows.sql")
_SERVICES = Queries.load("manager", "services.sql")
_HISTORY = Queries.load("manager", "history.sql")
_RETENTION = Queries.load("manager", "retention.sql")
_pack = msgspec.msgpack.Encoder().encode
_flow = msgspec.msgpack.Decoder(Flow).decode
_task = msgspec.msgpack.Decoder(Task).decode
_service = msgspec.msgpack.Decoder(Service).decode
_event = msgspec.msgpack.Decoder(TaskEvent).decode


class HistoryReads:
    """The reading half; see `stores.ManagerStore`."""

    _database: SqlDatabase

    async def flow(self, flow_id: str) -> FlowRecord | None:
        """See `stores.ManagerStore`."""
        row = await self._database.read(
            lambda connection: connection.execute(_FLOWS.select_flow, {"id": flow_id}).fetchone()
        )
        return None if row is None else _flow_record(row)

    async def jobs(self, *, offset: int, limit: int) -> tuple[int, list[FlowRecord]]:
        """See `stores.ManagerStore`."""

        def read(connection: Connection) -> tuple[int, list[FlowRecord]]:
            total = connection.execute(_FLOWS.count_jobs).fetchone()["total"]
            rows = connection.execute(_FLOWS.list_jobs, {"limit": limit, "offset": offset})
            return total, [_flow_record(row) for row in rows]

        return await self._database.read(read)

    async def open_flows(self) -> list[str]:
        """See `stores.ManagerStore`."""
        return await self._database.read(
            lambda connection: [row["id"] for row in connection.execute(_FLOWS.list_open_flows)]
        )

    async def services(self) -> list[ServiceRecord]:
        """See `stores.ManagerStore`."""

        def read(connection: Connection) -> list[ServiceRecord]:
            rows = connection.execute(_SERVICES.list_services).fetchall()
            return [_service_record(row, connection) for row in rows]

        return await self._database.read(read)

    async def service(self, task_id: str) -> ServiceRecord | None:
        """See `stores.ManagerStore`."""

        def read(connection: Connection) -> ServiceRecord | None:
            row = connection.execute(_SERVICES.select_service, {"task_id": task_id}).fetchone()
            return None if row is None else _service_record(row, connection)

        return await self._database.read(read)

    async def scheduled(self) -> list[Task]:
        """See `stores.ManagerStore`."""
        return await self._database.read(
            lambda connection: [_task(row["body"]) for row in connection.execute(_FLOWS.list_scheduled)]
        )

    async def results_of(self, task_id: str, run: int) -> bytes | None:
        """See `stores.ManagerStore`."""

        def read(connection: Connection) -> bytes | None:
            key = {"task_id": task_id, "run": run}
            row = connection.execute(_FLOWS.select_results, key).fetchone()
            return parts(connection, task_id, run) or (row["results"] if row else None)

        return await self._database.read(read)

    async def run_state(self, task_id: str, run: int) -> RunState | None:
        """See `stores.ManagerStore`."""
        key = {"task_id": task_id, "run": run}
        row = await self._database.read(
            lambda connection: connection.execute(_FLOWS.select_results, key).fetchone()
        )
        return None if row is None else RunState(row["state"])

    async def events(self, task_id: str, *, offset: int, limit: int) -> tuple[int, list[TaskEvent]]:
        """See `stores.ManagerStore`."""
        wanted = {"task_id": task_id, "offset": offset, "limit": limit}

        def read(connection: Connection) -> tuple[int, list[TaskEvent]]:
            total = connection.execute(_HISTORY.count_events, wanted).fetchone()["total"]
            return total, [_event(row["body"]) for row in connection.execute(_HISTORY.list_events, wanted)]

        return await self._database.read(read)

    async def expire(self, kind: HistoryKind, keep: Keep, now_s: float, *, dry: bool = False) -> int:
        """See `stores.ManagerStore`."""
        bounds = {"before": now_s - keep.max_age_s, "kept": keep.last}
        if dry:
            return await self._database.read(
                lambda connection: connection.execute(_RETENTION[f"count_{kind}"], bounds).fetchone()["total"]
            )
        total = 0
        while gone := await self._database.write(
            lambda connection: connection.execute(_RETENTION[f"delete_{kind}"], bounds).rowcount
        ):
            total += gone
        return total

    async def files(self) -> frozenset[str]:
        """See `stores.ManagerStore`."""
        rows = await self._database.read(
            lambda connection: connection.execute(_RETENTION.list_definitions).fetchall()
        )
        # Tasks first: what a redefinition takes out of one is in its service by then.
        tasks = [_task(row["body"]) for row in rows]
        tasks += [one.task for record in await self.services() for one in record.service.kept]
        return frozenset(task.file_sha256 for task in tasks if task.file_sha256)

    async def task_ids(self) -> frozenset[str]:
        """See `stores.ManagerStore`."""
        rows = await self._database.read(
            lambda connection: connection.execute(_RETENTION.list_task_ids).fetchall()
        )
        return frozenset(row["id"] for row in rows)

    async def metrics(
        self, kind: MetricKind, subject: str, *, offset: int, limit: int
    ) -> tuple[int, list[bytes]]:
        """See `stores.ManagerStore`."""
        wanted = {"kind": kind, "subject": subject, "offset": offset, "limit": limit}

        def read(connection: Connection) -> tuple[int, list[bytes]]:
            total = connection.execute(_HISTORY.count_metrics, wanted).fetchone()["total"]
            return total, [row["body"] for row in connection.execute(_HISTORY.list_metrics, wanted)]

        return await self._database.read(read)


def flow_taken(flow_id: str) -> Conflict:
    """The error for a new workflow or job whose id exists."""
    return Conflict(
        f"a workflow or job {flow_id} exists; choose another id, or leave it out", code="id_taken"
    )


def run_event(change: SaveRun, now: Instant) -> TaskEvent:
    """The line that a saved run adds to its task's history."""
    run = change.run
    attempt = run.attempt
    return TaskEvent(
        at_s=now.wall_s,
        kind="run",
        run=run.number,
        state=str(run.state),
        attempt=attempt.number if attempt else 0,
        attempt_state=str(attempt.state) if attempt else "",
        proplet_id=attempt.proplet_id if attempt else "",
        reason=run.reason,
        cause=change.cause,
    )


def joined_parts(found: Mapping[str, bytes]) -> bytes | None:
    """Results of a broadcast as one JSON object keyed by proplet, or None without any."""
    if not found:
        return None
    return b"{" + b",".join(codec.encode(name) + b":" + part for name, part in sorted(found.items())) + b"}"


def parts(connection: Connection, task_id: str, run: int) -> bytes | None:
    """What each proplet answered to that run, joined; None if it is no broadcast or nobody has answered."""
    rows = connection.execute(_HISTORY.list_parts, {"task_id": task_id, "run": run})
    return joined_parts({row["proplet_id"]: row["results"] for row in rows})


def note_created(connection: Connection, task_id: str, now: Instant) -> None:
    """Begin a new task's history."""
    event = TaskEvent(at_s=now.wall_s, kind="created", cause="user")
    connection.execute(*of_many(_HISTORY.insert_events, [_event_row(task_id, event)]))


def note_runs(connection: Connection, changes: Sequence[SaveRun], now: Instant) -> None:
    """What follows from saved runs, each of another task: flows to look at, and lines of histories."""
    for flow_id in {change.flow_id: None for change in changes if change.flow_id}:
        connection.execute(_FLOWS.touch_flow, {"id": flow_id})
    rows = [_event_row(change.run.task_id, run_event(change, now)) for change in changes]
    connection.execute(*of_many(_HISTORY.insert_events, rows))
    sql, tasks = of_many(_HISTORY.prune_events, [{"task_id": row["task_id"]} for row in rows])
    connection.execute(sql, {**tasks, "kept": limits.TASK_EVENTS_KEPT})


def _event_row(task_id: str, event: TaskEvent) -> dict[str, Any]:
    return {"task_id": task_id, "body": _pack(event), "at_s": event.at_s}


def add_part(connection: Connection, change: SaveRun) -> None:
    """Keep what one proplet answered to a broadcast."""
    run = change.run
    row = {"task_id": run.task_id, "run": run.number, "proplet_id": change.part, "results": change.results}
    connection.execute(_HISTORY.upsert_part, row)


def forget_metrics(connection: Connection, kind: MetricKind, subject: str) -> None:
    """Drop the measurements of what is gone."""
    connection.execute(_HISTORY.delete_metrics, {"kind": kind, "subject": subject})


def list_members(connection: Connection, flow_id: str, *, results: bool) -> list[Row]:
    """The rows of a flow's tasks."""
    return connection.execute(_FLOWS.list_members, {"id": flow_id, "results": int(results)}).fetchall()


def _save_flow(change: SaveFlow, _now: Instant, connection: Connection) -> None:
    flow = change.flow
    row = {"id": flow.id, "job": int(flow.job), "created_at": flow.created_at_s, "body": _pack(flow)}
    if not change.new:
        connection.execute(_FLOWS.update_flow, row)
        return
    try:
        connection.execute(_FLOWS.insert_flow, row)
    except connection.IntegrityError as error:
        raise flow_taken(flow.id) from error


def _drop_flow(change: DropFlow, _now: Instant, connection: Connection) -> None:
    connection.execute(_FLOWS.delete_flow, {"id": change.flow_id})


def _settle_flow(change: SettleFlow, _now: Instant, connection: Connection) -> None:
    connection.execute(_FLOWS.settle_flow, {"id": change.flow_id, "touched": change.touched})


def _save_metric(change: SaveMetric, now: Instant, connection: Connection) -> None:
    whose = {"kind": change.kind, "subject": change.subject}
    connection.execute(_HISTORY.insert_metric, {**whose, "body": change.body, "at_s": now.wall_s})
    connection.execute(_HISTORY.prune_metrics, {**whose, "kept": limits.METRICS_KEPT})


def _save_service(change: SaveService, _now: Instant, connection: Connection) -> None:
    service = change.service
    connection.execute(_SERVICES.upsert_service, {"task_id": service.task_id, "body": _pack(service)})


def _service_record(row: Row, connection: Connection) -> ServiceRecord:
    numbers = connection.execute(_SERVICES.list_numbers, {"task_id": row["task_id"]})
    return ServiceRecord(
        task=_task(row["task"]),
        service=_service(row["service"]),
        numbers={one["id"]: one["latest_run"] for one in numbers},
    )


def _flow_record(row: Row) -> FlowRecord:
    return FlowRecord(flow=_flow(row["body"]), touched=row["touched"], settled=row["settled"])


APPLY: Mapping[type, Callable[[Any, Instant, Connection], None]] = {
    SaveFlow: _save_flow,
    DropFlow: _drop_flow,
    SettleFlow: _settle_flow,
    SaveService: _save_service,
    SaveMetric: _save_metric,
}
"""How each kind of change is written."""
