"""What guests printed, as lines in files: two per task, the older one dropped when the newer is full.

A line is opaque bytes without a newline. All files together are bounded too: the longest untouched go first.
Best effort by intention: nothing is synced, and a disk that refuses costs lines, never the caller.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from propeller import limits

_NEW, _OLD = ".log", ".log.1"


class FileTaskLogs:
    """The logs of all tasks in a directory of their own. One owner appends."""

    def __init__(
        self,
        directory: Path,
        *,
        task_bytes: int = limits.TASK_LOG_BYTES,
        all_bytes: int = limits.TASK_LOGS_BYTES_MAX,
    ) -> None:
        self._directory = directory
        self._half_bytes = task_bytes // 2
        self._all_bytes = all_bytes

    async def append(self, lines: Mapping[str, Sequence[bytes]]) -> None:
        """Add lines to the logs of tasks, by task id."""
        await asyncio.to_thread(self._append, lines)

    async def read(self, task_id: str) -> list[bytes]:
        """Every line kept of a task, oldest first; none for an unknown one."""
        return await asyncio.to_thread(self._read, task_id)

    async def task_ids(self) -> list[str]:
        """The tasks that have files, in order of their ids."""
        return await asyncio.to_thread(self._task_ids)

    async def forget(self, task_ids: Collection[str]) -> None:
        """Delete the files of these tasks; what cannot be deleted stays."""
        await asyncio.to_thread(self._forget, task_ids)

    def _task_ids(self) -> list[str]:
        try:
            names = [path.name for path in self._directory.iterdir()]
        except OSError:
            return []
        return sorted({_task_of(name) for name in names})

    def _forget(self, task_ids: Collection[str]) -> None:
        for task_id in task_ids:
            for suffix in (_OLD, _NEW):
                with suppress(OSError):
                    (self._directory / (task_id + suffix)).unlink(missing_ok=True)

    def _append(self, lines: Mapping[str, Sequence[bytes]]) -> None:
        with suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for task_id, new in lines.items():
            with suppress(OSError):
                self._write(self._directory / (task_id + _NEW), b"".join(line + b"\n" for line in new))

    def _write(self, path: Path, content: bytes) -> None:
        with path.open("ab") as file:
            file.write(content)
            full = file.tell() > self._half_bytes
        if full:
            path.replace(path.with_name(path.name.removesuffix(_NEW) + _OLD))
            self._evict()

    def _read(self, task_id: str) -> list[bytes]:
        content = b""
        for suffix in (_OLD, _NEW):
            with suppress(OSError):
                content += (self._directory / (task_id + suffix)).read_bytes()
        return content.splitlines()

    def _evict(self) -> None:
        found = [(path.stat().st_mtime, path.stat().st_size, path) for path in self._directory.iterdir()]
        kept_bytes = 0
        for _, size_bytes, path in sorted(found, reverse=True):
            kept_bytes += size_bytes
            if kept_bytes > self._all_bytes:
                path.unlink(missing_ok=True)


def _task_of(name: str) -> str:
    """Whose file it is; an id may end like a file's name itself."""
    return name.removesuffix(_OLD if name.endswith(_OLD) else _NEW)


class MemoryTaskLogs:
    """The twin: keeps the last lines of each task in memory."""

    def __init__(self, *, task_bytes: int = limits.TASK_LOG_BYTES) -> None:
        self._task_bytes = task_bytes
        self._lines: dict[str, list[bytes]] = {}

    async def append(self, lines: Mapping[str, Sequence[bytes]]) -> None:
        """Add lines."""
        for task_id, new in lines.items():
            kept = self._lines.setdefault(task_id, [])
            kept += new
            while sum(map(len, kept)) > self._task_bytes:
                del kept[: max(1, len(kept) // 2)]

    async def read(self, task_id: str) -> list[bytes]:
        """Every line kept."""
        return list(self._lines.get(task_id, ()))

    async def task_ids(self) -> list[str]:
        """The tasks that have lines."""
        return sorted(self._lines)

    async def forget(self, task_ids: Collection[str]) -> None:
        """Drop the lines of these tasks."""
        for task_id in task_ids:
            self._lines.pop(task_id, None)
