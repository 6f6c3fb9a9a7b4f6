"""The manager's tasks, runs, proplets and launches in a database. It decides nothing about them.

Records are stored as MessagePack of their own frozen types: infinite deadlines survive, and a field that a
later release adds takes its default when an older row is read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from propeller.core.events import DropProplet, SaveProplet, SaveRun, SaveTask
from propeller.core.proplet import Proplet
from propeller.core.run import Run
from propeller.core.task import Task
from propeller.errors import Conflict, NotFound
from propeller.fl.launch import Launch
from propeller.ports import Clock, Instant
from propeller.storage import manager_history as history
from propeller.storage.connection import Connection, Row, SqlDatabase
from propeller.storage.queries import Queries, of_many
from propeller.stores.manager import (
    DropLaunch,
    DropTask,
    ManagerChange,
    SaveLaunch,
    TaskRecord,
)

ROLE = "manager"
"""Owner of the database and folder of its SQL."""

_RUNS_AT_ONCE = 64
"""Runs that one statement stores: a few hundred parameters, and as many forms of it as the driver keeps."""
_SQL = Queries.load(ROLE, "manager.sql")
_sorted_json = msgspec.json.Encoder(order="deterministic").encode
"""Text by which documents inside documents can be compared."""
_pack = msgspec.msgpack.Encoder().encode
_task = msgspec.msgpack.Decoder(Task).decode
_run = msgspec.msgpack.Decoder(Run).decode
_proplet = msgspec.msgpack.Decoder(Proplet).decode
_launch = msgspec.msgpack.Decoder(Launch).decode


class SqlManagerStore(history.HistoryReads):
    """`stores.ManagerStore` over an open `SqlDatabase` of `ROLE`, which it does not close."""

    def __init__(self, database: SqlDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def commit(self, changes: Sequence[ManagerChange]) -> None:
        """See `stores.ManagerStore`."""
        now = self._clock.now()
        await self._database.write(partial(_apply_all, changes, now))

    async def task(self, task_id: str, *, results: bool = False) -> TaskRecord:
        """See `stores.ManagerStore`."""

        def read(connection: Connection) -> TaskRecord:
            row = connection.execute(_SQL.select_task, {"id": task_id}).fetchone()
            if row is None:
                raise unknown_task(task_id)
            return _record(row, connection, results=results)

        return await self._database.read(read)

    async def tasks(
        self, *, offset: int, limit: int, metadata: Mapping[str, object] | None = None
    ) -> tuple[int, list[TaskRecord]]:
        """See `stores.ManagerStore`."""
        wanted = {"metadata": _sorted_json(metadata or {}).decode()}

        def read(connection: Connection) -> tuple[int, list[TaskRecord]]:
            count = _SQL.count_tasks if metadata else _SQL.count_all_tasks
            total = connection.execute(count, wanted).fetchone()["total"]
            page = connection.execute(_SQL.list_tasks, {**wanted, "limit": limit, "offset": offset})
            return total, [_record(row, connection, results=True) for row in page]

        return await self._database.read(read)

    async def members(self, flow_id: str, *, results: bool = False) -> list[TaskRecord]:
        """See `stores.ManagerStore`."""

        def read(connection: Connection) -> list[TaskRecord]:
            rows = history.list_members(connection, flow_id, results=results)
            return [_record(row, connection, results=results) for row in rows]

        return await self._database.read(read)

    async def parts(self, task_id: str) -> list[TaskRecord]:
        """See `stores.ManagerStore`."""

        def read(connection: Connection) -> list[TaskRecord]:
            rows = connection.execute(_SQL.list_parts, {"id": task_id})
            return [_record(row, connection, results=False) for row in rows]

        return await self._database.read(read)

    async def live(self, now: Instant) -> list[tuple[Task, Run]]:
        """See `stores.ManagerStore`."""

        def read(connection: Connection) -> list[tuple[Task, Run]]:
            return [
                (
                    _task(row["task"]),
                    rearmed(_run(row["run"]), Instant(row["saved_mono"], row["saved_wall"]), now),
                )
                for row in connection.execute(_SQL.list_live)
            ]

        return await self._database.read(read)

    async def proplets(self) -> list[Proplet]:
        """See `stores.ManagerStore`."""
        return await self._database.read(
            lambda connection: [_proplet(row["body"]) for row in connection.execute(_SQL.list_proplets)]
        )

    async def launch(self, round_id: str) -> Launch | None:
        """See `stores.ManagerStore`."""
        row = await self._database.read(
            lambda connection: connection.execute(_SQL.select_launch, {"round_id": round_id}).fetchone()
        )
        return None if row is None else _launch(row["body"])

    async def open_launches(self) -> list[Launch]:
        """See `stores.ManagerStore`."""
        return await self._database.read(
            lambda connection: [_launch(row["body"]) for row in connection.execute(_SQL.list_open_launches)]
        )


def unknown_task(task_id: str) -> NotFound:
    """The error for a task that is not there."""
    return NotFound(f"task {task_id} does not exist", code="unknown_task")


def rearmed(run: Run, saved: Instant, now: Instant) -> Run:
    """The run with its deadlines on the present clock: what was left when saved, less the time since.

    A deadline is never farther away than it was, and a wall clock that was set brings none nearer.
    """
    gone_s = now.elapsed_s(saved)

    def moved(deadline_mono_s: float) -> float:
        left_s = max(0.0, deadline_mono_s - saved.mono_s)
        return now.mono_s + max(0.0, left_s - gone_s)

    return replace(
        run,
        deadline_mono_s=moved(run.deadline_mono_s),
        give_up_mono_s=moved(run.give_up_mono_s),
        resend_mono_s=moved(run.resend_mono_s),
    )


def _record(row: Row, connection: Connection, *, results: bool) -> TaskRecord:
    task = _task(row["task"])
    found = row["results"] if results else None
    if results and task.broadcast:
        found = history.parts(connection, task.id, row["latest_run"])
    return TaskRecord(
        task=task,
        latest_run=row["latest_run"],
        run=None if row["run"] is None else _run(row["run"]),
        results=found,
    )


def _apply_all(changes: Sequence[ManagerChange], now: Instant, connection: Connection) -> None:
    """Apply the changes in their order; runs that are saved one after the other share their statements."""
    runs: dict[str, SaveRun] = {}
    for change in changes:
        if isinstance(change, SaveRun):
            if len(runs) == _RUNS_AT_ONCE or change.run.task_id in runs:
                _save_runs(list(runs.values()), now, connection)
                runs.clear()
            runs[change.run.task_id] = change
            continue
        if runs:
            _save_runs(list(runs.values()), now, connection)
            runs.clear()
        _APPLY[type(change)](change, now, connection)
    if runs:
        _save_runs(list(runs.values()), now, connection)


def _save_task(change: SaveTask, now: Instant, connection: Connection) -> None:
    task = change.task
    if task.part_of:
        _save_member(task, connection)
        return
    row = {
        "id": task.id,
        "created_at": task.created_at_s,
        "metadata": _sorted_json(task.metadata).decode(),
        "flow_id": task.flow_id or None,
        "next_run": task.next_run_s or None,
        "body": _pack(task),
    }
    if not change.new:
        connection.execute(_SQL.keep_definition, {"id": task.id})
        connection.execute(_SQL.update_task, row)
        return
    try:
        connection.execute(_SQL.insert_task, row)
    except connection.IntegrityError as error:
        raise id_taken(task.id) from error
    history.note_created(connection, task.id, now)


def _save_member(task: Task, connection: Connection) -> None:
    row = {"id": task.id, "created_at": task.created_at_s, "part_of": task.part_of, "body": _pack(task)}
    if connection.execute(_SQL.upsert_member, row).rowcount == 0:
        raise id_taken(task.id)


def id_taken(task_id: str) -> Conflict:
    """The error for a new task whose id exists."""
    return Conflict(f"task id {task_id} is taken; choose another, or leave it out", code="id_taken")


def round_taken(round_id: str) -> Conflict:
    """The error for a new launch whose round id exists."""
    return Conflict(f"round {round_id} exists; use a new round_id", code="round_exists")


def _drop_task(change: DropTask, _now: Instant, connection: Connection) -> None:
    whole = {"id": change.task_id}
    for row in connection.execute(_SQL.list_parts, whole).fetchall():
        history.forget_metrics(connection, "task", _task(row["task"]).id)
    connection.execute(_SQL.retire_task, whole)
    connection.execute(_SQL.delete_task, whole)
    history.forget_metrics(connection, "task", change.task_id)


def _save_runs(changes: Sequence[SaveRun], now: Instant, connection: Connection) -> None:
    """Store runs of as many tasks."""
    connection.execute(*of_many(_SQL.upsert_runs, [_run_row(change, now) for change in changes]))
    latest = [{"task_id": change.run.task_id, "number": change.run.number} for change in changes]
    connection.execute(*of_many(_SQL.mark_latest_runs, latest))
    for change in changes:
        if change.part and change.results is not None:
            history.add_part(connection, change)
    history.note_runs(connection, changes, now)


def _run_row(change: SaveRun, now: Instant) -> dict[str, Any]:
    run = change.run
    return {
        "task_id": run.task_id,
        "number": run.number,
        "state": str(run.state),
        "live": int(run.live),
        "saved_mono": now.mono_s,
        "saved_wall": now.wall_s,
        "body": _pack(run),
        "results": None if change.part else change.results,
    }


def _save_proplet(change: SaveProplet, _now: Instant, connection: Connection) -> None:
    proplet = change.proplet
    row = {"id": proplet.id, "registered": proplet.registered_at_s, "body": _pack(proplet)}
    connection.execute(_SQL.upsert_proplet, row)


def _drop_proplet(change: DropProplet, _now: Instant, connection: Connection) -> None:
    connection.execute(_SQL.delete_proplet, {"id": change.proplet_id})
    history.forget_metrics(connection, "proplet", change.proplet_id)


def _save_launch(change: SaveLaunch, _now: Instant, connection: Connection) -> None:
    launch = change.launch
    row = {"round_id": launch.round_id, "state": str(launch.state), "body": _pack(launch)}
    if not change.new:
        connection.execute(_SQL.update_launch, row)
        return
    try:
        connection.execute(_SQL.insert_launch, row)
    except connection.IntegrityError as error:
        raise round_taken(launch.round_id) from error


def _drop_launch(change: DropLaunch, _now: Instant, connection: Connection) -> None:
    connection.execute(_SQL.delete_launch, {"round_id": change.round_id})


_APPLY: Mapping[type, Callable[[Any, Instant, Connection], None]] = {
    SaveTask: _save_task,
    DropTask: _drop_task,
    SaveProplet: _save_proplet,
    DropProplet: _drop_proplet,
    SaveLaunch: _save_launch,
    DropLaunch: _drop_launch,
    **history.APPLY,
}
