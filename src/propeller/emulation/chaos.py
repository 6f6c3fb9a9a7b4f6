"""A TCP forwarder that can be slow: the way from devices to services, with delay, bandwidth and loss.

A stream has no packets that could be lost: what loss costs a stream is time, and that is drawn here, a
retransmission timeout for each lost segment, doubled while it is lost again (RFC 6298). It must not know
what is sent.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

SEGMENT_BYTES: Final = 1448
TIMEOUT_S: Final = 0.2
TIMEOUT_S_MAX: Final = 12.8
_PIECE: Final = 16 * 1024
_AHEAD_PIECES: Final = 64
"""Pieces on their way at once, each way; more wait at the sender, as with a full window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What happens on the way. `delay_s` is one way, `bytes_per_s` a connection's each way; 0 is no limit."""

    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    loss: float = 0.0

    def wait_s(self, size: int, random: Random) -> float:
        """How long `size` bytes occupy the way: their transmission, and waits for what is lost."""
        waited = size / self.bytes_per_s if self.bytes_per_s else 0.0
        for _ in range(-(-size // SEGMENT_BYTES) if self.loss else 0):
            timeout_s = TIMEOUT_S
            while random.random() < self.loss:
                waited += timeout_s
                timeout_s = min(TIMEOUT_S_MAX, 2 * timeout_s)
        return waited


@contextlib.asynccontextmanager
async def forwarded(host: str, ports: Sequence[int], weather: Weather, random: Random) -> AsyncIterator[None]:
    """What connects to `host` at one of `ports` reaches that port of loopback, while the context lasts."""
    carried: set[asyncio.Task[None]] = set()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(_end, carried)
        for port in ports:
            door = _Door(port, weather, random, carried)
            stack.callback((await asyncio.start_server(door.enter, host, port)).close)
        yield


async def _end(tasks: "set[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Door:
    """One forwarded port; `carried` holds its connections while they last."""

    def __init__(
        self, port: int, weather: Weather, random: Random, carried: "set[asyncio.Task[None]]"
    ) -> None:
        self._port, self._weather, self._random, self._carried = port, weather, random, carried

    def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection both ways until both ends have ended it."""
        task = asyncio.create_task(self._connect(reader, writer))
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            try:
                to_service, from_service = await asyncio.open_connection("127.0.0.1", self._port)
                with contextlib.closing(from_service):
                    # An end that is gone, even one that only reads, ends both ways.
                    async with asyncio.TaskGroup() as ways:
                        ways.create_task(self._carry(reader, from_service))
                        ways.create_task(self._carry(to_service, writer))
            except* OSError:
                pass

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ahead: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_AHEAD_PIECES)
        async with asyncio.TaskGroup() as ends:
            ends.create_task(self._take(reader, ahead))
            ends.create_task(_pour(ahead, writer))

    async def _take(self, reader: asyncio.StreamReader, ahead: "asyncio.Queue[tuple[float, bytes]]") -> None:
        loop, free_s, piece = asyncio.get_running_loop(), 0.0, b"-"
        while piece:
            piece = await reader.read(_PIECE)
            free_s = max(free_s, loop.time()) + self._weather.wait_s(len(piece), self._random)
            await ahead.put((free_s + self._weather.delay_s, piece))


async def _pour(ahead: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_s, piece = await ahead.get()
        if (left_s := due_s - loop.time()) > 0:
            await asyncio.sleep(left_s)
        if not piece:
            break
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
