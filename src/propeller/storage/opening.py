"""Opens a role's database where its settings say: a file of its own, or a schema in PostgreSQL.

A note beside where the file would be says that the data are elsewhere, so that a role that is not told of it
never begins anew beside what it had. PostgreSQL's driver is loaded only where a URL asks for it.
"""

import asyncio
from pathlib import Path

from propeller.errors import BadInput, EnvironmentError_, StorageBroken
from propeller.storage.connection import SqlDatabase
from propeller.storage.sqlite import Database

ELSEWHERE = ".elsewhere"
"""Ends the name of the note."""


async def open_database(url: str, path: Path, *, role: str, base: str) -> SqlDatabase:
    """The role's database: `path`, or at `url` if there is one (`postgresql://…`).

    `base` is the topic prefix B that the data belong to. Raises `StorageBroken` when another process has it,
    or it is of another base, of a newer release, damaged, or not where this role's data were; `StorageFull`
    without room; `EnvironmentError_` if a server cannot be reached; `BadInput` for a URL that is none.
    """
    note = path.with_name(path.name + ELSEWHERE)
    await asyncio.to_thread(_check_place, url, path, note, role)
    if not url:
        return await Database.open(path, role=role, base=base)
    return await _in_postgres(url, note, role, base)


def _check_place(url: str, path: Path, note: Path, role: str) -> None:
    if not url and note.exists():
        raise StorageBroken(
            f"the {role}'s data are in PostgreSQL at {note.read_text().strip()}; name it with --database, "
            f"or delete {note} to begin anew",
            code="storage_elsewhere",
        )
    if url and path.exists():
        raise StorageBroken(
            f"the {role}'s data are in {path}; leave --database out, or move the file away to begin anew",
            code="storage_elsewhere",
        )


async def _in_postgres(url: str, note: Path, role: str, base: str) -> SqlDatabase:
    try:
        from propeller.storage import postgres  # noqa: PLC0415 - an optional driver
    except ImportError as error:
        raise BadInput(
            "PostgreSQL needs its driver: pip install 'propeller[postgres]'", code="no_driver"
        ) from error
    database = await postgres.PostgresDatabase.open(postgres.check_url(url), role=role, base=base)
    try:
        await asyncio.to_thread(_leave_note, note, postgres.shown(url))
    except OSError as error:
        await database.close()
        raise EnvironmentError_(f"cannot write {note}: {error.strerror or error}") from error
    return database


def _leave_note(note: Path, text: str) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{text}\n")
