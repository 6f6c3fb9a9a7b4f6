"""The HTTP client of every role: one pool of connections, every answer bounded, every silence named.

It must not know whom it asks or what for. Retrying is the caller's decision.
"""

import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from propeller import limits
from propeller.errors import BadInput, PeerUnavailable, TooLarge
from propeller.ports import Response

CONNECTIONS_MAX = 100
"""Open connections of one pool; a request over that waits, within its own timeout."""
_PIECE_BYTES = 1024 * 1024
"""What a streamed body is handed on in, at most."""
KEEPALIVE_S = limits.HTTP_KEEPALIVE_S / 2
"""Shorter than the servers' own, so that a request never meets a connection that is just being closed."""


class AiohttpHttp:
    """`ports.Http` over sockets. Make it anywhere, use it in one loop, `close()` it at the end."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

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
        """See `ports.Http`: no redirects, no decompression; a malformed `url` or header is `BadInput`."""
        check_url(url)
        try:
            async with self._open().request(
                method,
                url,
                headers=headers,
                data=_payload(body),
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as answer:
                content = await _read(answer, url, limit_bytes)
                return Response(answer.status, _headers(answer), content)
        except TimeoutError as error:
            raise PeerUnavailable(f"{method} {shown(url)}: no answer within {timeout_s:g} s") from error
        except aiohttp.InvalidURL as error:
            raise BadInput(f"{shown(url)!r} is not a URL") from error
        except (aiohttp.ClientError, OSError) as error:
            raise PeerUnavailable(f"{method} {shown(url)}: {why(error)}") from error
        except ValueError as error:
            raise BadInput(f"{method} {shown(url)}: {error}") from error

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
        """See `ports.HttpStreams`."""
        check_url(url)
        try:
            async with self._open().request(
                method,
                url,
                headers=headers,
                data=_payload(body) if isinstance(body, bytes) else body,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
                read_bufsize=_PIECE_BYTES,
            ) as answer:
                if 200 <= answer.status < 300:  # noqa: PLR2004 - the class of HTTP status
                    await _pour(answer, url, sink, limit_bytes)
                    return Response(answer.status, _headers(answer), b"")
                content = await _read(answer, url, limits.HTTP_BODY_BYTES_MAX)
                return Response(answer.status, _headers(answer), content)
        except TimeoutError as error:
            raise PeerUnavailable(f"{method} {shown(url)}: not done within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise PeerUnavailable(f"{method} {shown(url)}: {why(error)}") from error

    async def close(self) -> None:
        """Close every connection; later requests raise `PeerUnavailable`."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise aiohttp.ClientConnectionError("this client is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # The connector sets TCP_NODELAY on every connection.
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=KEEPALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"accept-encoding": "identity", "user-agent": "propeller"},
                skip_auto_headers=["content-type"],
            )
        return self._session


def check_url(url: str) -> None:
    """Raise `BadInput` unless `url` is absolute http or https with a host."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise BadInput(f"{shown(url)!r} is not an http or https URL with a host")


def shown(url: str) -> str:
    """The URL as it may be shown: without credentials, without query, not too long."""
    before, _, rest = url.partition("?")[0].partition("://")
    return f"{before}://{rest.rpartition('@')[2]}"[:200] if rest else before[:200]


_WORDS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (aiohttp.ClientConnectorDNSError, "there is no host of that name"),
    (aiohttp.ClientConnectorCertificateError, "its certificate is not accepted"),
    (aiohttp.ClientSSLError, "TLS failed; it may speak plain http"),
    (aiohttp.ServerDisconnectedError, "it hung up before it had answered"),
    (aiohttp.ClientPayloadError, "its answer broke off"),
    (aiohttp.ClientResponseError, "what it answered is not HTTP"),
)


def why(error: Exception) -> str:
    """What came in between, in a few words for people."""
    for kind, words in _WORDS:
        if isinstance(error, kind):
            return words
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__


def _payload(body: bytes) -> bytes | io.BytesIO | None:
    """The body as aiohttp wants it: a large one as a file, which it sends in pieces."""
    return io.BytesIO(body) if len(body) > limits.HTTP_JSON_OFFLOAD_BYTES else body or None


async def _pour(
    answer: aiohttp.ClientResponse, url: str, sink: Callable[[bytes], Awaitable[object]], limit_bytes: int
) -> None:
    """The whole body into `sink`, in pieces large enough that their number costs nothing."""
    size = 0
    async for chunk in answer.content.iter_chunked(_PIECE_BYTES):
        size += len(chunk)
        if size > limit_bytes:
            answer.close()
            raise TooLarge(f"the answer of {shown(url)} is over {limit_bytes} bytes")
        await sink(chunk)


async def _read(answer: aiohttp.ClientResponse, url: str, limit_bytes: int) -> bytes:
    """The whole body, never holding more than `limit_bytes`; an answer over it ends the connection."""
    announced = answer.content_length or 0
    if announced <= limit_bytes or answer.method == "HEAD":
        content = bytearray()
        async for chunk in answer.content.iter_any():
            content += chunk
            if len(content) > limit_bytes:
                break
        else:
            return bytes(content)
    answer.close()
    raise TooLarge(f"the answer of {shown(url)} is over {limit_bytes} bytes")


def _headers(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """Names in lower case; values of a repeated name joined with commas, as RFC 9110 §5.3 allows."""
    return {name.lower(): ", ".join(answer.headers.getall(name)) for name in answer.headers}
