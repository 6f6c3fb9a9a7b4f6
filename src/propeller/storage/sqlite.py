"""One SQLite file of one role: many writes per fsync, one owner at a time, refused when it cannot be trusted.

Writers are functions of a connection. One thread runs all that wait in one transaction, each in a savepoint
of its own, commits once with `synchronous=FULL`, and only then answers them: whoever saw `write` return finds
the data after any crash. This module must not know what is stored.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from functools import partial
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Self, TypeVar

from propeller.errors import Bug
from propeller.storage import lanes, schema
from propeller.storage.connection import Connection
from propeller.storage.file_lock import FileLock
from propeller.storage.queries import sql_folder
from propeller.storage.sqlite_errors import translate, translated

T = TypeVar("T")

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA cell_size_check = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA journal_size_limit = 67108864",
)


class GroupConnection(sqlite3.Connection):
    """A connection whose transactions are the lanes' business: ending one would break a group."""

    writes = False

    def close(self) -> None:
        """End the connection; the one that writes folds the log into the file first."""
        if self.writes:
            # Without room the log stays beside the file; the next owner folds it in.
            with contextlib.suppress(sqlite3.Error):
                self.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        super().close()

    def commit(self) -> None:
        """Refused: the group commits."""
        raise Bug("a function of the database must not commit: return, and the group commits")

    def rollback(self) -> None:
        """Refused: raising undoes the function's own work."""
        raise Bug("a function of the database must not roll back: raise, and its own work is undone")

    def executescript(self, _script: str, /) -> sqlite3.Cursor:
        """Refused, because it commits first."""
        raise Bug("a function of the database must not run scripts: they commit")

    def __enter__(self) -> Self:
        raise Bug("a function of the database must not use the connection as a context: that commits")


class Database:
    """An open database file. Make it with `open`; every method belongs to the loop that opened it."""

    def __init__(self, path: Path, lock: FileLock, writer: lanes.WriteLane, reader: lanes.ReadLane) -> None:
        self.path = path
        self._lock = lock
        self._writer = writer
        self._reader = reader

    @classmethod
    async def open(cls, path: Path, *, role: str, base: str, migrations: Traversable | None = None) -> Self:
        """Open or create the file, alone, and bring its schema up to date.

        `base` is the topic prefix B that the data belong to. `migrations` is a folder of `0001_name.sql`
        files, `storage/migrations/{role}` by default. Raises `StorageBroken` when another process has it, or
        it is of another role or base, of a newer release, or damaged; `StorageFull` without room.
        """
        folder = migrations or sql_folder("migrations", role)
        lock, connection = await asyncio.to_thread(_open_checked, path, role, base, folder)
        try:
            reading = await asyncio.to_thread(_connect, path, readonly=True)
        except BaseException:
            connection.close()
            lock.release()
            raise
        loop = asyncio.get_running_loop()
        ours = partial(translate, path=path)
        writer = lanes.WriteLane(connection, path.name, loop, ours)
        return cls(path, lock, writer, lanes.ReadLane(reading, path.name, loop, ours))

    async def write(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` in a transaction and return its result once that is on disk.

        `fn` runs in another thread, possibly twice: it may touch nothing but the connection and must not
        commit. Whatever it raises undoes it alone and is raised here. Raises `StorageFull` when nothing could
        be kept; the database stays usable. A caller that is cancelled does not undo what it asked for.
        """
        return await self._writer.submit(fn)

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` over one consistent state, which holds every write that has returned."""
        return await self._reader.submit(fn)

    async def close(self) -> None:
        """Finish what was asked for, fold the log into the file, and let another process have it."""
        await self._reader.close()
        await self._writer.close()
        self._lock.release()


def _open_checked(
    path: Path, role: str, base: str, migrations: Traversable
) -> tuple[FileLock, sqlite3.Connection]:
    lock = FileLock.acquire(path)
    try:
        owner = schema.Owner(role=role, base=base)
        connection = _connect_checked(path, owner, migrations, used_before=lock.used_before)
        lock.mark_used()
    except BaseException:
        lock.release()
        raise
    return lock, connection


def _connect_checked(
    path: Path, owner: schema.Owner, migrations: Traversable, *, used_before: bool
) -> sqlite3.Connection:
    schema.check_header(path, used_before=used_before)
    connection = _connect(path, readonly=False)
    try:
        with translated(path):
            schema.check_sound(connection, path)
            schema.bring_up_to_date(connection, path, owner, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    """A connection for one other thread. The reading one cannot write, whatever it is asked."""
    with translated(path):
        connection = sqlite3.connect(
            path,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            timeout=5.0,
            factory=GroupConnection,
        )
        try:
            connection.row_factory = sqlite3.Row
            for pragma in _PRAGMAS:
                connection.execute(pragma)
            connection.writes = not readonly
            if readonly:
                connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
    return connection
