"""Arrays from `.npy` and safetensors files without numpy. Knows numbers and shapes, not what they mean.

Formats: NumPy's NEP 1 (versions 1 to 3), https://numpy.org/neps/nep-0001-npy-format.html, and
https://github.com/huggingface/safetensors#format. Both files are little-endian here; big-endian arrays,
complex numbers and objects are refused.
"""

import ast
import hashlib
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import msgspec

from propeller import limits
from propeller.errors import BadInput

_NPY_MAGIC = b"\x93NUMPY"
_NPY_CODES = {
    "<f4": "f", "<f8": "d", "|b1": "B", "|u1": "B", "|i1": "b",
    "<u2": "H", "<i2": "h", "<u4": "I", "<i4": "i", "<u8": "Q", "<i8": "q",
}  # fmt: skip
_SAFETENSORS_CODES = {
    "F32": "f", "F64": "d", "BOOL": "B", "U8": "B", "I8": "b",
    "U16": "H", "I16": "h", "U32": "I", "I32": "i", "U64": "Q", "I64": "q",
}  # fmt: skip
_HASHED_CODES = {
    "F64": b"<f8", "F32": b"<f4", "F16": b"<f2", "U8": b"|u1", "I8": b"|i1",
    "U16": b"<u2", "I16": b"<i2", "U32": b"<u4", "I32": b"<i4", "U64": b"<u8", "I64": b"<i8",
}  # fmt: skip
"""Element types of models, as their hash spells them."""
_BLOCK_BYTES = 1024 * 1024
_HEADER_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Array:
    """Numbers in a shape. `fortran` says that the first index runs fastest."""

    shape: tuple[int, ...]
    numbers: "array[float] | array[int]"
    fortran: bool = False

    def values(self) -> Iterator[float]:
        """All numbers as floats, in the order stored (the order of a 1-D array)."""
        return map(float, self.numbers)

    def rows(self) -> Iterator[list[float]]:
        """The rows of a 2-D array."""
        count, width = self.shape
        for row in range(count):
            part = slice(row, None, count) if self.fortran else slice(row * width, (row + 1) * width)
            yield list(map(float, self.numbers[part]))


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_npy(path: Path) -> Array:
    """The array of a `.npy` file. Raises `BadInput`."""
    content = path.read_bytes()
    if not content.startswith(_NPY_MAGIC) or len(content) < 12:  # noqa: PLR2004 - magic, version, length
        raise BadInput(f"{path} is not a .npy file")
    wide = content[6] >= 2  # noqa: PLR2004 - from version 2 on the length has four bytes
    start = 12 if wide else 10
    end = start + int.from_bytes(content[8:start], "little")
    header = _npy_header(content[start:end], path)
    return _array(content[end:], _NPY_CODES, *header, path=path)


def _npy_header(text: bytes, path: Path) -> tuple[str, tuple[int, ...], bool]:
    try:
        if len(text) > _HEADER_BYTES_MAX:
            raise ValueError("header too long")  # noqa: TRY301 - one way out for every bad header
        header = ast.literal_eval(text.decode())
        descr, shape, fortran = header["descr"], header["shape"], header["fortran_order"]
        if not isinstance(descr, str) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError("structured or shapeless")  # noqa: TRY301
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise BadInput(f"{path} has a .npy header that cannot be read: {error}") from error
    return descr, tuple(shape), bool(fortran)


def read_safetensors(path: Path) -> dict[str, Array]:
    """The tensors of a safetensors file. Raises `BadInput`."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(_HEADER_BYTES_MAX, len(content) - 8):  # noqa: PLR2004 - the length's bytes
        raise BadInput(f"{path} is not a safetensors file")
    return {
        name: _tensor(content[8 + size :], entry, f"{path}, tensor {name}")
        for name, entry in _entries(content[8 : 8 + size], path).items()
    }


def _entries(header: bytes, path: Path) -> dict[str, _Entry]:
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        return {name: msgspec.json.decode(item, type=_Entry) for name, item in raw.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} has a safetensors header that cannot be read: {error}") from error


def _tensor(data: bytes, entry: _Entry, where: str) -> Array:
    start, end = entry.data_offsets
    if not 0 <= start <= end <= len(data) or any(size < 0 for size in entry.shape):
        raise BadInput(f"{where} lies outside the file")
    return _array(
        data[start:end], _SAFETENSORS_CODES, entry.dtype, tuple(entry.shape), fortran=False, path=where
    )


def _array(
    data: bytes,
    codes: dict[str, str],
    dtype: str,
    shape: tuple[int, ...],
    fortran: bool,  # noqa: FBT001 - in the order of the header's fields
    *,
    path: Path | str,
) -> Array:
    code = codes.get(dtype)
    if code is None:
        raise BadInput(f"{path} has dtype {dtype}; readable are {', '.join(codes)}")
    if len(shape) > limits.TENSOR_DIMS_MAX:
        raise BadInput(f"{path} has {len(shape)} dimensions; at most {limits.TENSOR_DIMS_MAX} are readable")
    numbers = array(code)
    if len(data) != prod(shape) * numbers.itemsize:
        raise BadInput(
            f"{path} has {len(data)} bytes of data; {dtype} of shape {shape} needs "
            f"{prod(shape) * numbers.itemsize}"
        )
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return Array(shape, numbers, fortran)


def hash_safetensors(path: Path) -> str:
    """The hash of a model by its safetensors file, as `fl.tensors.content_hash` has it; read in blocks.

    Raises `BadInput` for anything else than such a file.
    """
    digest = hashlib.sha256(b"propeller-tensors-1\0")
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > limits.TENSOR_HEADER_BYTES_MAX:
            raise BadInput(f"{path} is not a safetensors file")
        for name, entry in sorted(_entries(file.read(size), path).items()):
            code = _HASHED_CODES.get(entry.dtype)
            begin, end = entry.data_offsets
            if code is None or any(side < 0 for side in (begin, end - begin, *entry.shape)):
                raise BadInput(f"{path}, tensor {name} is none that a model has")
            digest.update(struct.pack("<I", len(name.encode())) + name.encode())
            digest.update(struct.pack("<B", len(code)) + code)
            digest.update(struct.pack(f"<B{len(entry.shape)}Q", len(entry.shape), *entry.shape))
            file.seek(8 + size + begin)
            left = end - begin
            while left and (block := file.read(min(left, _BLOCK_BYTES))):
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()
