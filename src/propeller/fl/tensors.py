r"""The canonical model: named tensors, and their JSON, safetensors and hashed forms.

A model, an update and a strategy's state are all `Tensors`. Knows neither who sends them nor what they mean.

JSON form: an object of name → number (a 0-d float64) or nested lists of numbers (an n-d float64); a top-level
`version` is metadata. Other dtypes survive in safetensors and in the hash, and in JSON as their exact values.

Hash: SHA-256 over `b"propeller-tensors-1\0"` and then, for each tensor in ascending order of its name,
`u32 len(name) · name · u8 len(dtype) · dtype · u8 ndim · ndim times u64 dim · data`, every number
little-endian, `dtype` numpy's code for the little-endian type (`<f8`, `|i1`), `data` the elements in C order.
Each part's length is known before it is read, so no two models share a byte string.
"""

import hashlib
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from propeller import limits
from propeller.errors import BadInput, TooLarge

Array = npt.NDArray[Any]
Metadata = dict[str, int]
"""What a JSON model says beside its tensors: `version`, if it has one."""

DTYPES: Final = frozenset(
    np.dtype(code) for code in ("<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "|i1", "<u8", "<u4", "<u2", "|u1")
)
"""Element types a tensor may have."""

_NAME = re.compile(rf"[A-Za-z0-9_.\-/]{{1,{limits.TENSOR_NAME_CHARS_MAX}}}")
_METADATA: Final = "version"
_NUMBERS: Final = frozenset({int, float})
_BLOCK: Final = 1 << 16
"""Elements handled at once where a temporary is needed: half a megabyte of float64 stays in cache."""


class Tensors(Mapping[str, Array]):
    """An immutable mapping of tensor name → read-only, C-contiguous, little-endian array, in name order.

    Equal if names, dtypes, shapes and bits are equal. Building copies only what is not yet in that form;
    raises `BadInput` for a bad name or dtype and `TooLarge` over `limits.TENSORS_MAX` tensors or
    `limits.TENSOR_DIMS_MAX` dimensions.
    """

    __slots__ = ("_arrays",)

    def __init__(self, arrays: Mapping[str, Array], what: str = "the model") -> None:
        if len(arrays) > limits.TENSORS_MAX:
            raise TooLarge(f"{what} has {len(arrays)} tensors; the limit is {limits.TENSORS_MAX}")
        for name in arrays:
            _check_name(name, what)
        self._arrays = {name: _canonical(name, arrays[name], what) for name in sorted(arrays)}

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tensors):
            return NotImplemented
        return self._arrays.keys() == other._arrays.keys() and all(
            _same_bits(mine, other[name]) for name, mine in self.items()
        )

    def __hash__(self) -> int:
        return hash(tuple((name, array.dtype.str, array.shape) for name, array in self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return frozen, (self._arrays,)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in self.items())
        return f"Tensors({inside})"

    @property
    def elements(self) -> int:
        """Number of parameters in all tensors together."""
        return sum(array.size for array in self._arrays.values())

    @property
    def bytes(self) -> int:
        """Size of the elements in memory, in bytes."""
        return sum(array.nbytes for array in self._arrays.values())


EMPTY: Final = Tensors({})
"""No tensors: the state of a strategy that has none."""


def _check_name(name: str, what: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadInput(
            f"{what} names a tensor {str(name)[:40]!r}; names are 1 to "
            f"{limits.TENSOR_NAME_CHARS_MAX} characters of letters, digits, '_', '.', '-' and '/'",
            code="bad_tensor",
        )


def _canonical(name: str, array: Array, what: str) -> Array:
    wanted = array.dtype.newbyteorder("<")
    if wanted not in DTYPES:
        raise BadInput(f"{what}: tensor {name!r} has the unsupported type {array.dtype}", code="bad_tensor")
    if array.ndim > limits.TENSOR_DIMS_MAX:
        raise TooLarge(
            f"{what}: tensor {name!r} has {array.ndim} dimensions; at most {limits.TENSOR_DIMS_MAX}"
        )
    if array.flags.writeable or not array.flags.c_contiguous or array.dtype != wanted:
        array = np.array(array, dtype=wanted, order="C", copy=True)
        array.flags.writeable = False
    return array


def _same_bits(one: Array, other: Array) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and np.array_equal(one.reshape(-1).view(np.uint8), other.reshape(-1).view(np.uint8))
    )


def frozen(arrays: Mapping[str, Array], what: str = "the model") -> Tensors:
    """`Tensors` of freshly made arrays without a copy: takes them over, so the caller must let go of them."""
    for array in arrays.values():
        array.flags.writeable = False
    return Tensors(arrays, what)


# --- JSON ------------------------------------------------------------------------------------------------


def from_json(obj: object, what: str) -> tuple[Tensors, Metadata]:
    """The tensors and metadata of a decoded JSON (or CBOR) object; `what` names it in errors.

    All tensors are float64. Raises `BadInput` naming the tensor that is ragged or holds anything but
    numbers (booleans, null and strings are no numbers), and `TooLarge` as `Tensors` does.
    Values need not be finite here: see `check_finite`.
    """
    if not isinstance(obj, Mapping):
        raise BadInput(f"{what} must be an object of tensors, not {_kind(obj)}", code="bad_tensor")
    metadata = {_METADATA: _version(obj[_METADATA], what)} if _METADATA in obj else {}
    for name in obj:
        _check_name(name, what)
    arrays: dict[str, Array] = {}
    room = limits.TENSORS_JSON_ELEMENTS_MAX
    for name, value in obj.items():
        if name != _METADATA:
            arrays[name] = _array(value, name, what, room)
            room -= arrays[name].size
    return frozen(arrays, what), metadata


def to_json(tensors: Tensors, metadata: Metadata | None = None) -> dict[str, Any]:
    """The JSON object of finite `tensors`: `from_json` of it gives the same float64 bits again."""
    out: dict[str, Any] = {name: array.tolist() for name, array in tensors.items()}
    out.update(metadata or {})
    return out


def _version(value: object, what: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise BadInput(f"{what}: version must be a whole number, not {_kind(value)}", code="bad_tensor")
    return value


def _array(value: object, name: str, what: str, room: int) -> Array:
    shape: list[int] = []
    level: Sequence[object] = [value]
    while level and type(level[0]) is list:
        if len(shape) == limits.TENSOR_DIMS_MAX:
            raise TooLarge(f"{what}: tensor {name!r} nests lists deeper than {limits.TENSOR_DIMS_MAX} levels")
        rows = _rows(level, name, what)
        shape.append(len(rows[0]))
        if len(rows) * len(rows[0]) > room:
            raise TooLarge(
                f"{what}: tensor {name!r} goes over the limit of {limits.TENSORS_JSON_ELEMENTS_MAX} "
                "numbers in all; send less"
            )
        level = list(chain.from_iterable(rows))
    _check_numbers(level, name, what)
    try:
        return np.array(level, dtype="<f8").reshape(shape)
    except OverflowError as error:
        raise BadInput(f"{what}: tensor {name!r} holds a number beyond float64", code="bad_tensor") from error


def _rows(level: Sequence[object], name: str, what: str) -> list[list[object]]:
    rows = [row for row in level if type(row) is list]
    if len(rows) != len(level) or len(set(map(len, rows))) != 1:
        raise BadInput(f"{what}: tensor {name!r} is ragged; give all rows the same length", code="bad_tensor")
    return rows


def _check_numbers(leaves: Sequence[object], name: str, what: str) -> None:
    strange = set(map(type, leaves)) - _NUMBERS
    if not strange:
        return
    if list in strange:
        raise BadInput(f"{what}: tensor {name!r} is ragged; it mixes numbers and lists", code="bad_tensor")
    found = next(leaf for leaf in leaves if type(leaf) in strange)
    raise BadInput(f"{what}: tensor {name!r} must hold numbers only, not {_kind(found)}", code="bad_tensor")


def _kind(value: object) -> str:
    names = {
        "NoneType": "null",
        "dict": "an object",
        "list": "a list",
        "str": "a string",
        "bool": "a boolean",
    }
    return names.get(type(value).__name__, f"a {type(value).__name__}")


# --- bytes -----------------------------------------------------------------------------------------------


def content_hash(tensors: Tensors) -> str:
    """SHA-256 (64 lower-case hex digits) of names, dtypes, shapes and bits, framed as the module says."""
    digest = hashlib.sha256(b"propeller-tensors-1\0")
    for name, array in tensors.items():
        encoded, code = name.encode(), array.dtype.newbyteorder("<").str.encode()
        digest.update(struct.pack("<I", len(encoded)) + encoded)
        digest.update(struct.pack("<B", len(code)) + code)
        digest.update(struct.pack(f"<B{array.ndim}Q", array.ndim, *array.shape))
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def to_safetensors(tensors: Tensors) -> bytes:
    """The safetensors file of `tensors`, dtypes kept; equal tensors give equal bytes."""
    return safetensors.numpy.save(dict(tensors.items()))


def from_safetensors(data: bytes, what: str) -> Tensors:
    """The tensors of a safetensors file; `BadInput` (`bad_tensor`) or `TooLarge` for anything else."""
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise BadInput(f"{what} is not a safetensors file we read: {error}", code="bad_tensor") from error
    return Tensors(arrays, what)


# --- checks ----------------------------------------------------------------------------------------------


def check_like(update: Tensors, base: Tensors, what: str = "the update") -> None:
    """Raise `BadInput` `wrong_shape` unless names, shapes and dtypes of `update` are those of `base`."""
    if update.keys() != base.keys():
        _refuse_names(update, base, what)
    for name, array in update.items():
        wanted = base[name]
        if array.shape != wanted.shape:
            raise BadInput(
                f"{what}: tensor {name!r} has shape {list(array.shape)}; the model's is {list(wanted.shape)}",
                code="wrong_shape",
            )
        if array.dtype != wanted.dtype:
            raise BadInput(
                f"{what}: tensor {name!r} is {array.dtype}; the model's is {wanted.dtype}", code="wrong_shape"
            )


def _refuse_names(update: Tensors, base: Tensors, what: str) -> None:
    missing, extra = sorted(base.keys() - update.keys()), sorted(update.keys() - base.keys())
    said = [f"lacks {missing[0]!r}"] if missing else []
    said += [f"has {extra[0]!r}, which the model lacks"] if extra else []
    more = len(missing) + len(extra) - len(said)
    tail = f" ({more} more)" if more else ""
    raise BadInput(f"{what} {' and '.join(said)}{tail}; send the tensors of the model", code="wrong_shape")


def with_companions(base: Tensors, update: Tensors) -> Tensors:
    """`base`, and zeros for what `update` has beside it: `…/NAME` has the shape and type of `NAME`.

    A strategy may want such tensors, and a model that was made before it has none yet.
    """
    of = {name: name.partition("/")[2] for name in update if name not in base}
    more = {name: np.zeros(base[one].shape, base[one].dtype) for name, one in of.items() if one in base}
    return Tensors({**base, **more}) if more else base


def cast_like(update: Tensors, base: Tensors, what: str = "the update") -> Tensors:
    """`update` in the dtypes of `base`, for forms that carry no dtype (JSON). The dtype belongs to the model.

    Rounds to a narrower float type (which may overflow to infinity: check afterwards). Raises `BadInput`
    if an integer tensor is given fractions or values out of its range. Names and shapes are not compared.
    """
    return Tensors(
        {
            name: _cast(name, array, base[name].dtype, what) if name in base else array
            for name, array in update.items()
        },
        what,
    )


def _cast(name: str, array: Array, wanted: np.dtype[Any], what: str) -> Array:
    if array.dtype == wanted:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(wanted)
        if wanted.kind in "iu" and not np.array_equal(cast.astype(array.dtype), array):
            raise BadInput(
                f"{what}: tensor {name!r} holds whole numbers of type {wanted}; these do not fit",
                code="wrong_shape",
            )
    return cast


def check_finite(tensors: Tensors, what: str = "the update", *, abs_max: float = np.inf) -> None:
    """Return if every value is finite and at most `abs_max` in size.

    Raises `BadInput`, code `not_finite` for NaN and infinities, `too_large` for mere size.
    """
    for name, array in tensors.items():
        if array.size == 0:
            continue
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise BadInput(f"{what}: tensor {name!r} holds NaN or infinity", code="not_finite")
        if max(-low, high) > abs_max:
            raise BadInput(f"{what}: tensor {name!r} holds a value beyond ±{abs_max:g}", code="too_large")


def norm(tensors: Tensors) -> float:
    """L2 norm over all tensors together, computed in float64; infinity if the squares overflow."""
    total = 0.0
    with np.errstate(over="ignore"):
        for array in tensors.values():
            flat = array.reshape(-1)
            for start in range(0, flat.size, _BLOCK):
                block = flat[start : start + _BLOCK].astype(np.float64)
                total += float(np.dot(block, block))
    return float(np.sqrt(total))


def check_norm(
    tensors: Tensors, what: str = "the update", *, norm_max: float = limits.UPDATE_NORM_MAX
) -> None:
    """Return if the L2 norm is at most `norm_max`, else raise `BadInput` `too_large`."""
    found = norm(tensors)
    if not found <= norm_max:
        raise BadInput(f"{what} has L2 norm {found:g}; the limit is {norm_max:g}", code="too_large")
