"""Whose data a file holds, whether it can be trusted, and the migrations that bring it forward.

A file that is corrupt, foreign or newer is refused with a message that says what to do: nothing is repaired,
guessed or overwritten here.
"""

import re
import sqlite3
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

import propeller
from propeller.errors import Bug, StorageBroken
from propeller.storage.connection import Connection
from propeller.storage.queries import Queries

APPLICATION_ID = 0x50726F70
"""`Prop` in ASCII: in the file's header, so that tools can tell what it is."""
QUICK_CHECK_BYTES_MAX = 128 * 1024 * 1024
"""Files over this are not walked at every start (a fifth of a second), only measured: a role is back soon."""

_MAGIC = b"SQLite format 3\x00"
_FILE = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")
_META = Queries.load("database", "meta.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who may open the file: a role, for the topics under `base`."""

    role: str
    base: str


def check_header(path: Path, *, used_before: bool) -> None:
    """Refuse a file that is not SQLite, or that lost everything it held, before SQLite itself touches it."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageBroken(f"{path} cannot be read: {error}; check its permissions") from error
    if not head and used_before:
        raise _broken(path, "it is empty, though it held data before")
    if head and head != _MAGIC:
        raise _broken(path, "it does not begin as a database does")


def check_sound(connection: sqlite3.Connection, path: Path) -> None:
    """Fold the log of the last owner in, then compare the file's length and structure with what it says."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    pages = int(connection.execute("PRAGMA page_count").fetchone()[0])
    said = pages * int(connection.execute("PRAGMA page_size").fetchone()[0])
    size = path.stat().st_size
    if size < said:
        raise _broken(path, f"it is {size} bytes long where {said} are needed")
    if size <= QUICK_CHECK_BYTES_MAX:
        found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
        if found != ["ok"]:
            raise _broken(path, "; ".join(str(line).replace("\n", " ") for line in found))


def bring_up_to_date(connection: Connection, path: Path | str, owner: Owner, migrations: Traversable) -> None:
    """Check the owner and run the migrations that the file has not seen, all in one transaction."""
    steps = _read(migrations)
    connection.execute("BEGIN IMMEDIATE")
    try:
        meta = _read_meta(connection, path)
        _check_owner(meta, path, owner, newest=len(steps))
        for sql in steps[int(meta.get("schema", "0")) :]:
            _run(connection, sql)
        for name, value in _facts(owner, schema=len(steps)).items():
            connection.execute(_META.put_meta, {"name": name, "value": value})
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _facts(owner: Owner, *, schema: int) -> dict[str, str]:
    return {
        "role": owner.role,
        "base": owner.base,
        "schema": str(schema),
        "release": propeller.__version__,
    }


def _read_meta(connection: Connection, path: Path | str) -> dict[str, str]:
    """What the file says of itself; nothing for a new file, for which the table is made."""
    tables, metas = connection.execute(_META.count_tables).fetchone()
    if tables and not metas:
        raise _broken(path, "it is a database, but none of ours")
    if not tables:
        connection.execute(_META.create_meta)
        return {}
    meta = {row["name"]: row["value"] for row in connection.execute(_META.read_meta)}
    if not {"role", "base", "schema", "release"} <= meta.keys() or not meta["schema"].isdecimal():
        raise _broken(path, "its table `meta` is incomplete")
    return meta


def _check_owner(meta: dict[str, str], path: Path | str, owner: Owner, *, newest: int) -> None:
    if not meta:
        return
    if meta["role"] != owner.role:
        raise StorageBroken(
            f"{path} belongs to the role {meta['role']}, not {owner.role}", code="storage_foreign"
        )
    if meta["base"] != owner.base:
        raise StorageBroken(
            f"{path} belongs to {meta['base']}, not {owner.base}; "
            "use the domain and channel it was made with, or another --data-dir",
            code="storage_foreign",
        )
    if int(meta["schema"]) > newest:
        raise StorageBroken(
            f"{path} was written by release {meta['release']} (schema {meta['schema']}; this release knows "
            f"{newest}); use that release or a newer one",
            code="storage_newer",
        )


def _read(migrations: Traversable) -> list[str]:
    """The SQL of every migration in order. Raises `Bug` for a gap in the numbers or an odd name."""
    found = sorted((item.name, item) for item in migrations.iterdir() if item.name.endswith(".sql"))
    for number, (name, _) in enumerate(found, start=1):
        match = _FILE.match(name)
        if match is None or int(match[1]) != number:
            raise Bug(f"migration {name} is not number {number:04}: names are 0001_what.sql without gaps")
    if not found:
        raise Bug(f"no migrations in {migrations}")
    return [item.read_text(encoding="utf-8") for _, item in found]


def _run(connection: Connection, sql: str) -> None:
    """Each statement of a script by itself: `executescript` would end the transaction."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    if statement.strip():
        connection.execute(statement)


def _broken(path: Path | str, why: str) -> StorageBroken:
    return StorageBroken(f"{path} cannot be used: {why}; restore it from a backup or move it away")
