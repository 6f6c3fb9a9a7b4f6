"""A guest's output stream, kept in memory up to a bound. It knows nothing of what the text means."""

import errno
from collections.abc import Callable


class Capture:
    """The first `limit_bytes` of a stream; `on_overflow` is called when there is more.

    With `on_overflow` the guest's write fails (no space); without, the rest is swallowed silently.
    """

    def __init__(self, limit_bytes: int, on_overflow: Callable[[], None] | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._on_overflow = on_overflow
        self._kept = bytearray()
        self.overflowed = False

    def write(self, data: bytes) -> int:
        """Take what fits. Called by the engine: never raises; a negative errno is an error to the guest."""
        room_bytes = self._limit_bytes - len(self._kept)
        self._kept += data[:room_bytes]
        if len(data) <= room_bytes:
            return len(data)
        self.overflowed = True
        if self._on_overflow is None:
            return len(data)
        self._on_overflow()
        return -errno.ENOSPC

    def text(self) -> str:
        """What was kept, as text; bytes that are no UTF-8 become U+FFFD."""
        return self._kept.decode("utf-8", errors="replace")
