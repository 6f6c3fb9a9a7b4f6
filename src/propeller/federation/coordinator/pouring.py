"""A folded model on its way from the aggregator into the registry, through here and never kept here.

Also what a peer's answer means. Knows neither rounds nor strategies.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from propeller import limits
from propeller.errors import DecodeError, PeerRefused, PeerUnavailable
from propeller.ports import HttpStreams, Response
from propeller.wire import codec
from propeller.wire.models import BY_REFERENCE, MODEL_FILES, AggregateFiles, ModelStored

_PIECES: Final = 4
"""Pieces under way at once: some megabytes at most."""


class Pipe:
    """From one exchange to another, a few pieces at a time. What begins otherwise than it must stops both.

    `line` goes before everything; `header` is what must come first, of `size` bytes in all.
    """

    def __init__(self, line: bytes, header: bytes, size: int) -> None:
        self.size = len(line) + size
        self._line, self._expected, self._seen = line, header, b""
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES)

    async def take(self, piece: bytes) -> None:
        """Pass a piece on, the first ones once they have proved to be the expected header."""
        if self._expected:
            self._seen += piece
            if len(self._seen) < len(self._expected):
                return
            if not self._seen.startswith(self._expected):
                raise PeerRefused(
                    "the aggregator's model has other tensors than the base", code="aggregator_refused"
                )
            piece, self._expected, self._seen = self._seen, b"", b""
        await self._queue.put(piece)

    async def end(self) -> None:
        """Nothing more comes."""
        await self._queue.put(None)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Everything, as it comes; the line first, but not before there is something after it."""
        piece = await self._queue.get()
        yield self._line
        while piece is not None:
            yield piece
            piece = await self._queue.get()


async def pour(
    http: HttpStreams, asked: AggregateFiles, *, aggregate_url: str, models_url: str, pipe: Pipe
) -> ModelStored:
    """Have `asked` folded, and the answer stored. Raises `PeerUnavailable`, `PeerRefused`."""
    try:
        async with asyncio.TaskGroup() as tasks:
            storing = tasks.create_task(_stored(http, models_url, pipe))
            tasks.create_task(_folded(http, aggregate_url, asked, pipe))
    except ExceptionGroup as group:
        # One of the two failed and took the other with it; only the first knows why.
        raise group.exceptions[0] from group
    return storing.result()


async def _folded(http: HttpStreams, url: str, asked: AggregateFiles, pipe: Pipe) -> None:
    answer = await http.stream(
        "POST", url, headers={"content-type": BY_REFERENCE}, body=codec.encode(asked), sink=pipe.take
    )
    good(answer, f"POST {url}", "aggregator")
    await pipe.end()


async def _stored(http: HttpStreams, url: str, pipe: Pipe) -> ModelStored:
    said: list[bytes] = []

    async def hear(piece: bytes) -> None:
        said.append(piece)

    answer = await http.stream(
        "POST",
        url,
        headers={"content-type": MODEL_FILES, "content-length": str(pipe.size)},
        body=pipe.pieces(),
        sink=hear,
        limit_bytes=limits.HTTP_JSON_OFFLOAD_BYTES,
    )
    good(answer, f"POST {url}", "registry")
    stored: ModelStored = decoded(ModelStored, b"".join(said), "the registry's answer")
    return stored


def good(answer: Response, what: str, peer: str) -> Response:
    """The answer itself if it is one of success. Raises `PeerUnavailable` (later, perhaps), `PeerRefused`."""
    if 200 <= answer.status < 300:  # noqa: PLR2004 - HTTP's own classes
        return answer
    said = f"{what} answered {answer.status}: {_said(answer.body)}"
    if answer.status >= 500 or answer.status == 429:  # noqa: PLR2004
        raise PeerUnavailable(said, code=f"{peer}_unavailable")
    raise PeerRefused(said, status=answer.status, code=f"{peer}_refused")


def decoded(kind: Any, body: bytes, what: str) -> Any:
    """`body` as a `kind`. Raises `DecodeError`, `TooLarge`."""
    return codec.decode(kind, body, what=what, limit_bytes=limits.HTTP_BODY_BYTES_MAX)


def _said(body: bytes) -> str:
    try:
        said = codec.decode(dict[str, Any], body, what="an error")
    except DecodeError:
        return body[:200].decode("utf-8", "replace").strip()
    return str(said.get("error", ""))[:200]
