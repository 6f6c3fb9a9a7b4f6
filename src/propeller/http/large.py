"""Answers whose body is ready as bytes, however large, without holding the loop. Knows not what they say."""

from collections.abc import AsyncIterator, Mapping

from litestar import MediaType, Response
from litestar.response import Stream

from propeller import limits

_CHUNK_BYTES = 256 * 1024


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


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _CHUNK_BYTES):
        yield body[start : start + _CHUNK_BYTES]
