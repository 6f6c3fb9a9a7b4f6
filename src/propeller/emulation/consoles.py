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
QUIET_S: Final = 3.0
"""A console whose keys come from a pipe or a file is left when the device has been quiet for so long."""
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
    """Connect this terminal to a device of the fleet that runs in `directory`, until Ctrl-] or its end.

    Where standard input is none, what it holds is typed, and what the device answers is shown.
    """
    if number < 1:
        raise BadInput("devices are numbered from 1 on")
    try:
        reader, writer = await asyncio.open_unix_connection(directory / SOCKET)
    except OSError as error:
        raise NotFound(
            f"no fleet runs in {directory}: {error.strerror}; --data-dir names its directory"
        ) from error
    writer.write(f"{number}\n".encode())
    try:
        if os.isatty(sys.stdin.fileno()):
            await _talk(reader, writer)
        else:
            writer.write(await asyncio.to_thread(sys.stdin.buffer.read))
            await _show(reader, QUIET_S)
    finally:
        writer.close()


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Keys there and what is said here, until Ctrl-] or the device's end."""
    loop, showing = asyncio.get_running_loop(), asyncio.create_task(_show(reader, None))

    def key() -> None:
        pressed = os.read(sys.stdin.fileno(), _PIECE)
        writer.write(pressed.partition(LEAVE)[0])
        if LEAVE in pressed or not pressed:
            showing.cancel()

    with _raw(sys.stdin.fileno()):
        loop.add_reader(sys.stdin.fileno(), key)
        try:
            await asyncio.wait([showing])
        finally:
            loop.remove_reader(sys.stdin.fileno())


async def _show(reader: asyncio.StreamReader, quiet_s: float | None) -> None:
    """What the device says, until it is gone or, if so told, quiet."""
    with contextlib.suppress(TimeoutError):
        while piece := await asyncio.wait_for(reader.read(_PIECE), quiet_s):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Keys one by one and unechoed while inside."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
