"""A copy of a data directory in one file, made while everything runs, and the way back.

Databases are copied by SQLite's own online backup, each as it was at one moment; what roles know of each
other they settle again by themselves, as after a crash. Content-addressed files never change, so they are
copied before the databases and, as far as they are new, after: no database copied refers to what is not
there. Left out is what is made again: caches, logs, the coordinator's copies of base models, and the spools
of proplets, which are the devices' own.

The file is a tar archive, private to its owner as it holds keys; its last member lists every other one's
SHA-256, so that half a copy, or a damaged one, is never restored.
"""

import hashlib
import io
import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from propeller import __version__
from propeller.errors import BadInput, EnvironmentError_, StorageBroken, StorageFull
from propeller.roles.layout import DataDir
from propeller.storage.opening import ELSEWHERE

_LIST = "propeller-backup.json"
_FORMAT = 1
_LEFT_OUT = (
    "cache",
    "logs",
    "proplets",
    "lock",
    "running.json",
    "manager/images",
    "*/base-blobs",
    "*/blobs/tmp",
    "*/*-blobs/tmp",
)
"""What is made again, below the data directory."""
_SUFFIXES_LEFT_OUT = (".lock", ".db-wal", ".db-shm", ".db-journal")
_LIST_BYTES_MAX = 256 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_NO_ROOM = (28, 122)


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """The last member: what the archive must hold, by name."""

    format: int
    release: str
    made_at_s: float
    sha256: dict[str, str]


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that was made, or restored."""

    file: str
    data_dir: str
    files: int
    bytes: int
    not_included: list[str] = []
    """Roles whose records are in PostgreSQL, and where: its own tools back them up."""


def backup(data: DataDir, target: Path) -> Saved:
    """Write everything that `data` owns to `target`, while its roles run or not.

    `target` has its name only once it is whole and on disk. Raises `BadInput` without such a directory, or if
    `target` exists; `StorageFull`; `StorageBroken` for a damaged database.
    """
    if not data.config.is_file() and not any(data.root.glob("*/*.db*")):
        raise BadInput(f"{data.root} is no data directory of ours; --data-dir names it")
    if target.exists():
        raise BadInput(f"{target} exists already; a backup never replaces a file")
    try:
        return _written(data, target)
    except OSError as error:
        raise _failed(error, target) from error


def restore(source: Path, data: DataDir) -> Saved:
    """Make `data` from a backup; nothing is left behind if that fails.

    Raises `BadInput` unless the directory is empty or absent, `StorageBroken` for half a copy.
    """
    if data.root.exists() and any(data.root.iterdir()):
        raise BadInput(f"{data.root} is not empty; name another place with --data-dir", code="not_empty")
    parent = data.root.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".restoring-", dir=parent) as folder:
            count, size = _extracted(source, Path(folder) / "data")
            if data.root.exists():
                data.root.rmdir()
            (Path(folder) / "data").replace(data.root)
    except (tarfile.TarError, EOFError) as error:
        raise StorageBroken(f"{source} is no whole backup: {error}") from error
    except OSError as error:
        raise _failed(error, source) from error
    return Saved(file=str(source), data_dir=str(data.root), files=count, bytes=size)


def _written(data: DataDir, target: Path) -> Saved:
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.absolute().parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            archive = _Archive(file)
            archive.add_tree(data.root)
            for database in sorted(data.root.glob("*/*.db")):
                archive.add_database(database, data.root)
            archive.add_tree(data.root)
            archive.finish()
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Saved(
        file=str(target),
        data_dir=str(data.root),
        files=len(archive.sha256),
        bytes=target.stat().st_size,
        not_included=[
            f"{note.parent.name}: PostgreSQL at {note.read_text().strip()} (pg_dump)"
            for note in sorted(data.root.glob(f"*/*{ELSEWHERE}"))
        ],
    )


class _Archive:
    """A tar file that remembers what went into it; nothing goes in twice."""

    def __init__(self, file: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - `finish`
        self.sha256: dict[str, str] = {}

    def add_tree(self, root: Path) -> None:
        """Every file that is not in yet. One that goes meanwhile is not needed by anything copied later."""
        for path in _files(root, root):
            name = path.relative_to(root).as_posix()
            if name not in self.sha256:
                try:
                    file = path.open("rb")
                except FileNotFoundError:
                    continue
                with file:
                    self._add(name, file)

    def add_database(self, path: Path, root: Path) -> None:
        """A database as it is at this moment, also while its owner writes."""
        with tempfile.NamedTemporaryFile(suffix=".db") as copy:
            try:
                with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(copy.name)) as made:
                    live.execute("PRAGMA query_only = ON")
                    live.backup(made)
                    made.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.Error as error:
                raise StorageBroken(f"cannot copy {path}: {error}") from error
            with Path(copy.name).open("rb") as file:
                self._add(path.relative_to(root).as_posix(), file)

    def finish(self) -> None:
        """Add the list and end the archive."""
        listed = Listed(format=_FORMAT, release=__version__, made_at_s=time.time(), sha256=self.sha256)
        content = msgspec.json.encode(listed)
        self._tar.addfile(_member(_LIST, len(content)), io.BytesIO(content))
        self._tar.close()

    def _add(self, name: str, file: IO[bytes]) -> None:
        size = os.fstat(file.fileno()).st_size
        reader = _Hashed(file)
        self._tar.addfile(_member(name, size), reader)
        self.sha256[name] = reader.sha.hexdigest()


class _Hashed:
    """Reads a file and remembers the digest of what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """The next piece."""
        piece = self._file.read(size)
        self.sha.update(piece)
        return piece


def _files(root: Path, top: Path) -> Iterator[Path]:
    """The files that are copied as they are, in order."""
    for path in sorted(root.iterdir()):
        if _left_out(path.relative_to(top)):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path, top)
        elif path.suffix != ".db" and not path.name.endswith(_SUFFIXES_LEFT_OUT) and path.is_file():
            yield path


def _left_out(path: Path) -> bool:
    return any(len(path.parts) == pattern.count("/") + 1 and path.match(pattern) for pattern in _LEFT_OUT)


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    return info


def _extracted(source: Path, root: Path) -> tuple[int, int]:
    """Unpack into `root` and check; (files, bytes)."""
    root.mkdir(mode=0o700)
    found: dict[str, str] = {}
    size, listed = 0, None
    with tarfile.open(source, mode="r:") as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is None or listed is not None:
                raise StorageBroken(f"{source} holds {member.name[:200]!r}, which no backup has")
            if member.name == _LIST:
                listed = _list_of(content.read(_LIST_BYTES_MAX), source)
                continue
            found[member.name] = _unpacked(content, _place(member.name, root, source))
            size += member.size
    if listed is None or listed.sha256 != found:
        raise StorageBroken(f"{source} is damaged or not whole: its files are not those that it lists")
    return len(found), size


def _list_of(content: bytes, source: Path) -> Listed:
    try:
        listed = msgspec.json.decode(content, type=Listed)
    except msgspec.MsgspecError as error:
        raise StorageBroken(f"{source} has no readable list of its files: {error}") from error
    if listed.format != _FORMAT:
        raise StorageBroken(
            f"{source} has format {listed.format}, made by release {listed.release}; this release reads "
            f"format {_FORMAT}"
        )
    return listed


def _place(name: str, root: Path, source: Path) -> Path:
    """Where a member goes: below `root`, whatever its name says."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or set(parts) & {"..", "."}:
        raise StorageBroken(f"{source} holds {name[:200]!r}, which would lead out of the data directory")
    path = root.joinpath(*parts)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _unpacked(content: IO[bytes], path: Path) -> str:
    sha = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        while piece := content.read(_PIECE_BYTES):
            sha.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return sha.hexdigest()


def _failed(error: OSError, where: Path) -> EnvironmentError_:
    if error.errno in _NO_ROOM:
        return StorageFull(f"no room for {where}; nothing was changed")
    return EnvironmentError_(f"{where}: {error.strerror or error}; nothing was changed")
