"""What a guest prints, sent on while it runs: cut into numbered chunks, at a bounded pace, best effort.

A guest may print without end; the bus and the manager may not be made to carry it. What is over the pace is
left out and counted, so that a reader sees the gap. It knows bytes and time, and nothing of what is said.
"""

import asyncio
import codecs
from collections.abc import Callable

from propeller.ports import Clock, OutputStream
from propeller.wire.messages import AttemptKey, LogChunk

CHUNK_BYTES_MAX = 16 * 1024
PACE_BYTES_PER_S = 64 * 1024
BURST_BYTES = 256 * 1024
"""One attempt's log: this much at once, and then so much in a second; the rest is dropped and counted."""
FLUSH_S = 0.1
"""What was printed goes out after this at the latest, with whatever came after it."""

Send = Callable[[LogChunk], bool]
"""Takes a chunk on its way, or answers False if there is no room for it now."""


class GuestLog:
    """The log of one attempt: `take` is a `GuestJob.on_output`; `close` it when the guest has ended."""

    def __init__(
        self, key: AttemptKey, *, clock: Clock, send: Send, streams: tuple[OutputStream, ...]
    ) -> None:
        self._key = key
        self._clock = clock
        self._send = send
        self._streams = streams
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in streams}
        self._waiting: dict[OutputStream, bytearray] = {name: bytearray() for name in streams}
        self._timer: asyncio.TimerHandle | None = None
        self._room_bytes = float(BURST_BYTES)
        self._filled_s = clock.now().mono_s
        self._seq = 0
        self._dropped_bytes = 0

    def take(self, stream: OutputStream, data: bytes, skipped_bytes: int) -> None:
        """Note what was printed; it goes out soon, or at once if it is much."""
        if stream not in self._streams:
            return
        self._dropped_bytes += skipped_bytes
        self._waiting[stream] += data
        if len(self._waiting[stream]) >= CHUNK_BYTES_MAX:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def close(self) -> None:
        """Send what waits, and say that this was the end if anything was ever said."""
        self._flush()
        if self._seq or self._dropped_bytes:
            self._send(self._chunk("stdout", "", last=True))

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._refill()
        for stream, waiting in self._waiting.items():
            data = bytes(waiting)
            waiting.clear()
            for start in range(0, len(data), CHUNK_BYTES_MAX):
                self._piece(stream, data[start : start + CHUNK_BYTES_MAX])

    def _piece(self, stream: OutputStream, data: bytes) -> None:
        text = self._decoders[stream].decode(data)
        if len(data) > self._room_bytes or not self._send(self._chunk(stream, text)):
            self._dropped_bytes += len(data)
            return
        self._room_bytes -= len(data)
        self._seq += 1

    def _chunk(self, stream: OutputStream, text: str, *, last: bool = False) -> LogChunk:
        key = self._key
        return LogChunk(
            task_id=key.task_id,
            run=key.run,
            attempt=key.attempt,
            seq=self._seq,
            stream=stream,
            text=text,
            dropped_bytes=self._dropped_bytes,
            last=last,
        )

    def _refill(self) -> None:
        now_s = self._clock.now().mono_s
        self._room_bytes = min(BURST_BYTES, self._room_bytes + (now_s - self._filled_s) * PACE_BYTES_PER_S)
        self._filled_s = now_s
