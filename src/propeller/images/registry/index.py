"""Where the registry remembers its repositories: the port, a twin in memory, and one JSON file for each.

A file is replaced atomically (temporary name, fsync, rename, fsync of the directory), so a killed process
leaves either the old record or the new one. It must not know what a repository means.
"""

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Protocol

import msgspec

from propeller.errors import DecodeError, StorageBroken, StorageFull, TooLarge
from propeller.images.reference import is_repository
from propeller.images.registry.repository import Repository
from propeller.images.source import Offload
from propeller.wire import codec

SCHEMA = 1
"""Version of a record; a newer one is refused, an older one would be migrated here."""
_RECORD_BYTES_MAX = 1024 * 1024 * 1024
_NO_ROOM = (28, 122)
"""ENOSPC and EDQUOT."""


class RegistryIndex(Protocol):
    """Durable records of repositories. One owner; calls for one repository do not overlap."""

    async def load(self) -> list[Repository]:
        """Every repository; raises `StorageBroken` rather than leave one out."""
        ...

    async def save(self, repository: Repository) -> None:
        """Store a repository durably, in place of what was there; raises `StorageFull`."""
        ...

    async def remove(self, name: str) -> None:
        """Forget a repository; absent is fine."""
        ...


class MemoryIndex:
    """`RegistryIndex` that ends with the process. Records are encoded, as in a file."""

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}

    async def load(self) -> list[Repository]:
        """Every repository."""
        return [_decode(record, name) for name, record in sorted(self._records.items())]

    async def save(self, repository: Repository) -> None:
        """Keep a repository."""
        self._records[repository.name] = _encode(repository)

    async def remove(self, name: str) -> None:
        """Forget a repository."""
        self._records.pop(name, None)


class FileIndex:
    """`RegistryIndex` in a directory of its own, locked against a second process."""

    def __init__(self, directory: Path, *, offload: Offload = asyncio.to_thread) -> None:
        """Create and lock `directory`. Raises `StorageBroken` if another process has it."""
        self._directory = directory
        self._offload = offload
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(directory / "lock")

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._lock)

    async def load(self) -> list[Repository]:
        """Every repository; unfinished temporary files of a killed process are removed."""
        found: list[Repository] = await self._offload(self._load)
        return found

    async def save(self, repository: Repository) -> None:
        """Store a repository durably."""
        await self._offload(self._save, repository)

    async def remove(self, name: str) -> None:
        """Forget a repository durably."""
        await self._offload(self._remove, name)

    def _load(self) -> list[Repository]:
        for leftover in self._directory.glob("*.tmp"):
            leftover.unlink()
        return [_decode(path.read_bytes(), _name_of(path)) for path in sorted(self._directory.glob("*.json"))]

    def _save(self, repository: Repository) -> None:
        path = self._path(repository.name)
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(_encode(repository))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            _sync_directory(self._directory)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno in _NO_ROOM:
                raise StorageFull(
                    f"no room to record repository {repository.name} in {self._directory}"
                ) from error
            raise StorageBroken(f"cannot record repository {repository.name}: {error}") from error

    def _remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)
        _sync_directory(self._directory)

    def _path(self, name: str) -> Path:
        # '+' is no character of a repository name, so names and files correspond one to one.
        return self._directory / f"{name.replace('/', '+')}.json"


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    schema: int
    repository: Repository


def _encode(repository: Repository) -> bytes:
    return codec.encode(_Record(schema=SCHEMA, repository=repository))


def _decode(record: bytes, name: str) -> Repository:
    what = f"the record of repository {name}"
    try:
        found = codec.decode(_Record, record, what=what, limit_bytes=_RECORD_BYTES_MAX)
    except (DecodeError, TooLarge) as error:
        raise StorageBroken(
            f"{error.message}; restore it from a backup, or delete it and push again"
        ) from error
    if found.schema != SCHEMA:
        raise StorageBroken(f"{what} has schema {found.schema}; this release reads {SCHEMA}")
    if found.repository.name != name or not is_repository(name):
        raise StorageBroken(f"{what} calls itself {found.repository.name[:200]!r}")
    return found.repository


def _name_of(path: Path) -> str:
    return path.name.removesuffix(".json").replace("+", "/")


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StorageBroken(
            f"another process uses the registry index in {path.parent}; stop it, or use another directory",
            code="locked",
        ) from error
    return descriptor


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
