"""Safetensors files without a copy: tensors as views of a buffer, and the layout of a file to be written.

The buffer may be memory or a mapped file. The layout is that of the safetensors library (largest element type
first, then by name), so that equal models have equal files whoever wrote them. Knows no file system.
Format: `u64 length of the header · header (JSON, padded with spaces) · data`, little-endian.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from propeller import limits
from propeller.errors import BadInput, TooLarge
from propeller.fl.tensors import Array, Tensors, frozen

_NAMES: Final = {
    "U64": "<u8", "I64": "<i8", "F64": "<f8", "F32": "<f4", "U32": "<u4", "I32": "<i4", "F16": "<f2",
    "U16": "<u2", "I16": "<i2", "I8": "|i1", "U8": "|u1",
}  # fmt: skip
"""Element types by the format's names, in the order in which the library puts them into a file."""
_CODES: Final = {np.dtype(code): name for name, code in _NAMES.items()}
_RANKS: Final = {dtype: rank for rank, dtype in enumerate(_CODES)}
_PREFIX: Final = 8
_METADATA: Final = "__metadata__"


@dataclass(frozen=True, slots=True)
class Layout:
    """A file to be written: its first bytes, and where each tensor lies (offset, dtype, shape)."""

    header: bytes
    places: Mapping[str, tuple[int, np.dtype[Any], tuple[int, ...]]]
    bytes: int
    """Size of the whole file."""


def layout_of(like: Mapping[str, Array]) -> Layout:
    """The file of tensors with these names, dtypes and shapes."""
    order = sorted(like, key=lambda name: (_RANKS[like[name].dtype], name))
    at, entries, places = 0, {}, {}
    for name in order:
        array = like[name]
        end = at + array.nbytes
        entries[name] = {
            "dtype": _CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, end],
        }
        places[name] = (at, array.dtype, array.shape)
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _PREFIX)
    header = len(text).to_bytes(_PREFIX, "little") + text
    shifted = {name: (len(header) + offset, *rest) for name, (offset, *rest) in places.items()}
    return Layout(header, shifted, len(header) + at)  # type: ignore[arg-type]


def room(layout: Layout, buffer: memoryview) -> dict[str, Array]:
    """Writable arrays within `buffer`, which must have the layout's size; its header is written."""
    buffer[: len(layout.header)] = layout.header
    return {
        name: np.frombuffer(buffer, dtype, math.prod(shape), offset).reshape(shape)
        for name, (offset, dtype, shape) in layout.places.items()
    }


def view(buffer: memoryview, what: str) -> Tensors:
    """The tensors of a whole safetensors file, without a copy; they keep `buffer` alive.

    Raises `BadInput` `bad_tensor` for anything but a well-formed file without gaps, `TooLarge` over a limit.
    """
    start, places = read_header(buffer, what)
    end = max((stop for _, _, _, stop in places.values()), default=0)
    if start + end != len(buffer):
        raise _broken(what, f"it is {len(buffer)} bytes long where its header says {start + end}")
    arrays = {
        name: np.frombuffer(buffer, dtype, math.prod(shape), start + at).reshape(shape)
        for name, (dtype, shape, at, _) in places.items()
    }
    return frozen(arrays, what)


def shapes(head: bytes, what: str) -> Tensors:
    """Names, dtypes and shapes in a file's header, `head` being at least that; values are zeros.

    The zeros are memory that is never touched, so that a large model costs nothing until somebody reads it.
    """
    _, places = read_header(memoryview(head), what)
    return frozen({name: np.zeros(shape, dtype) for name, (dtype, shape, _, _) in places.items()}, what)


_Place = tuple[np.dtype[Any], tuple[int, ...], int, int]


def header_bytes(prefix: bytes, what: str) -> int:
    """Size of prefix and header together, from a file's first eight bytes. Raises `BadInput`, `TooLarge`."""
    length = int.from_bytes(prefix[:_PREFIX], "little")
    if len(prefix) < _PREFIX or length == 0:
        raise _broken(what, "it has no header")
    if length > limits.TENSOR_HEADER_BYTES_MAX:
        raise TooLarge(f"{what}: the header is {length} bytes; the limit is {limits.TENSOR_HEADER_BYTES_MAX}")
    return _PREFIX + length


def read_header(buffer: memoryview, what: str) -> tuple[int, dict[str, _Place]]:
    """Where the data begins, and each tensor's dtype, shape, and place from there; without gaps."""
    start = header_bytes(bytes(buffer[:_PREFIX]), what)
    if start > len(buffer):
        raise _broken(what, "its header is cut off")
    try:
        entries = json.loads(bytes(buffer[_PREFIX:start]), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _broken(what, f"its header is no JSON ({error})") from error
    if not isinstance(entries, dict):
        raise _broken(what, "its header is no object")
    entries.pop(_METADATA, None)
    places = {name: _place(name, entry, what) for name, entry in entries.items()}
    at = 0
    for name, (_, _, begin, end) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin != at:
            raise _broken(what, f"tensor {name[:80]!r} begins at {begin}, not at {at}")
        at = end
    return start, places


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of these members; of two with one name, readers would disagree which counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _place(name: str, entry: object, what: str) -> _Place:
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if all(
            type(size) is int and 0 <= size < 1 << 48 for size in shape
        ):
            if kind not in _NAMES:
                raise _broken(what, f"tensor {name[:80]!r} has the unsupported type {kind[:20]!r}")
            if len(shape) > limits.TENSOR_DIMS_MAX:
                raise TooLarge(f"{what}: tensor {name[:80]!r} has {len(shape)} dimensions")
            dtype = np.dtype(_NAMES[kind])
            if begin < 0 or end - begin != math.prod(shape) * dtype.itemsize:
                raise _broken(what, f"tensor {name[:80]!r} is not as long as its shape says")
            return dtype, tuple(shape), begin, end
        case _:
            raise _broken(what, f"tensor {name[:80]!r} lacks dtype, shape or data_offsets")


def _broken(what: str, why: str) -> BadInput:
    return BadInput(f"{what} is not a safetensors file we read: {why}", code="bad_tensor")
