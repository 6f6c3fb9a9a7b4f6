"""Where a proplet keeps its attempts over crashes: a port, its files, and its twin in memory.

One SQLite file, written ahead: a group of records costs one sync (a file for each cost two, of content and of
directory, and bounded how many tasks a device could take). Each record has its SHA-256 beside it, so
that a rotten one is recognised, moved aside and reported, never believed. A lock keeps a second process with
the same identity out. Nothing here knows what an attempt means.
"""

import errno
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from propeller.errors import Conflict, StorageBroken, StorageFull
from propeller.proplet.agent import TOMBSTONES_MAX
from propeller.proplet.offload import Offload
from propeller.proplet.records import Held, packed, show_file, unpacked
from propeller.wire.messages import AttemptKey

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE})
_FILE = "spool.db"
_LOCK = "lock"
_Work = tuple[Sequence[str], Sequence[Mapping[str, object]]]
"""Statements, and the rows that each of them is run for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """What a spool held at start: records, keys (oldest first), and where it put what it could not read."""

    held: tuple[Held, ...] = ()
    done: tuple[AttemptKey, ...] = ()
    broken: tuple[str, ...] = ()


class Spool(Protocol):
    """Durable memory of attempts. One owner calls it, one call at a time."""

    async def load(self) -> Spooled:
        """Everything stored. Called once, before anything else."""
        ...

    async def save(self, *records: Held, buried: Sequence[AttemptKey] = ()) -> None:
        """Store records durably, each in place of its attempt's last one, and bury attempts; all or nothing.

        Raises `StorageFull` or `StorageBroken`; the last records are then still there, whole.
        """
        ...

    async def bury(self, *keys: AttemptKey) -> None:
        """Drop the attempts' records and remember their keys, of which the latest `TOMBSTONES_MAX` are kept.

        Not synced: after a power cut a record may be back, and is then acknowledged and buried again.
        Raises `StorageFull` or `StorageBroken` if nothing could be written.
        """
        ...

    def close(self) -> None:
        """Give the identity free."""
        ...


class MemorySpool:
    """The twin: keeps records as a dead process would leave them, for the next one with the same object.

    `room_bytes` is how much it stores before it is full.
    """

    def __init__(self, *, room_bytes: int = 1 << 40) -> None:
        self.room_bytes = room_bytes
        self._held: dict[AttemptKey, bytes] = {}
        self._done: dict[AttemptKey, None] = {}
        self._locked = False

    async def load(self) -> Spooled:
        """Everything stored; raises `Conflict` while another user has it open."""
        if self._locked:
            raise Conflict("the spool is in use by another proplet", code="spool_locked")
        self._locked = True
        held = tuple(unpacked(content) for content in self._held.values())
        return Spooled(held=held, done=tuple(self._done))

    async def save(self, *records: Held, buried: Sequence[AttemptKey] = ()) -> None:
        """Store copies of the records, or raise `StorageFull`."""
        stored = self._held | {held.key: packed(held) for held in records}
        if sum(map(len, stored.values())) > self.room_bytes:
            raise StorageFull(f"the spool has room for {self.room_bytes} bytes")
        self._held = stored
        await self.bury(*buried)

    async def bury(self, *keys: AttemptKey) -> None:
        """Drop the records, remember the keys."""
        for key in keys:
            self._held.pop(key, None)
            self._done[key] = None
        for old in list(self._done)[:-TOMBSTONES_MAX]:
            del self._done[old]

    def close(self) -> None:
        """Let the next user in."""
        self._locked = False


class FileSpool:
    """A spool in a directory of its own, as one SQLite file. Blocking file work goes through `offload`.

    Saved records are on disk when `save` returns, several of them with one sync.
    """

    def __init__(self, directory: Path, *, offload: Offload) -> None:
        self._directory = directory
        self._offload = offload
        self._lock = -1
        self._connection: sqlite3.Connection | None = None

    async def load(self) -> Spooled:
        """Lock the directory, making it if need be, and read it.

        Raises `Conflict` if another process holds it and `StorageBroken` if it cannot be used at all.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._take_lock()
            return self._read()
        except (OSError, sqlite3.Error) as error:
            raise _told(error, f"cannot use the spool {self._directory}") from error

    async def save(self, *records: Held, buried: Sequence[AttemptKey] = ()) -> None:
        """Write all in one transaction, synced: they outlive a power cut."""
        work: list[_Work] = [(_SAVE, [_sealed(held) for held in records])]
        await self._write([*work, *_burial(buried)], synced=True)

    async def bury(self, *keys: AttemptKey) -> None:
        """Remember the keys, and drop their records."""
        await self._write(_burial(keys), synced=False)

    def close(self) -> None:
        """Release the lock."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> None:
        path = self._directory / _LOCK
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(lock, 32).decode(errors="replace").strip()
            os.close(lock)
            raise Conflict(
                f"the spool {self._directory} is in use by process {holder or 'unknown'}: "
                "one proplet identity runs once; stop the other, or give this one its own spool",
                code="spool_locked",
            ) from error
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        self._lock = lock

    def _read(self) -> Spooled:
        """What is stored; a file that is no database, and rows that do not fit their seal, move aside."""
        path, broken = self._directory / _FILE, []
        try:
            self._connection = _open(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # the disk or the permissions are at fault, not what is in the file
            broken.append(str(path.rename(_aside(path))))
            for rest in self._directory.glob(f"{_FILE}-*"):
                rest.unlink()
            self._connection = _open(path)
        held: list[Held] = []
        for name, seal, body in self._connection.execute("SELECT name, seal, body FROM held").fetchall():
            record = _parse(seal, body)
            if record is not None and show_file(record.key) == name:
                held.append(record)
            else:
                broken.append(str(self._set_aside(name, bytes(body))))
        done = [msgspec.json.decode(row[0], type=AttemptKey) for row in self._connection.execute(_DONE)]
        return Spooled(
            held=tuple(sorted(held, key=lambda record: record.order)), done=tuple(done), broken=tuple(broken)
        )

    def _set_aside(self, name: str, body: bytes) -> Path:
        path = _aside(self._directory / name)
        path.write_bytes(body)
        self._stage([((_DELETE,), [{"name": name}])], synced=True)
        self._commit()
        return path

    async def _write(self, work: Sequence[_Work], *, synced: bool) -> None:
        """Run each statement for every row that goes with it, all in one transaction.

        The rows go into memory here and now, for each would cost a thread its turn at the interpreter; what
        waits for the disk is the commit.
        """
        self._stage(work, synced=synced)
        await self._offload(self._commit)

    def _stage(self, work: Sequence[_Work], *, synced: bool) -> None:
        connection = self._opened()
        with self._telling(connection):
            if connection.in_transaction:
                connection.execute("ROLLBACK")  # whoever staged it was cancelled before its commit
            connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
            connection.execute("BEGIN")
            for statements, rows in work:
                for statement in statements:
                    connection.executemany(statement, rows)

    def _commit(self) -> None:
        connection = self._opened()
        with self._telling(connection):
            connection.execute("COMMIT")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageBroken(f"the spool {self._directory} is not open")
        return self._connection

    @contextmanager
    def _telling(self, connection: sqlite3.Connection) -> Iterator[None]:
        """What SQLite raises inside undoes the transaction, and becomes an error of ours."""
        try:
            yield
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise _told(error, f"cannot write the spool {self._directory}") from error


_SAVE = ("INSERT OR REPLACE INTO held (name, seal, body) VALUES (:name, :seal, :body)",)
_DELETE = "DELETE FROM held WHERE name = :name"
_BURY = (
    _DELETE,
    "INSERT INTO done (name, key) VALUES (:name, :key) ON CONFLICT (name) DO NOTHING",
)
_FORGET = (
    f"DELETE FROM done WHERE number <= (SELECT max(number) FROM done) - {TOMBSTONES_MAX}",  # noqa: S608 - a number
)
_DONE = "SELECT key FROM done WHERE name NOT IN (SELECT name FROM held) ORDER BY number"


def _open(path: Path) -> sqlite3.Connection:
    """The file, made if it is not there. Raises what SQLite raises."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for statement in _SCHEMA:
            connection.execute(statement)
        _check(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != ("ok",):
        raise sqlite3.DatabaseError(f"damaged: {found}")


_SCHEMA = (
    # One process has the spool, so what several would share need not be kept up.
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA journal_mode = WAL",
    # The device may be small, and what is saved is hardly ever read.
    "PRAGMA cache_size = -512",
    "PRAGMA journal_size_limit = 4194304",
    "CREATE TABLE IF NOT EXISTS held (name TEXT PRIMARY KEY, seal BLOB NOT NULL, body BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS done (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, key BLOB)",
)


def _sealed(held: Held) -> dict[str, object]:
    """The row of a record: its name, its SHA-256 and itself."""
    body = packed(held)
    return {"name": show_file(held.key), "seal": hashlib.sha256(body).digest(), "body": body}


def _burial(keys: Sequence[AttemptKey]) -> list[_Work]:
    """What remembers these attempts, and forgets as many of the oldest."""
    return [(_BURY, list(map(_tombstone, keys))), (_FORGET, [{}])] if keys else []


def _tombstone(key: AttemptKey) -> dict[str, object]:
    """The row that remembers an attempt."""
    return {"name": show_file(key), "key": msgspec.json.encode(key)}


def _parse(seal: bytes, body: bytes) -> Held | None:
    """The record in a row, or None if it is not whole."""
    if hashlib.sha256(body).digest() != seal:
        return None
    try:
        return unpacked(body)
    except msgspec.MsgspecError:
        return None


def _aside(path: Path) -> Path:
    """A free name beside `path` that no spool reads."""
    for number in range(1, 1000):
        free = path.with_name(f"{path.name}.broken-{number}")
        if not free.exists():
            return free
    return path.with_name(f"{path.name}.broken")


def _told(error: OSError | sqlite3.Error, what: str) -> StorageFull | StorageBroken:
    if isinstance(error, sqlite3.Error):
        # SQLite reports a file that may not grow as a failed write: nothing was kept, and room helps.
        full = getattr(error, "sqlite_errorcode", 0) in _NO_ROOM
        message = f"{what}: {error}"
    else:
        full = error.errno in _FULL
        message = f"{what}: {error.strerror or error}"
    return StorageFull(f"{message}; free some space") if full else StorageBroken(message)
