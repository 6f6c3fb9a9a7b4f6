"""The HTTP client's twin in memory: requests go straight to ASGI applications, with faults on demand.

No sockets, no threads, no clock but the running loop's: the same seed gives the same run. It behaves as the
pair of client and server does where that can be seen: a handler goes on when its caller gives up, and ends
when its server is taken away. It must not know what the applications do.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast
from urllib.parse import unquote, urlsplit

from litestar.types import ASGIApp

from propeller import limits
from propeller.errors import BadInput, PeerUnavailable, TooLarge
from propeller.http.client import check_url, shown
from propeller.ports import Response
from propeller.telemetry.logs import logger


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to one request: what is lost, and how late the two directions are (seconds)."""

    lose: Literal["nothing", "request", "response"] = "nothing"
    """`request`: the handler never runs. `response`: it runs, and the caller does not learn of it."""
    request_s: float = 0.0
    response_s: float = 0.0


NO_FAULT = Fault()


class MemoryHttp:
    """`ports.Http` between applications of one process. `faults(method, url)` decides per request."""

    def __init__(self, faults: Callable[[str, str], Fault] = lambda _method, _url: NO_FAULT) -> None:
        self._faults = faults
        self._apps: dict[str, ASGIApp] = {}
        self._running: dict[str, set[asyncio.Task[Response]]] = {}
        self._closed = False

    def register(self, origin: str, app: ASGIApp) -> None:
        """Let `app` answer for `origin`, as in `http://localhost:7070`; replaces what answered before."""
        self._apps[_origin(origin)] = app

    def unregister(self, origin: str) -> None:
        """Take the server away at once, as a killed process: its requests in progress end unanswered."""
        self._apps.pop(_origin(origin), None)
        for task in self._running.pop(_origin(origin), set()):
            task.cancel()

    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: AsyncIterator[bytes] | bytes = b"",
        sink: Callable[[bytes], Awaitable[object]],
        timeout_s: float = limits.HTTP_STREAM_S,
        limit_bytes: int = limits.MODEL_FILE_BYTES_MAX,
    ) -> Response:
        """See `ports.HttpStreams`; here everything is in memory anyway."""
        whole = body if isinstance(body, bytes) else b"".join([chunk async for chunk in body])
        answer = await self.request(
            method, url, headers=headers, body=whole, timeout_s=timeout_s, limit_bytes=limit_bytes
        )
        if not 200 <= answer.status < 300:  # noqa: PLR2004 - the class of HTTP status
            return answer
        await sink(answer.body)
        return Response(answer.status, answer.headers, b"")

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = limits.HTTP_TIMEOUT_S,
        limit_bytes: int = limits.HTTP_BODY_BYTES_MAX,
    ) -> Response:
        """See `ports.Http`. `BadInput` for a malformed URL or header."""
        check_url(url)
        _check_headers(headers or {})
        what = f"{method} {shown(url)}"
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._exchange(method, url, headers or {}, body, what)
        except TimeoutError as error:
            raise PeerUnavailable(f"{what}: no answer within {timeout_s:g} s") from error
        if len(answer.body) > limit_bytes:
            raise TooLarge(f"the answer of {shown(url)} is over {limit_bytes} bytes")
        return answer

    async def close(self) -> None:
        """End every request in progress; later requests raise `PeerUnavailable`."""
        self._closed = True
        running = [task for tasks in self._running.values() for task in tasks]
        for origin in list(self._running):
            self.unregister(origin)
        await asyncio.gather(*running, return_exceptions=True)

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, what: str
    ) -> Response:
        fault = self._faults(method, url)
        await _pause(fault.request_s)
        origin = _origin(url)
        app = self._apps.get(origin)
        if app is None or self._closed or fault.lose == "request":
            raise PeerUnavailable(f"{what}: cannot connect to {origin}")
        task = self._start(origin, _Exchange(_scope(method, url, headers, body), body).run(app))
        # `wait` leaves the handler alone when this caller times out or is cancelled.
        await asyncio.wait([task])
        if task.cancelled() or fault.lose == "response":
            raise PeerUnavailable(f"{what}: the server disconnected without an answer")
        await _pause(fault.response_s)
        return task.result()

    def _start(self, origin: str, work: Any) -> asyncio.Task[Response]:
        running = self._running.setdefault(origin, set())
        task: asyncio.Task[Response] = asyncio.create_task(work)
        running.add(task)
        task.add_done_callback(running.discard)
        return task


class _Exchange:
    """One request on the ASGI side."""

    def __init__(self, scope: dict[str, Any], body: bytes) -> None:
        self._scope = scope
        self._unread: list[bytes] = [body]
        self._status = 500
        self._headers: dict[str, str] = {}
        self._content = bytearray()
        self._answered = asyncio.Event()

    async def run(self, app: ASGIApp) -> Response:
        """The application's answer; an application that raises answers 500, as behind a real server."""
        try:
            await app(cast("Any", self._scope), cast("Any", self._receive), cast("Any", self._send))
        except Exception as error:  # noqa: BLE001 - the boundary of a server's request task
            logger().error("application raised", exc_info=error)
            return Response(500, {"content-type": "text/plain"}, b"Internal Server Error")
        content = b"" if self._scope["method"] == "HEAD" else bytes(self._content)
        return Response(self._status, self._headers, content)

    async def _receive(self) -> dict[str, Any]:
        if self._unread:
            return {"type": "http.request", "body": self._unread.pop(), "more_body": False}
        await self._answered.wait()  # the caller stays to the end; a server too says so only then
        return {"type": "http.disconnect"}

    async def _send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            for name, value in message.get("headers", ()):
                self._keep(name.decode("latin-1").lower(), value.decode("latin-1"))
        elif message["type"] == "http.response.body":
            self._content += message.get("body", b"")
            if not message.get("more_body", False):
                self._answered.set()

    def _keep(self, name: str, value: str) -> None:
        before = self._headers.get(name)
        self._headers[name] = value if before is None else f"{before}, {value}"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not name or any(mark in name + value for mark in "\r\n\0"):
            raise BadInput(f"header {name!r} has a line break in it")


def _scope(method: str, url: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    parts = urlsplit(url)
    raw = {"host": parts.netloc.rpartition("@")[2], "accept-encoding": "identity"}
    raw |= {"content-length": str(len(body))} if body else {}
    raw |= {name.lower(): value for name, value in headers.items()}
    path = parts.path or "/"
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method.upper(),
        "scheme": parts.scheme,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in raw.items()],
        "client": ("127.0.0.1", 1),
        "server": (parts.hostname, parts.port or 80),
        "state": {},
    }


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)
