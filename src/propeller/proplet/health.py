"""`GET /health` and `GET /metrics` of a proplet: a few lines on asyncio, as every megabyte counts here.

HTTP/1.1 with one request per connection (RFC 9112). It knows the two paths and nothing of what they tell.
"""

import asyncio
import errno
from collections.abc import Callable, Mapping
from contextlib import suppress

from propeller.errors import EnvironmentError_, PortInUse

REQUEST_BYTES_MAX = 8192
REQUEST_S = 5.0
"""A request must be here after this, its answer taken after as much again."""
CONNECTIONS_MAX = 32
"""Connections at once; further ones are closed unanswered."""
_WORDS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}
_JSON = "application/json"

Page = Callable[[], tuple[str, bytes]]
"""Content type and body, made anew for every request."""


async def start(host: str, port: int, pages: Mapping[str, Page]) -> asyncio.Server:
    """Serve `pages` by path. Port 0 takes a free one. Raises `PortInUse` or `EnvironmentError_`."""
    open_now: set[object] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(open_now) < CONNECTIONS_MAX:
            open_now.add(writer)
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await _answer(reader, writer, pages)
            open_now.discard(writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    try:
        return await asyncio.start_server(serve, host, port, limit=REQUEST_BYTES_MAX)
    except OSError as error:
        where = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} on {host} is taken; choose another with --metrics-port (PROPLET_METRICS_PORT)"
            ) from error
        raise EnvironmentError_(f"cannot listen on {where}: {error.strerror or error}") from error


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pages: Mapping[str, Page]
) -> None:
    async with asyncio.timeout(REQUEST_S):
        head = await reader.readuntil(b"\r\n\r\n")
    status, kind, body = _page(head, pages)
    headers = (
        f"HTTP/1.1 {status} {_WORDS[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(headers.encode() + (b"" if head.startswith(b"HEAD ") else body))
    async with asyncio.timeout(REQUEST_S):
        await writer.drain()


def _page(head: bytes, pages: Mapping[str, Page]) -> tuple[int, str, bytes]:
    words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):  # noqa: PLR2004 - method, target, version
        return 400, _JSON, b'{"error":"not an HTTP/1.1 request","code":"bad_input"}'
    if words[0] not in {"GET", "HEAD"}:
        return 405, _JSON, b'{"error":"only GET here","code":"method_not_allowed"}'
    page = pages.get(words[1].partition("?")[0])
    if page is None:
        return 404, _JSON, b'{"error":"only /health and /metrics here","code":"not_found"}'
    return 200, *page()
