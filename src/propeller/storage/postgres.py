"""One schema of a PostgreSQL database for one role: the same stores, the same promises, the same SQL.

The SQL of this package is written for SQLite; `Dialect` turns it into PostgreSQL's where only words differ,
and takes it from `sql/ROLE/postgres.sql` where the query itself must. One process at a time owns a role's
schema, by an advisory lock that the server releases when its connection ends. It must not know what the rows
mean.
"""

import asyncio
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import psycopg
from psycopg import pq
from psycopg.rows import RowMaker

from propeller.errors import BadInput, EnvironmentError_, PropellerError, StorageBroken, StorageFull
from propeller.storage import lanes, schema
from propeller.storage.connection import Rows, T, Work
from propeller.storage.queries import Queries, sql_folder

if TYPE_CHECKING:
    from psycopg._cursor_base import BaseCursor

SCHEMES = ("postgresql", "postgres")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")
_COMMENT = re.compile(r"--.*$", re.MULTILINE)
_TYPES = (
    (re.compile(r"\)\s*STRICT(?:,\s*WITHOUT ROWID)?\s*;"), ");"),
    (re.compile(r"\)\s*WITHOUT ROWID\s*;?"), ");"),
    (re.compile(r"\bINTEGER PRIMARY KEY\b"), "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
    (re.compile(r"\bINTEGER\b"), "BIGINT"),
    (re.compile(r"\bREAL\b"), "DOUBLE PRECISION"),
    (re.compile(r"\bBLOB\b"), "BYTEA"),
    # Ids are compared and sorted byte by byte, as SQLite does, whatever the server's language is.
    (re.compile(r"\bTEXT\b"), 'TEXT COLLATE "C"'),
)
_CONNECT_S = 10
_ROLE_MARK = "propeller_"


class Dialect:
    """What PostgreSQL is told in place of each statement of a role."""

    def __init__(self, role: str) -> None:
        self._known: dict[str, str] = {}
        for folder in (sql_folder("sql", "database"), sql_folder("sql", role)):
            self._read(folder)

    def of(self, sql: str) -> str:
        """PostgreSQL's form of a statement of ours."""
        found = self._known.get(sql)
        if found is None:
            found = self._known[sql] = _translated(sql)
        return found

    def _read(self, folder: Traversable) -> None:
        """Pair each query with the one of the same name in `postgres.sql`, if that has one."""
        own = folder / "postgres.sql"
        others = Queries.parse(own, own.name) if own.is_file() else None
        if others is None:
            return
        wanted = set(others.names())
        for file in folder.iterdir():
            if file.name.endswith(".sql") and file.name != own.name:
                queries = Queries.parse(file, file.name)
                for name in wanted & set(queries.names()):
                    self._known[queries[name]] = _PARAMETER.sub(r"%(\1)s", others[name])


def _translated(sql: str) -> str:
    sql = _COMMENT.sub("", sql)
    if sql.lstrip().startswith(("CREATE", "ALTER", "DROP")):
        for pattern, word in _TYPES:
            sql = pattern.sub(word, sql)
        return sql
    return _PARAMETER.sub(r"%(\1)s", sql.replace("%", "%%"))


class _Row:
    """A row by position and by name."""

    __slots__ = ("_names", "_values")

    def __init__(self, names: Mapping[str, int], values: Sequence[Any]) -> None:
        self._names = names
        self._values = values

    def __getitem__(self, key: Any, /) -> Any:
        return self._values[self._names[key] if isinstance(key, str) else key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)


def _rows(cursor: "BaseCursor[Any, Any]") -> RowMaker[_Row]:
    names = {column.name: at for at, column in enumerate(cursor.description or ())}
    return partial(_Row, names)


class PostgresConnection:
    """`connection.Connection` to one schema; connects again, and locks again, after the server went away."""

    Error: type[Exception] = psycopg.Error
    IntegrityError: type[Exception] = psycopg.IntegrityError

    def __init__(self, url: str, role: str, base: str, *, writes: bool) -> None:
        self._url = url
        self._role = role
        self._base = base
        self._writes = writes
        self._dialect = Dialect(role)
        self._held = self._connected()

    @property
    def in_transaction(self) -> bool:
        """Whether one is under way, also one that has failed."""
        return self._held.info.transaction_status in {
            pq.TransactionStatus.INTRANS,
            pq.TransactionStatus.INERROR,
        }

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None, /) -> Rows:
        """Run one statement of ours."""
        if sql.startswith("BEGIN"):
            return self._begin()
        told = "SELECT 1" if sql.startswith("PRAGMA") else self._dialect.of(sql)  # those are SQLite's own
        return self._held.execute(told.encode(), parameters or None)

    def executemany(self, sql: str, parameters: Iterable[Mapping[str, Any]], /) -> None:
        """Run one statement for each."""
        for one in parameters:
            self.execute(sql, one)

    def close(self) -> None:
        """End the connection, and with it the lock."""
        self._held.close()

    def _begin(self) -> Rows:
        if self._held.closed:
            self._held = self._connected()
        if self._writes:
            return self._held.execute("BEGIN")
        return self._held.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def _connected(self) -> psycopg.Connection[_Row]:
        made = psycopg.connect(
            self._url,
            autocommit=True,
            row_factory=_rows,
            connect_timeout=_CONNECT_S,
            application_name=f"propeller {self._role}",
        )
        try:
            if self._writes:
                self._own(made)
            made.execute(f"SET search_path TO {_schema(self._role)}".encode())
        except BaseException:
            made.close()
            raise
        return made

    def _own(self, made: psycopg.Connection[_Row]) -> None:
        """Lock the role's schema for this connection, and have every commit on disk before it is answered."""
        name = f"propeller {self._role}".encode()
        key = int.from_bytes(hashlib.sha256(name).digest()[:8], "big", signed=True)
        found = made.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()
        if found is None or not found[0]:
            raise StorageBroken(
                f"the {self._role}'s data in {shown(self._url)} are in use by another process; stop it first",
                code="storage_in_use",
            )
        made.execute("SET synchronous_commit TO on")
        made.execute(f"CREATE SCHEMA IF NOT EXISTS {_schema(self._role)}".encode())


class PostgresDatabase:
    """`connection.SqlDatabase` in PostgreSQL. Make it with `open`; every method belongs to that loop."""

    def __init__(self, writer: lanes.WriteLane, reader: lanes.ReadLane) -> None:
        self._writer = writer
        self._reader = reader

    @classmethod
    async def open(cls, url: str, *, role: str, base: str, migrations: Traversable | None = None) -> Self:
        """Connect, alone for this role, and bring its schema up to date.

        Raises as `sqlite.Database.open`, and `EnvironmentError_` if the server cannot be reached.
        """
        folder = migrations or sql_folder("migrations", role)
        writing, reading = await asyncio.to_thread(_opened, url, role, base, folder)
        loop = asyncio.get_running_loop()
        name, ours = f"{role} in {shown(url)}", partial(translate, url=url)
        return cls(lanes.WriteLane(writing, name, loop, ours), lanes.ReadLane(reading, name, loop, ours))

    async def write(self, fn: Work[T]) -> T:
        """See `connection.SqlDatabase`."""
        return await self._writer.submit(fn)

    async def read(self, fn: Work[T]) -> T:
        """See `connection.SqlDatabase`."""
        return await self._reader.submit(fn)

    async def close(self) -> None:
        """See `connection.SqlDatabase`."""
        await self._reader.close()
        await self._writer.close()


def _opened(
    url: str, role: str, base: str, migrations: Traversable
) -> tuple[PostgresConnection, PostgresConnection]:
    try:
        writing = PostgresConnection(url, role, base, writes=True)
        try:
            owner = schema.Owner(role=role, base=base)
            schema.bring_up_to_date(writing, f"{role} in {shown(url)}", owner, migrations)
            return writing, PostgresConnection(url, role, base, writes=False)
        except BaseException:
            writing.close()
            raise
    except psycopg.Error as error:
        raise translate(error, url=url) or error from error


def translate(error: Exception, *, url: str) -> PropellerError | None:
    """Our error for a fault of the server or the way to it; None for one of the statement."""
    state = getattr(error, "sqlstate", None) or ""
    said = str(error).strip().replace("\n", " ")[:300]
    if state in {"53100", "53200"}:
        return StorageFull(f"no room at {shown(url)}: {said}; nothing accepted was lost")
    if state.startswith("XX"):
        return StorageBroken(f"{shown(url)} is damaged: {said}; restore it from a backup")
    if isinstance(error, psycopg.OperationalError):
        return EnvironmentError_(f"{shown(url)} cannot be used: {said}", code="storage_io")
    return None


def shown(url: str) -> str:
    """Where a database is, without its password."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"


def check_url(url: str) -> str:
    """The URL of a PostgreSQL database, or `BadInput`."""
    try:
        parts = urlsplit(url)
        lawful = parts.scheme in SCHEMES and parts.path.strip("/") and parts.port != 0
    except ValueError:
        lawful = False
    if not lawful:
        raise BadInput("the database must be given as postgresql://USER:PASSWORD@HOST:PORT/NAME")
    return url


def _schema(role: str) -> str:
    return _ROLE_MARK + role
