"""SQLite's errors in our tree: no room, not trustworthy, or the caller's own constraint."""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from propeller.errors import EnvironmentError_, PropellerError, StorageBroken, StorageFull

_FREE_BYTES_MIN = 4 * 1024 * 1024
"""With less room than this, an I/O error of SQLite is taken to mean a full disk."""

_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_ENVIRONMENT = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
}


def translate(error: Exception, path: Path) -> PropellerError | None:
    """Our error for a fault of the file or the machine; None for one of the statement."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and _no_room(path)):
        return StorageFull(f"no room to write {path}; free some space, nothing accepted was lost")
    if primary in _BROKEN:
        return StorageBroken(f"{path} is corrupt: {error}; restore it from a backup or move it away")
    if primary in _ENVIRONMENT:
        return EnvironmentError_(f"{path}: {error}; check the disk and its permissions", code="storage_io")
    return None


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise our error in place of SQLite's, where there is one."""
    try:
        yield
    except sqlite3.Error as error:
        ours = translate(error, path)
        if ours is None:
            raise
        raise ours from error


def _no_room(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _FREE_BYTES_MIN
    except OSError:
        return False
