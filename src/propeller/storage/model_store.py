"""Model versions in a database and files; `model_memory` is the twin. It knows no HTTP and reads no model.

Where a version goes is decided by `fl.versions.place` alone; a store gathers the facts and obeys, in one
transaction. Content is immutable: small content lies in its row, larger content in the blob store, written
and fsynced before the row that names it.
"""

from dataclasses import fields
from functools import partial
from typing import Any

import msgspec

from propeller import limits
from propeller.errors import NotFound, StorageBroken
from propeller.fl.versions import Artifact, Measured, ModelVersion, Objective, Proposal, place
from propeller.ports import BlobFiles, BlobWriter
from propeller.storage.connection import Connection, Row, SqlDatabase
from propeller.storage.queries import Queries
from propeller.wire import codec

ROLE = "registry"
"""Owner of the database and folder of its SQL."""

_SQL = Queries.load(ROLE, "model_versions.sql")
_Held = tuple[bytes, str | None]
"""Content as its row has it: itself, or the digest of its file."""


class SqlModelStore:
    """`stores.ModelStore` over an `SqlDatabase` of `ROLE` and a blob store of its own; closes neither."""

    def __init__(self, database: SqlDatabase, blobs: BlobFiles) -> None:
        self._database = database
        self._blobs = blobs

    async def add(
        self, proposal: Proposal, content: bytes, *, state: bytes = b"", created_at_s: float
    ) -> tuple[ModelVersion, bool]:
        """See `stores.ModelStore`."""
        if max(len(content), len(state)) > limits.BLOB_INLINE_BYTES_MAX:
            # Asked first, so that what will be refused or repeats leaves no file behind.
            placed = await self._database.read(partial(_place, proposal))
            if isinstance(placed, ModelVersion):
                return placed, False
        held, held_state = await self._held(content), await self._held(state)
        return await self._database.write(partial(_add, proposal, created_at_s, held, held_state))

    def open_writer(self) -> BlobWriter:
        """See `stores.ModelStore`."""
        return self._blobs.open_writer(limits.MODEL_FILE_BYTES_MAX)

    async def file(self, digest: str) -> memoryview:
        """See `stores.ModelStore`."""
        return await self._blobs.mapped(digest)

    async def adopt(
        self,
        proposal: Proposal,
        content: str,
        *,
        state: str | None = None,
        created_at_s: float,
        pulled: Artifact | None = None,
    ) -> tuple[ModelVersion, bool]:
        """See `stores.ModelStore`."""
        held = {"content": None, "blob": content, "content_bytes": len(await self.file(content))}
        held_state: dict[str, Any] = {"content_bytes": 0}
        if state is not None:
            held_state = {"content": None, "blob": state, "content_bytes": len(await self.file(state))}
        return await self._database.write(
            partial(_add, proposal, created_at_s, held, held_state, pulled=pulled)
        )

    async def mapped(self, name: str, version: int) -> memoryview:
        """See `stores.ModelStore`."""
        row = await self._database.read(partial(_content, name, version))
        if row is None:
            raise unknown(name, version)
        return await self._mapped(row, name, version)

    async def state_mapped(self, name: str, version: int) -> memoryview:
        """See `stores.ModelStore`."""
        row = await self._database.read(partial(_state, name, version))
        return memoryview(b"") if row is None else await self._mapped(row, name, version)

    async def _mapped(self, row: _Held, name: str, version: int) -> memoryview:
        content, blob = row
        if blob is None:
            return memoryview(content)
        try:
            return await self._blobs.mapped(blob)
        except NotFound as error:
            raise _lost(name, version, blob) from error

    async def _held(self, content: bytes) -> dict[str, Any]:
        """How a row holds `content`: itself if it is small, else by the digest of its file."""
        blob = await self._blobs.put(content) if len(content) > limits.BLOB_INLINE_BYTES_MAX else None
        held = content if blob is None else None
        return {"content": held, "blob": blob, "content_bytes": len(content)}

    async def find(self, name: str, version: int) -> ModelVersion | None:
        """See `stores.ModelStore`."""
        return await self._database.read(partial(_find, name, version))

    async def content(self, name: str, version: int) -> bytes:
        """See `stores.ModelStore`."""
        row = await self._database.read(partial(_content, name, version))
        if row is None:
            raise unknown(name, version)
        return await self._whole(row, name, version)

    async def state(self, name: str, version: int) -> bytes:
        """See `stores.ModelStore`."""
        row = await self._database.read(partial(_state, name, version))
        return b"" if row is None else await self._whole(row, name, version)

    async def _whole(self, row: _Held, name: str, version: int) -> bytes:
        content, blob = row
        if blob is None:
            return content
        try:
            return await self._blobs.get(blob)
        except NotFound as error:
            raise _lost(name, version, blob) from error

    async def versions(self, name: str) -> tuple[int, ...]:
        """See `stores.ModelStore`."""
        return await self._database.read(partial(_versions, name))

    async def names(self) -> tuple[str, ...]:
        """See `stores.ModelStore`."""
        return await self._database.read(_names)

    async def records(self) -> list[ModelVersion]:
        """See `stores.ModelStore`."""
        rows = await self._database.read(lambda connection: connection.execute(_SQL.list_records).fetchall())
        return [found for row in rows if (found := _read(row))]

    async def delete(self, name: str, version: int, *, at_s: float) -> bool:
        """See `stores.ModelStore`."""
        files = await self._database.write(partial(_clear, name, version, at_s))
        for blob in files or ():
            await self._blobs.forget(blob)
        return files is not None

    async def sweep(self) -> int:
        """See `stores.ModelStore`."""
        gone = 0
        for blob in await self._blobs.digests():
            if not await self._database.read(partial(_named, blob)):
                gone += await self._blobs.forget(blob)
        return gone

    async def evaluated(self, name: str, version: int, measured: Measured) -> ModelVersion:
        """See `stores.ModelStore`."""
        return await self._database.write(partial(_evaluated, name, version, measured))

    async def note(self, name: str, version: int, artifact: Artifact) -> None:
        """See `stores.ModelStore`."""
        await self._database.write(partial(_note, name, version, artifact))

    async def artifacts(self, name: str, version: int) -> tuple[Artifact, ...]:
        """See `stores.ModelStore`."""
        named = {"name": name, "version": version}
        rows = await self._database.read(
            lambda connection: connection.execute(_SQL.list_artifacts, named).fetchall()
        )
        return tuple(_artifact(row) for row in rows)

    async def of_artifact(self, name: str, digest: str) -> ModelVersion | None:
        """See `stores.ModelStore`."""
        wanted = {"name": name, "digest": digest}
        return await self._database.read(
            lambda connection: _read(connection.execute(_SQL.select_of_artifact, wanted).fetchone())
        )

    async def unpublished(self, target: str) -> list[tuple[str, int]]:
        """See `stores.ModelStore`."""
        rows = await self._database.read(
            lambda connection: connection.execute(_SQL.list_unpublished, {"target": target}).fetchall()
        )
        return [(row["name"], row["version"]) for row in rows]


def _place(proposal: Proposal, connection: Connection) -> ModelVersion | int:
    name, parent = proposal.name, proposal.parent
    latest = connection.execute(_SQL.select_latest, {"name": name}).fetchone()["latest"]
    return place(
        proposal,
        of_round=None if proposal.round_id is None else _of_round(name, proposal.round_id, connection),
        at_version=None if proposal.version is None else _find(name, proposal.version, connection),
        latest=latest,
        parent_known=parent is not None and _find(name, parent, connection) is not None,
    )


def _add(
    proposal: Proposal,
    created_at_s: float,
    held: dict[str, Any],
    held_state: dict[str, Any],
    connection: Connection,
    *,
    pulled: Artifact | None = None,
) -> tuple[ModelVersion, bool]:
    placed = _place(proposal, connection)
    if isinstance(placed, ModelVersion):
        return placed, False
    stored = version_of(proposal, placed, held["content_bytes"], created_at_s)
    connection.execute(_SQL.insert_version, {**_row(stored), **held})
    if held_state["content_bytes"]:
        named = {"name": stored.name, "version": stored.version}
        connection.execute(_SQL.insert_state, {**named, **held_state})
    if pulled is not None:
        _note(stored.name, stored.version, pulled, connection)
    return stored, True


def _note(name: str, version: int, artifact: Artifact, connection: Connection) -> None:
    if _find(name, version, connection) is None:
        raise unknown(name, version)
    row = {field.name: getattr(artifact, field.name) for field in fields(artifact)}
    connection.execute(_SQL.insert_artifact, {"name": name, "version": version, **row})


def _evaluated(name: str, version: int, measured: Measured, connection: Connection) -> ModelVersion:
    known = _find(name, version, connection)
    if known is None:
        raise unknown(name, version)
    judged = known.evaluated(measured)
    if judged is not known:
        told = codec.encode(measured).decode()
        connection.execute(_SQL.update_evaluation, {"name": name, "version": version, "evaluation": told})
    return judged


def _clear(name: str, version: int, at_s: float, connection: Connection) -> list[str] | None:
    """The files that nothing names any more, or None if there was no content to delete."""
    held = [_content(name, version, connection), _state(name, version, connection)]
    if held[0] is None:
        return None
    named = {"name": name, "version": version}
    connection.execute(_SQL.clear_version, {**named, "at_s": at_s, "nothing": b""})
    connection.execute(_SQL.delete_state, named)
    files = {one[1] for one in held if one is not None and one[1] is not None}
    return [one for one in sorted(files) if not _named(one, connection)]


def _named(blob: str, connection: Connection) -> bool:
    return bool(connection.execute(_SQL.count_blob, {"blob": blob}).fetchone()["uses"])


def _row(version: ModelVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "sha256": version.sha256,
        "parent": version.parent,
        "round_id": version.round_id,
        "strategy": version.strategy_json,
        "participants": codec.encode(version.participants).decode(),
        "metrics": codec.encode(version.metrics).decode(),
        "created_at_s": version.created_at_s,
        "content_bytes": version.content_bytes,
        "objective": None if version.objective is None else codec.encode(version.objective).decode(),
    }


def _read(row: Row | None) -> ModelVersion | None:
    if row is None:
        return None
    return ModelVersion(
        name=row["name"],
        version=row["version"],
        sha256=row["sha256"],
        parent=row["parent"],
        round_id=row["round_id"],
        strategy_json=row["strategy"],
        participants=msgspec.json.decode(row["participants"], type=tuple[str, ...]),
        metrics=msgspec.json.decode(row["metrics"], type=dict[str, float]),
        created_at_s=row["created_at_s"],
        content_bytes=row["content_bytes"],
        deleted_at_s=row["deleted_at_s"],
        objective=None if row["objective"] is None else msgspec.json.decode(row["objective"], type=Objective),
        evaluation=None
        if row["evaluation"] is None
        else msgspec.json.decode(row["evaluation"], type=Measured),
    )


def _artifact(row: Row) -> Artifact:
    return Artifact(
        kind=row["kind"],
        reference=row["reference"],
        digest=row["digest"],
        target=row["target"],
        at_s=row["at_s"],
    )


def _find(name: str, version: int, connection: Connection) -> ModelVersion | None:
    return _read(connection.execute(_SQL.select_version, {"name": name, "version": version}).fetchone())


def _of_round(name: str, round_id: str, connection: Connection) -> ModelVersion | None:
    return _read(connection.execute(_SQL.select_of_round, {"name": name, "round_id": round_id}).fetchone())


def _content(name: str, version: int, connection: Connection) -> _Held | None:
    row = connection.execute(_SQL.select_content, {"name": name, "version": version}).fetchone()
    return None if row is None else (row["content"], row["blob"])


def _state(name: str, version: int, connection: Connection) -> _Held | None:
    row = connection.execute(_SQL.select_state, {"name": name, "version": version}).fetchone()
    return None if row is None else (row["content"], row["blob"])


def _versions(name: str, connection: Connection) -> tuple[int, ...]:
    return tuple(row["version"] for row in connection.execute(_SQL.list_versions, {"name": name}))


def _names(connection: Connection) -> tuple[str, ...]:
    return tuple(row["name"] for row in connection.execute(_SQL.list_names))


def version_of(proposal: Proposal, version: int, content_bytes: int, created_at_s: float) -> ModelVersion:
    """The stored form of a proposal that got the number `version`."""
    return ModelVersion(
        name=proposal.name,
        version=version,
        sha256=proposal.sha256,
        parent=proposal.parent,
        round_id=proposal.round_id,
        strategy_json=proposal.strategy_json,
        participants=proposal.participants,
        metrics=dict(proposal.metrics),
        created_at_s=created_at_s,
        content_bytes=content_bytes,
        objective=proposal.objective,
    )


def _lost(name: str, version: int, blob: str) -> StorageBroken:
    return StorageBroken(
        f"version {version} of model {name!r} has lost its file {blob}; restore the registry's files"
    )


def unknown(name: str, version: int) -> NotFound:
    """The error for a version that is not stored."""
    return NotFound(f"model {name!r} has no version {version}", code="unknown_version")
