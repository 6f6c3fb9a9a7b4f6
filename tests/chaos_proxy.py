"""A TCP proxy that treats its connections as bad networks do. Not a test itself.

It delays, throttles, holds back either direction, resets, and refuses; it changes no byte and loses none of
those that it passes on, as TCP does.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 4096


@dataclass
class Direction:
    """One way through the proxy. `open` cleared holds everything back."""

    delay_s: float = 0.0
    bytes_per_s: float = float("inf")
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()


class ChaosProxy:
    """Listens on `port` and passes on to the target; an async context manager."""

    def __init__(self, host: str, port: int, *, listen: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self._listen = listen
        self.up, self.down = Direction(), Direction()
        """From the client, and to it."""
        self.refuses = False
        """Whether new connections are closed at once."""
        self.accepted = 0
        """Connections that were tried, those refused included."""
        self._live: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """From now on nothing passes either way; nobody is told."""
        self.up.open.clear()
        self.down.open.clear()
        self.refuses = True

    def mend(self) -> None:
        """Let everything pass again, what was held back first."""
        self.refuses = False
        self.up.open.set()
        self.down.open.set()

    def reset(self) -> None:
        """End every connection with a reset."""
        for task in self._live:
            task.cancel()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._listen, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        if self._live:
            await asyncio.wait(self._live)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._live.add(task)
        try:
            if not self.refuses:
                await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._live.discard(task)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        try:
            async with asyncio.TaskGroup() as group:
                ways = [
                    group.create_task(_pass(reader, far_writer, self.up)),
                    group.create_task(_pass(far_reader, writer, self.down)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        finally:
            far_writer.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction) -> None:
    """Read on while earlier bytes are on their way, as a long line does; order is kept, an end comes last."""
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)
    loop = asyncio.get_running_loop()
    # Draining then means that all is handed over, so that an end loses nothing.
    writer.transport.set_write_buffer_limits(high=0)

    async def deliver() -> None:
        while True:
            due_s, data = await under_way.get()
            if not data:
                return
            await asyncio.sleep(max(0.0, due_s - loop.time()) + len(data) / way.bytes_per_s)
            await way.open.wait()
            writer.write(data)
            await writer.drain()

    delivering = asyncio.create_task(deliver())
    try:
        while data := await reader.read(_CHUNK_BYTES):
            await under_way.put((loop.time() + way.delay_s, data))
        await under_way.put((loop.time(), b""))
        await asyncio.wait([delivering])
    except OSError:
        pass
    finally:
        delivering.cancel()
        await asyncio.wait([delivering])


@contextlib.asynccontextmanager
async def flapping(proxy: ChaosProxy, period_s: float) -> AsyncIterator[None]:
    """Reset all connections again and again meanwhile."""

    async def flap() -> None:
        while True:
            await asyncio.sleep(period_s)
            proxy.reset()

    task = asyncio.create_task(flap())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
