"""Compiled modules on disk, authenticated: nobody's bytes but our own are ever mapped as machine code.

An entry is two files, the compiled code and a tag: HMAC-SHA256 of the entry's name and content under a key
that only this user can read. A missing, foreign or damaged entry is simply absent. The module
knows nothing of wasmtime; what it keeps are bytes.
"""

import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from propeller.errors import StorageBroken

_KEY_BYTES: Final = 32
_CODE: Final = ".cwasm"
_TAG: Final = ".tag"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An authentic entry, held open. Map `path`, which names the verified file itself, then `close`."""

    descriptor: int

    @property
    def path(self) -> str:
        """A path to exactly the bytes that were verified, whatever happens to the directory meanwhile."""
        return f"/proc/self/fd/{self.descriptor}"

    def close(self) -> None:
        """Let go of the file; a mapping made from it stays."""
        os.close(self.descriptor)


class CompileCache:
    """The cache in `directory`, made on demand with access for this user only; at most `limit_bytes` of code.

    Raises `StorageBroken` when the directory or the key belongs to, or is writable by, somebody else.
    """

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _refuse_foreign(directory)
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._key = _read_or_make_key(directory / "key")

    def open(self, name: str) -> Entry | None:
        """The entry of that name if it is there and authentic."""
        try:
            descriptor = os.open(self._directory / (name + _CODE), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        if self._authentic(name, descriptor):
            with suppress(OSError):
                os.utime(descriptor)
            return Entry(descriptor=descriptor)
        os.close(descriptor)
        return None

    def store(self, name: str, code: bytes | bytearray) -> None:
        """Keep `code` under `name`, and forget the longest unused entries over the limit."""
        self._replace(name + _CODE, code)
        self._replace(name + _TAG, self._tag(name, hashlib.sha256(code).digest()))
        self._evict()

    @contextmanager
    def compiling(self, name: str) -> Iterator[None]:
        """Hold the right to compile `name`: others who want the same wait here, and then find it stored."""
        descriptor = os.open(
            self._directory / (name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _authentic(self, name: str, descriptor: int) -> bool:
        try:
            tag = (self._directory / (name + _TAG)).read_bytes()
        except OSError:
            return False
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = hashlib.file_digest(file, "sha256").digest()
        return hmac.compare_digest(tag, self._tag(name, content))

    def _tag(self, name: str, content: bytes) -> bytes:
        return hmac.digest(self._key, name.encode() + b"\0" + content, "sha256")

    def _replace(self, file_name: str, content: bytes | bytearray) -> None:
        temporary = self._directory / f".{file_name}.{os.getpid()}"
        _write_new(temporary, content)
        temporary.replace(self._directory / file_name)

    def _evict(self) -> None:
        kept_bytes = 0
        for path in sorted(self._directory.glob("*" + _CODE), key=_age, reverse=True):
            kept_bytes += _size(path)
            if kept_bytes > self._limit_bytes:
                for suffix in (_TAG, _CODE, ".lock"):
                    path.with_suffix(suffix).unlink(missing_ok=True)


def _age(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _refuse_foreign(path: Path) -> None:
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise StorageBroken(
            f"{path} belongs to or is writable by another user; compiled code from it cannot be trusted. "
            "Give the runtime a directory of its own, or remove it."
        )


def _read_or_make_key(path: Path) -> bytes:
    if not path.exists():
        temporary = path.with_name(f".key.{os.getpid()}.{secrets.token_hex(8)}")
        _write_new(temporary, secrets.token_bytes(_KEY_BYTES))
        with suppress(FileExistsError):
            # A link, unlike a rename, never replaces the key that another process made meanwhile.
            path.hardlink_to(temporary)
        temporary.unlink()
    _refuse_foreign(path)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES or path.stat().st_mode & 0o077:
        raise StorageBroken(f"{path} is not a key of ours (32 bytes, mode 0600); remove it to make a new one")
    return key


def _write_new(path: Path, content: bytes | bytearray) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
