"""What the stores ask of a database, whichever it is: a connection as DB-API 2.0 has it, and turns to use it.

Both SQLite's and PostgreSQL's drivers have these methods, and their exceptions as attributes of the
connection. It must not know either.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Row(Protocol):
    """A row: its columns by name or by position."""

    def __getitem__(self, key: Any, /) -> Any: ...


class Rows(Protocol):
    """The rows that a query gave."""

    @property
    def rowcount(self) -> int:
        """How many rows a change has changed."""
        ...

    def fetchone(self) -> Any:
        """The next row, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """All that are left."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A connection inside a transaction that is not the caller's to end."""

    @property
    def in_transaction(self) -> bool:
        """Whether one is under way."""
        ...

    @property
    def Error(self) -> type[Exception]:  # noqa: N802 - DB-API 2.0 calls it so
        """What every failure of the database is."""
        ...

    @property
    def IntegrityError(self) -> type[Exception]:  # noqa: N802 - DB-API 2.0 calls it so
        """What a row that breaks a constraint raises."""
        ...

    def execute(self, sql: str, parameters: Mapping[str, Any] = ..., /) -> Rows:
        """Run one statement."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Mapping[str, Any]], /) -> Any:
        """Run one statement for each."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


Work = Callable[[Connection], T]
"""What a database is given to do, in another thread."""


class SqlDatabase(Protocol):
    """Many writers in one durable commit, and readers that see what was committed."""

    async def write(self, fn: Work[T]) -> T:
        """Run `fn` in a transaction and return its result once that is on disk.

        `fn` runs in another thread, possibly twice: it may touch nothing but the connection and must not
        commit. Whatever it raises undoes it alone and is raised here. Raises `StorageFull` when nothing could
        be kept; the database stays usable. A caller that is cancelled does not undo what it asked for.
        """
        ...

    async def read(self, fn: Work[T]) -> T:
        """Run `fn` over one consistent state, which holds every write that has returned."""
        ...

    async def close(self) -> None:
        """Finish what was asked for, and let another process have it."""
        ...


_TAKEN = frozenset({"SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE", "23505"})


def is_taken(error: Exception) -> bool:
    """Whether a constraint was broken by a key that is there already (and not by one that is missing)."""
    code = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None)
    return code in _TAKEN
