"""A guest's output stream, kept in memory up to a bound. It knows nothing of what the text means.

The guest's thread writes, another may take what is new for a log meanwhile.
"""

import errno
from collections.abc import Callable
from threading import Lock


class Capture:
    """The first `limit_bytes` of a stream; `on_overflow` is called when there is more.

    With `on_overflow` the guest's write fails (no space); without, the rest is swallowed silently. A
    `rolling` one keeps the last `limit_bytes` instead and never overflows.
    """

    def __init__(
        self, limit_bytes: int, on_overflow: Callable[[], None] | None = None, *, rolling: bool = False
    ) -> None:
        self._limit_bytes = limit_bytes
        self._on_overflow = on_overflow
        self._rolling = rolling
        self._kept = bytearray()
        self._forgotten = 0
        """Bytes written before the first one that is kept."""
        self._taken = 0
        """Bytes of the whole stream that were taken or skipped."""
        self._lock = Lock()
        self.overflowed = False

    def write(self, data: bytes) -> int:
        """Take what fits. Called by the engine: never raises; a negative errno is an error to the guest."""
        if self._rolling:
            return self._roll(data)
        with self._lock:
            room_bytes = self._limit_bytes - len(self._kept)
            self._kept += data[:room_bytes]
        if len(data) <= room_bytes:
            return len(data)
        self.overflowed = True
        if self._on_overflow is None:
            return len(data)
        self._on_overflow()
        return -errno.ENOSPC

    def _roll(self, data: bytes) -> int:
        with self._lock:
            self._kept += data
            # Cut at twice the bound only, so that a byte is moved once on average.
            if len(self._kept) > 2 * self._limit_bytes:
                cut_bytes = len(self._kept) - self._limit_bytes
                del self._kept[:cut_bytes]
                self._forgotten += cut_bytes
        return len(data)

    def take(self, limit_bytes: int) -> tuple[bytes, int]:
        """What was written since the last call, at most its last `limit_bytes`, and how many were skipped."""
        with self._lock:
            written = self._forgotten + len(self._kept)
            start = max(self._taken, self._forgotten, written - limit_bytes)
            skipped, self._taken = start - self._taken, written
            return bytes(self._kept[start - self._forgotten :]), skipped

    def text(self) -> str:
        """What was kept, as text; bytes that are no UTF-8 become U+FFFD."""
        with self._lock:
            kept = bytes(self._kept[-self._limit_bytes :] if self._rolling else self._kept)
        return kept.decode("utf-8", errors="replace")
