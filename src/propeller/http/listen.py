"""Listening: a port taken before anything else starts, and one server per role in a shared loop.

It must not know what it serves. Signals are the business of whoever owns the process.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Generator
from typing import Any

import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from propeller import limits
from propeller.errors import BadInput, EnvironmentError_, PortInUse
from propeller.http.answers import ErrorBody
from propeller.wire import codec

BACKLOG = 2048
"""Connections that may wait to be accepted, as uvicorn has it."""
SHUTDOWN_S = 3
"""Requests in progress may take this long to end after `serve` is cancelled."""


def bind(host: str, port: int, flag: str) -> socket.socket:
    """A listening TCP socket; port 0 takes any free one. `flag` is the option that changes this port.

    From here on clients can connect and wait, so that roles of one process may start in any order.
    Raises `PortInUse`, `BadInput` for a host that is not ours, `EnvironmentError_` for a forbidden port.
    """
    family, address = _resolve(host, port)
    # Accepted sockets inherit both: asyncio sets TCP_NODELAY only where the protocol is named, and without it
    # a small answer waits 40 ms for the peer's delayed acknowledgement.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)  # noqa: FBT003 - the standard library has no keyword here
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _named(error, host, port, flag) from error
    return sock


def port_of(sock: socket.socket) -> int:
    """The port that a socket listens on."""
    return int(sock.getsockname()[1])


async def serve(app: ASGIApp, sock: socket.socket, *, stall_s: float = limits.HTTP_STALL_S) -> None:
    """Answer on `sock` until cancelled, then let requests in progress end for `SHUTDOWN_S`; closes `sock`.

    `stall_s` bounds how long a request may take to begin, and how long its body may bring nothing.
    """
    config = uvicorn.Config(
        app,
        loop="none",
        http=type("BoundedProtocol", (_BoundedProtocol,), {"stall_s": stall_s}),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=limits.HTTP_KEEPALIVE_S,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        server.stop()
        await running
        raise
    finally:
        sock.close()


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise BadInput(f"cannot listen on host {host!r}: {error}; give an address of this machine") from error
    # IPv4 first: `localhost` names both, and the published commands mean 127.0.0.1.
    found.sort(key=lambda item: item[0] != socket.AF_INET)
    family, _, _, _, address = found[0]
    return family, address


def _named(error: OSError, host: str, port: int, flag: str) -> Exception:
    match error.errno:
        case errno.EADDRINUSE:
            return PortInUse(f"port {port} on {host} is already in use; choose another with {flag} PORT")
        case errno.EADDRNOTAVAIL:
            return BadInput(f"cannot listen on host {host!r}: it is not an address of this machine")
        case errno.EACCES:
            return EnvironmentError_(
                f"port {port} on {host} is not allowed for this user; choose another with {flag} PORT",
                code="port_denied",
            )
        case _:
            return EnvironmentError_(f"cannot listen on {host} port {port}: {error}")


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers, and asleep between seconds instead of ten ticks in each."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Begin the graceful end."""
        self.should_exit = True
        self._stop.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests end; those that take too long get no answer, as if the process had been killed."""
        try:
            async with asyncio.timeout(SHUTDOWN_S):
                await super().shutdown(sockets)
        except TimeoutError:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)  # the aborts reach the requests before the cancellation does
            for task in list(self.server_state.tasks):
                task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the process's signals alone."""
        yield

    async def main_loop(self) -> None:
        """Renew the `Date` header each second until told to stop."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._stop.wait()


class _BoundedProtocol(HttpToolsProtocol):
    """One connection, with bounds on what may come, and for how long, before a request is complete.

    The parser itself would hold a header of any length for as long as the peer keeps sending, and wait for
    ever for a body. A request that arrives whole in one piece costs no timer.
    """

    stall_s = limits.HTTP_STALL_S
    _head_bytes = 0
    _in_head = True
    _stalled = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._stalled = False
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes == 0:
            self._disarm()
        elif self._head_bytes > limits.HTTP_HEAD_BYTES_MAX:
            self.send_400_response(f"request head over {limits.HTTP_HEAD_BYTES_MAX} bytes")
        else:
            self._arm()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request, in the shape of every other error, and hang up."""
        body = codec.encode(ErrorBody(error=msg, code="bad_request"))
        head = (
            f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _arm(self) -> None:
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.stall_s, self._check)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _check(self) -> None:
        """A head has one period to arrive whole; a body may take any number if each of them brings some."""
        self._deadline = None
        if self._in_head or (self._stalled and not self.flow.read_paused):
            self.transport.close()
            return
        self._stalled = True
        self._arm()
