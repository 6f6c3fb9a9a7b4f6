"""The agent's end of the socket to a worker: messages out, messages in, each typed and within bounds.

It knows nothing of jobs. What a worker says is not trusted: nonsense is a `DecodeError` to whoever reads it.
"""

import asyncio
from collections import deque
from typing import Final, cast

from propeller.errors import DecodeError
from propeller.runtime import messages
from propeller.runtime.messages import FromWorker

_CHUNK_BYTES: Final = 256 * 1024
_WAITING_MAX: Final = 64
"""Messages that wait to be read; beyond that the worker is made to wait."""


class LineLost(ConnectionError):
    """The worker has hung up, and everything that it had said was read."""


class Line(asyncio.Protocol):
    """A socket to one worker. One reader and one writer at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._needed_bytes = messages.HEADER.size
        """How much of the buffer makes the next message, as far as its length is known."""
        self._heard: deque[FromWorker | DecodeError] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._lost = False

    # --- what the agent does ---------------------------------------------------------------------------

    async def next(self, within_s: float | None = None) -> FromWorker | None:
        """The next message, or None if none has come by then. Raises `LineLost` and `DecodeError`."""
        if not self._heard and not self._lost:
            await self._wait(within_s)
        if not self._heard:
            if self._lost:
                raise LineLost("the worker has hung up")
            return None
        message = self._heard.popleft()
        if self._transport is not None and len(self._heard) == _WAITING_MAX - 1:
            self._transport.resume_reading()
        if isinstance(message, DecodeError):
            raise message
        return message

    async def send(self, content: bytes) -> None:
        """Write everything, in pieces, so that a large module never holds the loop. Raises `LineLost`."""
        view = memoryview(content)
        for start in range(0, len(view), _CHUNK_BYTES):
            if self._writable is not None:
                await self._writable
            if self._transport is None:
                raise LineLost("the worker has hung up")
            self._transport.write(view[start : start + _CHUNK_BYTES])

    def close(self) -> None:
        """Hang up, which is what ends an idle worker."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up at once: whoever listened is dead."""
        if self._transport is not None:
            self._transport.abort()

    # --- what the loop does ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        del exc
        self._transport, self._lost = None, True
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._buffer += data
        if len(self._buffer) < self._needed_bytes:
            return
        try:
            self._take()
        except DecodeError as error:
            self._heard.append(error)
            self.abort()
        if len(self._heard) >= _WAITING_MAX and self._transport is not None:
            self._transport.pause_reading()
        self._wake()

    # --- inside ----------------------------------------------------------------------------------------

    def _take(self) -> None:
        """Every message that is whole."""
        buffer, at, head = self._buffer, 0, messages.HEADER.size
        while True:
            self._needed_bytes = head
            if len(buffer) - at >= head:
                self._needed_bytes += messages.length(bytes(buffer[at : at + head]))
            if len(buffer) - at < self._needed_bytes:
                break
            end = at + self._needed_bytes
            self._heard.append(messages.decode_from_worker(bytes(buffer[at + head : end])))
            at = end
        del buffer[:at]

    async def _wait(self, within_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(within_s, self._wake) if within_s is not None else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
