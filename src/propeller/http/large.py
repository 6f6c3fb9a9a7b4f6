"""Answers whose body is ready as bytes, however large, without holding the loop. Knows not what they say."""

import re
from collections.abc import AsyncIterator, Mapping

from litestar import MediaType, Response
from litestar.response import Stream

from propeller import limits
from propeller.errors import BadInput

_CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def json_answer(
    body: bytes, *, headers: Mapping[str, str] | None = None, status: int = 200
) -> Response[bytes] | Stream:
    """`body`, which is JSON already, as an answer with its length announced.

    A body over `limits.HTTP_JSON_OFFLOAD_BYTES` goes out in chunks: handed over whole, a transport would copy
    what the socket does not take at once, a hundred megabytes in one call.
    """
    if len(body) <= limits.HTTP_JSON_OFFLOAD_BYTES:
        return Response(body, media_type=MediaType.JSON, headers=dict(headers or {}), status_code=status)
    length = {"content-length": str(len(body))}
    return Stream(
        _chunks(body), media_type=MediaType.JSON, headers={**(headers or {}), **length}, status_code=status
    )


def file_answer(
    content: memoryview, media_type: str, *, wanted: str = "", headers: Mapping[str, str] | None = None
) -> Response[bytes] | Stream:
    """`content`, mapped from a file, as an answer; of it what `wanted`, a `Range` header, asks for.

    One range of bytes is answered with 206 (RFC 9110, 14); several, or none that can be read, with the whole.
    Raises `BadInput` `bad_range` for a range that begins beyond the end.
    """
    size = len(content)
    start, end = _range(wanted, size)
    said = {**(headers or {}), "accept-ranges": "bytes", "content-length": str(end - start)}
    partial = (start, end) != (0, size)
    if partial:
        said["content-range"] = f"bytes {start}-{end - 1}/{size}"
    return Stream(
        _pieces(content[start:end]), media_type=media_type, headers=said, status_code=206 if partial else 200
    )


def _range(wanted: str, size: int) -> tuple[int, int]:
    found = _RANGE.fullmatch(wanted.strip())
    if found is None or not (found[1] or found[2]):
        return 0, size
    if not found[1]:
        return max(0, size - int(found[2])), size
    start, end = int(found[1]), min(size, int(found[2]) + 1 if found[2] else size)
    if start >= end:
        raise BadInput(f"the range {wanted[:60]!r} holds nothing of {size} bytes", code="bad_range")
    return start, end


async def _pieces(content: memoryview) -> AsyncIterator[bytes]:
    # A piece is small enough to be read from a slow disk within the time that a loop may be held.
    for start in range(0, len(content), _CHUNK_BYTES):
        yield bytes(content[start : start + _CHUNK_BYTES])


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _CHUNK_BYTES):
        yield body[start : start + _CHUNK_BYTES]
