"""Where a proplet keeps its attempts over crashes: a port, its files, and its twin in memory.

One file per attempt, replaced atomically; the file's first line is the SHA-256 of the rest, so that a torn or
rotten file is recognised, moved aside and reported, never believed. A lock keeps a second process with the
same identity out. Nothing here knows what an attempt means.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from propeller.errors import Conflict, StorageBroken, StorageFull
from propeller.proplet.agent import TOMBSTONES_MAX
from propeller.proplet.offload import Offload
from propeller.proplet.records import Held, packed, unpacked
from propeller.wire.messages import AttemptKey

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SUFFIX = ".held"
_DONE = "done"
_LOCK = "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """What a spool held at start: records, remembered keys (oldest first), and files it could not read."""

    held: tuple[Held, ...] = ()
    done: tuple[AttemptKey, ...] = ()
    broken: tuple[str, ...] = ()


class Spool(Protocol):
    """Durable memory of attempts. One owner calls it, one call at a time."""

    async def load(self) -> Spooled:
        """Everything stored. Called once, before anything else."""
        ...

    async def save(self, held: Held) -> None:
        """Store a record durably in place of the attempt's last one.

        Raises `StorageFull` or `StorageBroken`; the last record is then still there, whole.
        """
        ...

    async def bury(self, key: AttemptKey) -> None:
        """Drop an attempt's record and remember its key, of which the latest `TOMBSTONES_MAX` are kept.

        Not synced: after a power cut the record may be back, and is then acknowledged and buried again.
        Raises `StorageFull` or `StorageBroken` if the key could not be remembered; the record is gone too.
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

    async def save(self, held: Held) -> None:
        """Store a copy of the record, or raise `StorageFull`."""
        content = packed(held)
        others = sum(len(other) for key, other in self._held.items() if key != held.key)
        if others + len(content) > self.room_bytes:
            raise StorageFull(f"the spool has room for {self.room_bytes} bytes")
        self._held[held.key] = content

    async def bury(self, key: AttemptKey) -> None:
        """Drop the record, remember the key."""
        self._held.pop(key, None)
        self._done[key] = None
        for old in list(self._done)[:-TOMBSTONES_MAX]:
            del self._done[old]

    def close(self) -> None:
        """Let the next user in."""
        self._locked = False


class FileSpool:
    """A spool in a directory of its own. Blocking file work goes through `offload`."""

    def __init__(self, directory: Path, *, offload: Offload) -> None:
        self._directory = directory
        self._offload = offload
        self._lock = -1
        self._buried = 0

    async def load(self) -> Spooled:
        """Lock the directory, making it if need be, and read it.

        Raises `Conflict` if another process holds it and `StorageBroken` if it cannot be used at all.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._take_lock()
            return self._read()
        except OSError as error:
            raise _told(error, f"cannot use the spool {self._directory}") from error

    async def save(self, held: Held) -> None:
        """Write, sync and rename; the directory is synced too, so the record outlives a power cut."""
        content = packed(held)
        path = self._path(held.key)
        await self._offload(lambda: self._replace(path, content))

    async def bury(self, key: AttemptKey) -> None:
        """Append the key to the list of the done, unlink the record."""
        await self._offload(lambda: self._bury(key))

    def close(self) -> None:
        """Release the lock."""
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
        held: list[Held] = []
        broken: list[str] = []
        for path in sorted(self._directory.iterdir()):
            if path.suffix == ".tmp":
                path.unlink()
            elif path.suffix == _SUFFIX:
                record = _parse(path.read_bytes())
                if record is not None and self._path(record.key) == path:
                    held.append(record)
                else:
                    broken.append(str(path.rename(_aside(path))))
        done = self._read_done()
        present = {record.key for record in held}
        return Spooled(
            held=tuple(sorted(held, key=lambda record: record.order)),
            done=tuple(key for key in done if key not in present),
            broken=tuple(broken),
        )

    def _read_done(self) -> list[AttemptKey]:
        """The keys remembered, after the list was cut to its bound; a torn last line is left out."""
        path = self._directory / _DONE
        keys: dict[AttemptKey, None] = {}
        for line in path.read_bytes().splitlines() if path.exists() else ():
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                key = msgspec.json.decode(line, type=AttemptKey)
                keys.pop(key, None)
                keys[key] = None
        kept = list(keys)[-TOMBSTONES_MAX:]
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(_lines(kept))
        temporary.replace(path)
        self._buried = len(kept)
        return kept

    def _replace(self, path: Path, content: bytes) -> None:
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(hashlib.sha256(content).hexdigest().encode() + b"\n")
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            self._sync_directory()
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise _told(error, f"cannot write {path}") from error

    def _bury(self, key: AttemptKey) -> None:
        # The key before the record goes: cut off in between, the attempt is reported and buried again.
        try:
            try:
                self._remember(key)
            finally:
                self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise _told(error, f"cannot remember in {self._directory} that an attempt is done") from error

    def _remember(self, key: AttemptKey) -> None:
        if self._buried >= 2 * TOMBSTONES_MAX:
            self._read_done()
        with (self._directory / _DONE).open("ab") as file:
            file.write(_lines([key]))
        self._buried += 1

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _path(self, key: AttemptKey) -> Path:
        return self._directory / f"{key.task_id}.{key.run}.{key.attempt}{_SUFFIX}"


def _parse(content: bytes) -> Held | None:
    """The record in a file's content, or None if it is not whole."""
    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
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


def _lines(keys: Iterable[AttemptKey]) -> bytes:
    return b"".join(msgspec.json.encode(key) + b"\n" for key in keys)


def _told(error: OSError, what: str) -> StorageFull | StorageBroken:
    message = f"{what}: {error.strerror or error}"
    if error.errno in _FULL:
        return StorageFull(f"{message}; free some space")
    return StorageBroken(message)
