"""Consoles for other processes: a socket in the fleet's directory, on which one asks for a device by number.

The first line is the number; then everything the device says comes, what it said last first, and everything
written goes to it. It must not know what a device does.
"""

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from propeller.emulation.fleet import Fleet
from propeller.errors import BadInput, NotFound

SOCKET: Final = "console.sock"
LEAVE: Final = b"\x1d"
"""Ctrl-] leaves a console, as in telnet."""
_PIECE = 4096
_QUEUED_PIECES_MAX = 256


@contextlib.asynccontextmanager
async def consoles(fleet: Fleet, directory: Path) -> AsyncIterator[None]:
    """Serve the fleet's consoles for the life of the context."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError):
            await _serve(fleet, reader, writer)
        writer.close()

    path = directory / SOCKET
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def _serve(fleet: Fleet, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    asked = (await reader.readline()).decode(errors="replace").strip()
    device = fleet.devices.get(int(asked)) if asked.isdigit() else None
    if device is None:
        writer.write(f"no device {asked!r}; there are 1 to {len(fleet.devices)}\r\n".encode())
        await writer.drain()
        return
    console = device.machine.console
    writer.write(console.since(0).encode())
    said: asyncio.Queue[bytes] = asyncio.Queue(_QUEUED_PIECES_MAX)

    def hear(piece: bytes) -> None:
        # A listener that does not keep up loses what it does not read; the log has it.
        with contextlib.suppress(asyncio.QueueFull):
            said.put_nowait(piece)

    async def show() -> None:
        while True:
            writer.write(await said.get())
            await writer.drain()

    forget = console.listen(hear)
    showing = asyncio.create_task(show())
    try:
        while keys := await reader.read(_PIECE):
            console.write(keys)
    finally:
        forget()
        showing.cancel()


async def attach(directory: Path, number: int) -> None:
    """Connect this terminal to a device of the fleet that runs in `directory`, until Ctrl-] or its end."""
    try:
        reader, writer = await asyncio.open_unix_connection(directory / SOCKET)
    except OSError as error:
        raise NotFound(
            f"no fleet runs in {directory}: {error.strerror}; --data-dir names its directory"
        ) from error
    if number < 1:
        raise BadInput("devices are numbered from 1 on")
    writer.write(f"{number}\n".encode())
    with _raw(sys.stdin.fileno()):
        loop, left = asyncio.get_running_loop(), asyncio.Event()

        def key() -> None:
            pressed = os.read(sys.stdin.fileno(), _PIECE)
            if LEAVE in pressed or not pressed:
                left.set()
            writer.write(pressed.partition(LEAVE)[0])

        loop.add_reader(sys.stdin.fileno(), key)
        try:
            await _show_until(reader, left)
        finally:
            loop.remove_reader(sys.stdin.fileno())
            writer.close()


async def _show_until(reader: asyncio.StreamReader, left: asyncio.Event) -> None:
    leaving = asyncio.create_task(left.wait())
    try:
        while not leaving.done():
            reading = asyncio.create_task(reader.read(_PIECE))
            await asyncio.wait([reading, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                return
            if not (piece := reading.result()):
                return
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    finally:
        leaving.cancel()


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Keys one by one and unechoed while inside, where it is a terminal."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
