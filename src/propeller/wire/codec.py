"""JSON in and out: total and bounded. Decoding yields a typed message or `DecodeError`, nothing else.

A name that comes twice in one object is refused where a body is read from somebody who may mean either
(`strict`: every HTTP request). In MQTT messages the last one counts: they are written by programs, once.
"""

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec

from propeller import limits
from propeller.errors import DecodeError, TooLarge
from propeller.wire.shape import check_depth, check_names

T = TypeVar("T")


@lru_cache(maxsize=256)
def _decoder(kind: Hashable) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(cast("Any", kind))


_encoder = msgspec.json.Encoder()


def encode(value: object) -> bytes:
    """Compact JSON of a message or of plain data; floats round-trip exactly."""
    return _encoder.encode(value)


def decode(
    kind: type[T],
    data: bytes,
    *,
    what: str,
    limit_bytes: int = limits.MQTT_MESSAGE_BYTES_MAX,
    strict: bool = False,
) -> T:
    """A `kind` read from JSON `data`; unknown fields are ignored. `what` names the data in the error.

    Raises `TooLarge` over `limit_bytes`, else `DecodeError` for anything that is not a `kind`, for nesting
    beyond `limits.JSON_DEPTH_MAX`, and if `strict` for a name that comes twice in one object.
    """
    if len(data) > limit_bytes:
        raise TooLarge(f"{what} is {len(data)} bytes; the limit is {limit_bytes}")
    (check_names if strict else check_depth)(data, what)
    try:
        return cast("T", _decoder(cast("Hashable", kind)).decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"{what} is not valid: {error}") from error
    except RecursionError as error:
        raise DecodeError(f"{what} is nested too deeply (over {limits.JSON_DEPTH_MAX} levels)") from error
