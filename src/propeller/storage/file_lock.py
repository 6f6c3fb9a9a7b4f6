"""One owner per database file: a lock that the kernel releases when its process ends, however it ends."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self

from propeller.errors import EnvironmentError_, StorageBroken

_USED = "used"


class FileLock:
    """An exclusive lock on `NAME.lock` beside a file. The sidecar stays: removing it would race.

    It also remembers whether the file was ever in use, so that one cut to nothing is not taken for a new one.
    """

    def __init__(self, descriptor: int, *, used_before: bool) -> None:
        self._descriptor = descriptor
        self.used_before = used_before

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Lock at once or raise `StorageBroken` naming the owner's process; creates the folder if absent."""
        sidecar = path.with_name(path.name + ".lock")
        try:
            sidecar.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(sidecar, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EnvironmentError_(f"cannot open {sidecar}: {error}; choose another --data-dir") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner, _ = _read(descriptor)
            os.close(descriptor)
            raise StorageBroken(
                f"{path} is in use by another process ({owner}); stop it or choose another --data-dir",
                code="storage_in_use",
            ) from error
        _, used_before = _read(descriptor)
        lock = cls(descriptor, used_before=used_before)
        lock._write(used=used_before)
        return lock

    def mark_used(self) -> None:
        """Remember that the file holds data from now on."""
        if not self.used_before:
            self._write(used=True)

    def release(self) -> None:
        """Let another process have it; releasing again is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, *, used: bool) -> None:
        text = f"pid {os.getpid()}\n{_USED if used else ''}\n".encode()
        # The lock holds without its text; a full disk is for the database itself to report.
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, text, 0)
            os.truncate(self._descriptor, len(text))


def _read(descriptor: int) -> tuple[str, bool]:
    """The process that wrote the sidecar last, and whether the file was in use."""
    lines = os.pread(descriptor, 64, 0).decode(errors="replace").split("\n")
    return lines[0] or "unknown", _USED in lines[1:]
