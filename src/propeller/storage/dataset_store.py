"""Data sets on disk and in memory: two stores, one contract. They must not know HTTP, nor read a document.

A small document lies in its row. A large one is a file of the blob store, on disk before the row names it and
deleted only after no row does, so that a crash at any point leaves the old data set or the new, whole.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from functools import partial
from typing import cast

from propeller import limits
from propeller.errors import NotFound, StorageBroken
from propeller.ports import Blobs
from propeller.storage.connection import Connection, SqlDatabase
from propeller.storage.queries import Queries

ROLE = "data_store"
"""Owner of the database and folder of its SQL."""

_SQL = Queries.load(ROLE, "datasets.sql")


class SqlDatasetStore:
    """`stores.DatasetStore` over a database of `ROLE` and a blob store of its own; closes neither."""

    def __init__(self, database: SqlDatabase, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs
        # Writing a file, naming it and deleting the one before are three steps: one writer at a time.
        self._writing = asyncio.Lock()

    async def put(self, proplet_id: str, document: bytes) -> None:
        """See `stores.DatasetStore`."""
        async with self._writing:
            row = await self._row(proplet_id, document)
            dropped = await self._database.write(partial(_put, row))
            if dropped is not None:
                await self._blobs.delete(dropped)

    async def put_if_absent(self, proplet_id: str, document: bytes) -> bool:
        """See `stores.DatasetStore`."""
        async with self._writing:
            if await self._database.read(partial(_select, proplet_id)) is not None:
                return False
            row = await self._row(proplet_id, document)
            return await self._database.write(partial(_add, row))

    async def get(self, proplet_id: str) -> bytes | None:
        """See `stores.DatasetStore`."""
        missing: str | None = None
        while True:
            found = await self._database.read(partial(_select, proplet_id))
            if found is None:
                return None
            document, blob = found
            if blob is None:
                return document
            if blob == missing:
                raise StorageBroken(f"the data set of {proplet_id!r} has lost its file {blob}; post it again")
            # A writer may replace the data set between the two reads: then the row names something newer.
            try:
                return await self._blobs.get(blob)
            except NotFound:
                missing = blob

    async def digest(self, proplet_id: str) -> str | None:
        """See `stores.DatasetStore`."""
        found = await self._database.read(partial(_select, proplet_id))
        if found is None:
            return None
        document, blob = found
        return blob or hashlib.sha256(document).hexdigest()

    async def ids(self) -> tuple[str, ...]:
        """See `stores.DatasetStore`."""
        return await self._database.read(_ids)

    async def sweep(self, digests: Iterable[str]) -> None:
        """Delete those blobs that no data set needs: what a crash between naming and deleting left behind."""
        async with self._writing:
            for digest in await self._database.read(partial(_unneeded, tuple(digests))):
                await self._blobs.delete(digest)

    async def _row(self, proplet_id: str, document: bytes) -> dict[str, object]:
        if len(document) <= limits.BLOB_INLINE_BYTES_MAX:
            return {"proplet_id": proplet_id, "document": document, "blob": None}
        return {"proplet_id": proplet_id, "document": None, "blob": await self._blobs.put(document)}


def _put(row: dict[str, object], connection: Connection) -> str | None:
    """Replace the row; the blob that no row needs any more, if there is one."""
    before = connection.execute(_SQL.select_blob, row).fetchone()
    connection.execute(_SQL.put_dataset, row)
    if before is None or connection.execute(_SQL.is_blob_needed, {"blob": before["blob"]}).fetchone():
        return None
    return cast("str", before["blob"])


def _unneeded(digests: tuple[str, ...], connection: Connection) -> list[str]:
    return [
        digest
        for digest in digests
        if connection.execute(_SQL.is_blob_needed, {"blob": digest}).fetchone() is None
    ]


def _add(row: dict[str, object], connection: Connection) -> bool:
    return connection.execute(_SQL.add_dataset, row).rowcount == 1


def _select(proplet_id: str, connection: Connection) -> tuple[bytes, str | None] | None:
    row = connection.execute(_SQL.select_dataset, {"proplet_id": proplet_id}).fetchone()
    return None if row is None else (row["document"], row["blob"])


def _ids(connection: Connection) -> tuple[str, ...]:
    return tuple(row["proplet_id"] for row in connection.execute(_SQL.list_ids))


class MemoryDatasetStore:
    """`stores.DatasetStore` without a disk, for simulated worlds; one instance is one durable store."""

    def __init__(self) -> None:
        self._documents: dict[str, bytes] = {}

    async def put(self, proplet_id: str, document: bytes) -> None:
        """See `stores.DatasetStore`."""
        self._documents[proplet_id] = bytes(document)

    async def put_if_absent(self, proplet_id: str, document: bytes) -> bool:
        """See `stores.DatasetStore`."""
        if proplet_id in self._documents:
            return False
        self._documents[proplet_id] = bytes(document)
        return True

    async def get(self, proplet_id: str) -> bytes | None:
        """See `stores.DatasetStore`."""
        return self._documents.get(proplet_id)

    async def digest(self, proplet_id: str) -> str | None:
        """See `stores.DatasetStore`."""
        found = self._documents.get(proplet_id)
        return None if found is None else hashlib.sha256(found).hexdigest()

    async def ids(self) -> tuple[str, ...]:
        """See `stores.DatasetStore`."""
        return tuple(sorted(self._documents))
