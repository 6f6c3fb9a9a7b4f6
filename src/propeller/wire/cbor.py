"""CBOR in (RFC 8949): total and bounded, as a strict `codec` is for JSON. Devices send it; we never do."""

from typing import TypeVar

import cbor2
import msgspec

from propeller import limits
from propeller.errors import DecodeError, TooLarge

T = TypeVar("T")


def decode(kind: type[T], data: bytes, *, what: str, limit_bytes: int = limits.HTTP_BODY_BYTES_MAX) -> T:
    """A `kind` read from the one CBOR item `data`; unknown fields are ignored, nested maps keep their keys.

    Raises `TooLarge` over `limit_bytes`, else `DecodeError` for anything that is not a `kind`.
    """
    if len(data) > limit_bytes:
        raise TooLarge(f"{what} is {len(data)} bytes; the limit is {limit_bytes}")
    try:
        item = cbor2.loads(data, max_depth=limits.JSON_DEPTH_MAX, allow_duplicate_keys=False)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DecodeError(f"{what} is not valid CBOR: {error}") from error
    try:
        return msgspec.convert(item, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise DecodeError(f"{what} is not valid: {error}") from error
