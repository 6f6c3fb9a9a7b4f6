"""One HTTP exchange as the registry sees it: a parsed request with a body to stream, and a reply.

The thin layer over ASGI 3, because repository names have any number of path segments, bodies must not be held
in memory, and errors have the specification's shape. It must not know what the paths mean.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from litestar.types import HTTPScope, Receive, Send

from propeller import limits
from propeller.images.registry.faults import ClientGone, FaultCode, RegistryFault

_STALL_S = 60.0
"""A client that sends nothing for this long inside a body is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request. `path` is percent-decoded and begins with `/v2`; header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    receive: Receive

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The body in pieces as they come. Raises `ClientGone` if it breaks off."""
        more = True
        while more:
            try:
                async with asyncio.timeout(_STALL_S):
                    message = await self.receive()
            except TimeoutError as error:
                raise ClientGone(f"the client sent nothing for {_STALL_S:.0f} s inside a body") from error
            if message["type"] != "http.request":
                raise ClientGone("the client hung up inside a body")
            more = message.get("more_body", False)
            if body := message.get("body", b""):
                yield body

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body; 413 over `limit_bytes`."""
        held = bytearray()
        async for chunk in self.chunks():
            held += chunk
            if len(held) > limit_bytes:
                raise RegistryFault(
                    FaultCode.SIZE_INVALID, f"the body is over {limit_bytes} bytes", status=413
                )
        return bytes(held)

    @property
    def length(self) -> int | None:
        """The announced size of the body in bytes, if it is announced."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    def number(self, name: str, default: int) -> int:
        """A query parameter that is a number from 0 on; larger than a page is a page."""
        text = self.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < limits.ID_CHARS_MAX):
            raise RegistryFault(
                FaultCode.UNSUPPORTED, f"query parameter {name} must be a number from 0 on", status=400
            )
        return min(int(text), limits.OCI_PAGE_DEFAULT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: `body`, or `stream` of exactly `length` bytes."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: AsyncGenerator[bytes] | None = None
    length: int | None = None
    """`Content-Length` where it is not that of `body`."""


def read_request(scope: HTTPScope, receive: Receive) -> Request:
    """The request of an ASGI scope, wherever in a larger application the registry is mounted."""
    # The raw path, because mounting may strip the prefix from the other one.
    raw = scope.get("raw_path") or scope["path"].encode()
    return Request(
        method=scope["method"],
        path=unquote(raw.decode("latin-1").partition("?")[0]),
        query=dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)),
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]},
        receive=receive,
    )


async def send_reply(send: Send, reply: Reply, *, with_body: bool) -> None:
    """Send an answer; without its body for HEAD."""
    length = len(reply.body) if reply.length is None else reply.length
    headers = {"docker-distribution-api-version": "registry/2.0", **reply.headers}
    if reply.status != 204:  # noqa: PLR2004 - RFC 9110 §8.6: no content, no length
        headers["content-length"] = str(length)
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        }
    )
    if with_body and reply.stream is not None:
        async with aclosing(reply.stream) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    else:
        await send(
            {"type": "http.response.body", "body": reply.body if with_body else b"", "more_body": False}
        )
