"""Content by its SHA-256, as files: durable when `put` returns, verified whenever it is read.

A file is written under a temporary name, fsynced, renamed, and its folder fsynced, so a name that exists is
whole after any crash. This module must not know what the content is.
"""

import asyncio
import contextlib
import errno
import hashlib
import mmap
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self

from propeller import limits
from propeller.errors import (
    BadInput,
    Conflict,
    EnvironmentError_,
    NotFound,
    StorageBroken,
    StorageFull,
    TooLarge,
)
from propeller.ports import BlobWriter

CHUNK_BYTES = 1024 * 1024
"""How much of a file is read at once."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_KEPT_MAX = 4096
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_digest(digest: str) -> str:
    """The digest itself, or `BadInput` for anything but 64 lower-case hex digits."""
    if not _DIGEST.fullmatch(digest):
        raise BadInput(f"{digest[:80]!r} is not a digest: 64 lower-case hex digits of SHA-256")
    return digest


def check_expected(digest: str, expected: str | None) -> str:
    """The digest, or `Conflict` when the sender announced another."""
    if expected is not None and digest != expected:
        raise Conflict(f"the content has digest {digest}, not {expected}", code="digest_mismatch")
    return digest


class FileBlobs:
    """`ports.Blobs` under one folder: `ab/abcd…` for content, `tmp/` for what is not yet whole."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._durable_folders: set[Path] = set()
        self._folders = threading.Lock()
        self._naming = threading.Lock()
        """Held while a name begins or ceases to be good: `forget` must not hit what was just stored."""
        self._kept: dict[str, tuple[int, int, int]] = {}
        """What this object has stored whole, and the file's inode, length and time since."""

    def path(self, digest: str) -> Path:
        """Where the content is, or would be: for mapping and for serving files. `BadInput` for no digest."""
        return self._root / check_digest(digest)[:2] / digest

    async def put(self, content: bytes) -> str:
        """Store durably and return the digest. Raises `StorageFull`.

        Small content that this object has stored before, in a file that was not touched since, costs neither
        a thread nor a sync: many tasks share one module.
        """
        if len(content) <= limits.BLOB_INLINE_BYTES_MAX:
            digest = hashlib.sha256(content).hexdigest()
            stamp = _stamp(self.path(digest))
            if stamp and self._kept.get(digest) == stamp and _age_s(stamp) < limits.BLOB_IDLE_S / 2:
                return digest
        return await asyncio.to_thread(self._put, content)

    async def get(self, digest: str) -> bytes:
        """The content, verified; raises `NotFound`, or `StorageBroken` if the disk lies."""
        return await asyncio.to_thread(self._get, digest)

    async def has(self, digest: str) -> bool:
        """Whether `get` would find it."""
        return await asyncio.to_thread(self.path(digest).is_file)

    async def size(self, digest: str) -> int:
        """Its length in bytes; raises `NotFound`."""
        with _named(digest):
            return (await asyncio.to_thread(self.path(digest).stat)).st_size

    async def delete(self, digest: str) -> None:
        """Forget it; absent is fine."""
        with _named(digest):
            await asyncio.to_thread(self.path(digest).unlink, missing_ok=True)

    async def forget(self, digest: str, *, idle_s: float = limits.BLOB_IDLE_S) -> bool:
        """Delete it unless it was stored, also again, within `idle_s`; whether it was there and is gone."""
        return await asyncio.to_thread(self._forget, digest, idle_s)

    async def read_chunks(self, digest: str, chunk_bytes: int = CHUNK_BYTES) -> AsyncIterator[bytes]:
        """The content in pieces; raises `NotFound`, or `StorageBroken` at the end if the disk lied."""
        with _named(digest):
            file = await asyncio.to_thread(self.path(digest).open, "rb")
        sha = hashlib.sha256()
        try:
            while chunk := await asyncio.to_thread(file.read, chunk_bytes):
                await asyncio.to_thread(sha.update, chunk)
                yield chunk
        finally:
            file.close()
        _check_read(sha.hexdigest(), digest)

    async def mapped(self, digest: str) -> memoryview:
        """The content as it lies there: read where it is touched, and not verified. Raises `NotFound`."""
        return await asyncio.to_thread(self._mapped, digest)

    def file_of(self, digest: str) -> Path | None:
        """Where it lies."""
        return self.path(digest)

    def _mapped(self, digest: str) -> memoryview:
        with _named(digest), self.path(digest).open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return memoryview(b"")
            # The mapping outlives the descriptor, and goes with the last view of it.
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    async def digests(self) -> list[str]:
        """Everything stored, in order; for sweeping what nothing refers to."""
        return await asyncio.to_thread(self._digests)

    def open_writer(self, limit_bytes: int = limits.HTTP_BODY_BYTES_MAX) -> BlobWriter:
        """A writer for content that arrives in pieces, in memory one piece at a time."""
        return _FileWriter(self, limit_bytes)

    async def clear_unfinished(self) -> None:
        """At start: remove what a crash left half written. No writer may be open."""
        await asyncio.to_thread(shutil.rmtree, self._root / "tmp", ignore_errors=True)

    def begin_file(self) -> tuple[int, Path]:
        """A new file under a temporary name, open for writing; `keep_file` or unlinking ends it."""
        with _named("a new blob"):
            folder = self._root / "tmp"
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=folder)
            return descriptor, Path(name)

    def keep_file(self, descriptor: int, temporary: Path, digest: str) -> None:
        """Give a written file its name, durably; closes the descriptor."""
        target = self.path(digest)
        with _named(digest):
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._make_folder(target.parent)
            with self._naming:
                temporary.replace(target)
            _fsync_folder(target.parent)
            self._note(digest)

    def _put(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        if self._holds(digest, content):
            return digest
        descriptor, temporary = self.begin_file()
        try:
            try:
                write_all(descriptor, content)
            except BaseException:
                os.close(descriptor)
                raise
            self.keep_file(descriptor, temporary, digest)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return digest

    def _holds(self, digest: str, content: bytes) -> bool:
        """Whether the same content is there, whole: a copy that has rotted is written anew."""
        path = self.path(digest)
        try:
            if path.read_bytes() != content:
                return False
            with self._naming:
                os.utime(path)
            # Another thread may have renamed it just now and not be done.
            self._make_folder(path.parent)
            _fsync_folder(path.parent)
        except OSError:
            return False
        self._note(digest)
        return True

    def _forget(self, digest: str, idle_s: float) -> bool:
        path = self.path(digest)
        with self._naming, _named(digest):
            stamp = _stamp(path)
            # A clock that was set back makes files younger, which keeps them.
            if stamp is None or _age_s(stamp) < idle_s:
                return False
            path.unlink(missing_ok=True)
            return True

    def _note(self, digest: str) -> None:
        if len(self._kept) >= _KEPT_MAX:
            self._kept.clear()
        if stamp := _stamp(self.path(digest)):
            self._kept[digest] = stamp

    def _make_folder(self, folder: Path) -> None:
        """Make a shard whose own name is durable too, once per life of this object."""
        with self._folders:
            if folder in self._durable_folders:
                return
            folder.mkdir(parents=True, exist_ok=True)
            _fsync_folder(self._root)
            _fsync_folder(self._root.parent)
            self._durable_folders.add(folder)

    def _get(self, digest: str) -> bytes:
        with _named(digest):
            content = self.path(digest).read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            self._kept.pop(digest, None)
        _check_read(found, digest)
        return content

    def _digests(self) -> list[str]:
        return sorted(path.name for path in self._root.glob("??/*") if _DIGEST.fullmatch(path.name))


class _FileWriter:
    """`BlobWriter` over a temporary file.

    Who is cancelled does not wait for the thread that works for it. So the file is touched under a lock and
    only before the end: a thread that comes too late must not write to a descriptor that is somebody else's
    by then, nor give an empty file the name of what was to be in it.
    """

    def __init__(self, blobs: FileBlobs, limit_bytes: int) -> None:
        self._blobs = blobs
        self._limit_bytes = limit_bytes
        self._sha = hashlib.sha256()
        self._file: tuple[int, Path] | None = None
        self._alone = threading.Lock()
        self._ended = False
        self.size = 0

    async def write(self, chunk: bytes) -> None:
        check_writable(self.size + len(chunk), self._limit_bytes, ended=self._ended)
        await asyncio.to_thread(self._append, chunk)

    async def commit(self, expected: str | None = None) -> str:
        check_writable(self.size, self._limit_bytes, ended=self._ended)
        try:
            digest = check_expected(self._sha.hexdigest(), expected)
            await asyncio.to_thread(self._keep, digest)
        except BaseException:
            await self.abort()
            raise
        self._ended = True
        return digest

    async def abort(self) -> None:
        if not self._ended:
            self._ended = True
            await asyncio.shield(asyncio.to_thread(self._discard))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.abort()

    def _append(self, chunk: bytes) -> None:
        with self._alone:
            if self._ended:
                return
            if self._file is None:
                self._file = self._blobs.begin_file()
            write_all(self._file[0], chunk)
            self._sha.update(chunk)
            self.size += len(chunk)

    def _discard(self) -> None:
        with self._alone:
            file, self._file = self._file, None
            if file is not None:
                os.close(file[0])
                file[1].unlink(missing_ok=True)

    def _keep(self, digest: str) -> None:
        with self._alone:
            if self._ended:
                return
            descriptor, temporary = self._file or self._blobs.begin_file()
            self._file = None
        try:
            self._blobs.keep_file(descriptor, temporary, digest)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def check_writable(size: int, limit_bytes: int, *, ended: bool) -> None:
    """Refuse a piece over the limit, and any piece after the end."""
    if ended:
        raise Conflict("this upload has ended", code="upload_ended")
    if size > limit_bytes:
        raise TooLarge(f"the content is over {limit_bytes} bytes")


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte, or raise `StorageFull`."""
    rest = memoryview(content)
    with _named("a blob"):
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def _check_read(found: str, digest: str) -> None:
    if found != digest:
        raise StorageBroken(f"blob {digest} is damaged on disk: it now hashes to {found}; store it again")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does; None without one."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _age_s(stamp: tuple[int, int, int]) -> float:
    """How long ago the file was written, by the clock that dates files."""
    return time.time() - stamp[2] / 1e9


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """The operating system's errors as ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"no blob {what}") from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull(
                f"no room to store {what}; free some space, nothing accepted was lost"
            ) from error
        raise EnvironmentError_(f"cannot reach {what}: {error}; check the disk", code="storage_io") from error
