"""The coordinator's experiments, rounds, updates and notices in a database. It decides nothing about them.

Records are stored as JSON of their own frozen types, so that a person can read them and a field that a later
release adds takes its default when an older row is read; beside them lie the columns that are searched.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from propeller.core.retention import Aged
from propeller.errors import Conflict
from propeller.fl.round_events import Accepted
from propeller.storage.connection import Connection, Row, SqlDatabase, is_taken
from propeller.storage.queries import Queries
from propeller.stores.coordinator import (
    Changes,
    Content,
    ExperimentRecord,
    Live,
    Notice,
    NoticeKind,
    RoundRecord,
    StoredUpdate,
    UpdateRecord,
)

T = TypeVar("T")

ROLE = "coordinator"
"""Owner of the database and folder of its SQL."""

_SQL = Queries.load(ROLE, "coordinator.sql")
_experiment = msgspec.json.Decoder(ExperimentRecord).decode
_round = msgspec.json.Decoder(RoundRecord).decode
_update = msgspec.json.Decoder(UpdateRecord).decode


class SqlCoordinatorStore:
    """`stores.CoordinatorStore` over an open `SqlDatabase` of `ROLE`, which it does not close."""

    def __init__(self, database: SqlDatabase) -> None:
        self._database = database

    async def commit(self, changes: Changes) -> None:
        """See `stores.CoordinatorStore`."""
        await self._database.write(partial(_write, changes))

    async def live(self) -> Live:
        """See `stores.CoordinatorStore`."""
        return await self._database.read(_live)

    async def experiment(self, series: str) -> ExperimentRecord | None:
        """See `stores.CoordinatorStore`."""
        return await self._one(_experiment, "experiment", series=series)

    async def latest_experiment(self, experiment_id: str) -> ExperimentRecord | None:
        """See `stores.CoordinatorStore`."""
        return await self._one(_experiment, "latest_experiment", experiment_id=experiment_id)

    async def experiments(self, *, offset: int, limit: int) -> tuple[int, list[ExperimentRecord]]:
        """See `stores.CoordinatorStore`."""
        return await self._page(_experiment, "experiments", offset=offset, limit=limit)

    async def round(self, round_id: str) -> RoundRecord | None:
        """See `stores.CoordinatorStore`."""
        return await self._one(_round, "round", round_id=round_id)

    async def rounds(
        self, *, offset: int, limit: int, experiment_id: str | None = None
    ) -> tuple[int, list[RoundRecord]]:
        """See `stores.CoordinatorStore`."""
        if experiment_id is None:
            return await self._page(_round, "rounds", offset=offset, limit=limit)
        return await self._page(
            _round, "rounds_of_experiment", offset=offset, limit=limit, experiment_id=experiment_id
        )

    async def taken(self, round_ids: Sequence[str]) -> str | None:
        """See `stores.CoordinatorStore`."""
        wanted = msgspec.json.encode(list(round_ids)).decode()
        rows = await self._rows("taken", round_ids=wanted)
        return rows[0]["round_id"] if rows else None

    async def last_completed(self) -> RoundRecord | None:
        """See `stores.CoordinatorStore`."""
        return await self._one(_round, "last_completed")

    async def updates(self, round_id: str) -> list[UpdateRecord]:
        """See `stores.CoordinatorStore`."""
        return [_update(row["record"]) for row in await self._rows("updates", round_id=round_id)]

    async def late_update(self, origin: str, participant: str) -> UpdateRecord | None:
        """See `stores.CoordinatorStore`."""
        rows = await self._rows("late_update", origin=origin, participant=participant)
        return _update(rows[0]["record"]) if rows else None

    async def updates_of(self, experiment_id: str) -> list[UpdateRecord]:
        """See `stores.CoordinatorStore`."""
        rows = await self._rows("updates_of_experiment", experiment_id=experiment_id)
        return [_update(row["record"]) for row in rows]

    async def refers_to(self, blob: str) -> bool:
        """See `stores.CoordinatorStore`."""
        return bool((await self._rows("count_blob", blob=blob))[0]["uses"])

    async def contents(self, round_id: str) -> list[StoredUpdate]:
        """See `stores.CoordinatorStore`."""
        return [
            StoredUpdate(
                record=_update(row["record"]), content=Content(inline=row["content"], blob=row["blob"] or "")
            )
            for row in await self._rows("contents", round_id=round_id)
        ]

    async def with_contents(self) -> list[Aged]:
        """See `stores.CoordinatorStore`."""
        return [Aged("", row["seq"], row["started_wall_s"]) for row in await self._rows("with_contents")]

    async def drop_contents(self, rounds: Sequence[int]) -> tuple[int, list[str]]:
        """See `stores.CoordinatorStore`."""
        return await self._database.write(partial(_drop_contents, rounds))

    async def _rows(self, query: str, **values: Any) -> list[Row]:
        return await self._database.read(lambda connection: _all(connection, query, values))

    async def _one(self, decode: Callable[[str], T], query: str, **values: Any) -> T | None:
        rows = await self._rows(query, **values)
        return decode(rows[0]["record"]) if rows else None

    async def _page(self, decode: Callable[[str], T], what: str, **values: Any) -> tuple[int, list[T]]:
        def read(connection: Connection) -> tuple[int, list[Row]]:
            counted = {name: values[name] for name in values.keys() - {"offset", "limit"}}
            total = connection.execute(_SQL[f"count_{what}"], counted).fetchone()[0]
            return total, _all(connection, f"page_of_{what}", values)

        total, rows = await self._database.read(read)
        return total, [decode(row["record"]) for row in rows]


def _drop_contents(rounds: Sequence[int], connection: Connection) -> tuple[int, list[str]]:
    gone, blobs = 0, set[str]()
    for seq in rounds:
        held = _all(connection, "contents_of_ended", {"seq": seq})
        blobs |= {row["blob"] for row in held if row["blob"] is not None}
        connection.execute(_SQL.drop_contents, {"seq": seq, "nothing": b""})
        gone += len(held)
    uses = {blob: _all(connection, "count_blob", {"blob": blob})[0]["uses"] for blob in sorted(blobs)}
    return gone, [blob for blob, used in uses.items() if not used]


def _all(connection: Connection, query: str, values: dict[str, Any]) -> list[Row]:
    return connection.execute(_SQL[query], values).fetchall()


def _write(changes: Changes, connection: Connection) -> None:
    for experiment in changes.experiments:
        connection.execute(_SQL.put_experiment, _experiment_row(experiment))
    for round_ in changes.rounds:
        connection.execute(_SQL.put_round, _round_row(round_))
    for update in changes.updates:
        _add(connection, update)
    for notice in changes.notices:
        connection.execute(_SQL.put_notice, _notice_row(notice))
    connection.executemany(_SQL.drop_notice, [{"round_id": one, "kind": kind} for one, kind in changes.done])


def _add(connection: Connection, update: StoredUpdate) -> None:
    accepted = update.record.accepted
    try:
        connection.execute(
            _SQL.add_update,
            {
                "round_id": update.record.round_id,
                "participant": accepted.participant,
                "record": _json(update.record),
                "content": update.content.inline,
                "blob": update.content.blob or None,
                "origin": update.record.origin or None,
            },
        )
    except connection.IntegrityError as error:
        if not is_taken(error):
            raise
        raise already_submitted(update.record) from error


def already_submitted(record: UpdateRecord) -> Conflict:
    """The error for a second update of one participant in one round."""
    return Conflict(
        f"an update of {record.accepted.participant!r} for round {record.round_id!r} is stored already",
        code="already_submitted",
    )


def _live(connection: Connection) -> Live:
    rounds = [_round(row["record"]) for row in _all(connection, "live_rounds", {})]
    return Live(
        experiments=[_experiment(row["record"]) for row in _all(connection, "live_experiments", {})],
        rounds=[(round_, _accepted(connection, round_.spec.round_id)) for round_ in rounds],
        notices=[_notice(row) for row in _all(connection, "notices", {})],
    )


def _accepted(connection: Connection, round_id: str) -> list[Accepted]:
    return [_update(row["record"]).accepted for row in _all(connection, "updates", {"round_id": round_id})]


def _notice(row: Row) -> Notice:
    kind: NoticeKind = row["kind"]
    return Notice(
        round_id=row["round_id"], kind=kind, payload=row["payload"], created_wall_s=row["created_wall_s"]
    )


def _notice_row(notice: Notice) -> dict[str, Any]:
    return {
        "round_id": notice.round_id,
        "kind": notice.kind,
        "payload": notice.payload,
        "created_wall_s": notice.created_wall_s,
    }


def _experiment_row(record: ExperimentRecord) -> dict[str, Any]:
    return {
        "series": record.experiment.spec.series,
        "experiment_id": record.experiment.spec.experiment_id,
        "state": record.experiment.state.value,
        "record": _json(record),
    }


def _round_row(record: RoundRecord) -> dict[str, Any]:
    return {
        "round_id": record.spec.round_id,
        "experiment_id": record.spec.experiment_id,
        "state": record.state.value,
        "started_wall_s": record.started_wall_s,
        "record": _json(record),
    }


def _json(record: object) -> str:
    return msgspec.json.encode(record).decode()
