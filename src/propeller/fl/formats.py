"""How an update travels: whole, or as its difference from the round's base in fewer bytes. Pure.

Every packed form is a safetensors file, so that anybody can look into it. For a floating-point tensor `w`:

    f32-delta    `w`: the difference as float32
    f16-delta    `w`: as float16
    int8-delta   `w`: whole numbers of -127 to 127, `w:scale`: what one of them stands for (float32)
    topk-delta   `w:at`: ascending flat indices (uint32, beyond 2^32 elements uint64), `w:values`: float32;
                 the greatest differences, a share of the tensor's elements; the rest count as zero

Tensors of whole numbers travel as they are. `int8-delta` rounds at random so that its mean is the true value
(QSGD: Alistarh, Grubic, Li, Tomioka, Vojnovic, NeurIPS 2017), by a generator that round, participant and
tensor seed: the same update packs to the same bytes on every attempt. What is unpacked is a whole model in
the dtypes of the base, so a round may mix formats, and nobody after this module knows of them.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np

from propeller.errors import BadInput
from propeller.fl.strategies.base import F64
from propeller.fl.tensor_files import Layout, layout_of, read_header
from propeller.fl.tensors import Array, Tensors
from propeller.fl.update_format import TOP_K, Format

_BLOCK: Final = 1 << 18
"""Elements handled at once: two megabytes of float64."""
_LEVELS: Final = 127
_WIDE: Final = 1 << 32

Blocks = Callable[[], Iterator[Array]]


# --- packing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor of a packed file, and how its elements are made, in order."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    blocks: Blocks


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed update in the making: its exact size, and its bytes, one megabyte or so at a time."""

    size_bytes: int
    pieces: Iterator[bytes]


def pack(update: Tensors, base: Tensors, form: Format, *, round_id: str, participant: str) -> Packed:
    """`update` in a delta format. It must have the names and shapes of `base`; dtypes may differ.

    The pieces raise `BadInput` `bad_update_format` when a difference does not fit the format's numbers.
    """
    entries: dict[str, _Entry] = {}
    for name, array in base.items():
        now = update[name].reshape(-1)
        seed = f"{round_id}\0{participant}\0{name}"
        entries |= _entries(name, now, array, form, seed)
    like = {name: np.broadcast_to(np.zeros((), one.dtype), one.shape) for name, one in entries.items()}
    layout = layout_of(like)
    return Packed(layout.bytes, _written(layout, entries))


def _written(layout: Layout, entries: Mapping[str, _Entry]) -> Iterator[bytes]:
    yield layout.header
    for name in layout.places:
        for block in entries[name].blocks():
            yield block.tobytes()


def _entries(name: str, update: Array, base: Array, form: Format, seed: str) -> dict[str, _Entry]:
    flat = base.reshape(-1)
    if base.dtype.kind != "f":
        exact = update.astype(base.dtype)
        return {name: _Entry(base.dtype, base.shape, lambda: iter([exact]))}

    def deltas() -> Iterator[F64]:
        for start in range(0, flat.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            yield update[part].astype(np.float64) - flat[part].astype(np.float64)

    if form.name == "int8-delta":
        return _int8(name, base.shape, deltas, seed)
    if form.name == TOP_K:
        return _top_k(name, update, flat, form.share)
    dtype = np.dtype("<f2" if form.name == "f16-delta" else "<f4")
    return {name: _Entry(dtype, base.shape, lambda: (_narrow(d, dtype, name) for d in deltas()))}


def _narrow(delta: F64, dtype: np.dtype[Any], name: str) -> Array:
    with np.errstate(over="ignore"):
        narrow = delta.astype(dtype)
    if not np.isfinite(narrow).all():
        raise BadInput(
            f"tensor {name!r} moved further than {dtype.name} can say; choose a wider update format",
            code="bad_update_format",
        )
    return narrow


def _int8(
    name: str, shape: tuple[int, ...], deltas: Callable[[], Iterator[F64]], seed: str
) -> dict[str, _Entry]:
    @cache
    def scale() -> np.float32:
        most = max((float(np.abs(block).max()) for block in deltas()), default=0.0)
        with np.errstate(over="ignore"):
            found = np.float32(most / _LEVELS)
        # Rounded down, the greatest difference would not fit.
        if float(found) * _LEVELS < most:
            found = np.nextafter(found, np.float32(np.inf))
        return np.float32(_narrow(np.array(found, np.float64), np.dtype("<f4"), name))

    def levels() -> Iterator[Array]:
        generator = _generator(seed)
        step = float(scale())
        for block in deltas():
            drawn = (generator.random_raw(block.size) >> np.uint64(11)) * 2.0**-53
            exact = block / step if step else np.zeros_like(block)
            yield np.clip(np.floor(exact + drawn), -_LEVELS, _LEVELS).astype("|i1")

    return {
        name: _Entry(np.dtype("|i1"), shape, levels),
        f"{name}:scale": _Entry(np.dtype("<f4"), (), lambda: iter([np.array(scale(), "<f4")])),
    }


def _generator(seed: str) -> np.random.PCG64:
    """Raw bits of PCG64 are the same in every release of numpy."""
    digest = hashlib.sha256(b"propeller-int8-delta-1\0" + seed.encode()).digest()
    return np.random.PCG64(int.from_bytes(digest, "little"))


def _top_k(name: str, update: Array, base: Array, share: float) -> dict[str, _Entry]:
    count = min(base.size, max(1, math.ceil(share * base.size)))
    index = np.dtype("<u8" if base.size >= _WIDE else "<u4")

    @cache
    def chosen() -> tuple[Array, Array]:
        if not count:
            return np.zeros(0, index), np.zeros(0, "<f4")
        delta = update.astype(np.float64) - base.astype(np.float64)
        size = np.abs(delta)
        least = np.partition(size, size.size - count)[size.size - count]
        above = np.flatnonzero(size > least)
        # Of equals the first: the choice must not depend on how numpy partitions.
        level = np.flatnonzero(size == least)[: count - above.size]
        at = np.sort(np.concatenate([above, level]))
        return at.astype(index), _narrow(delta[at], np.dtype("<f4"), name)

    return {
        f"{name}:at": _Entry(index, (count,), lambda: iter([chosen()[0]])),
        f"{name}:values": _Entry(np.dtype("<f4"), (count,), lambda: iter([chosen()[1]])),
    }


# --- unpacking -------------------------------------------------------------------------------------------


def unpack(packed: memoryview, form: Format, base: Tensors, what: str) -> Packed:
    """The whole update in a packed file, as a safetensors file in the dtypes of `base`.

    `packed` is anybody's bytes. Raises `BadInput` `bad_tensor` for anything but this format of these tensors,
    `TooLarge` over a limit of tensor files. Whether values are finite is for `fl.update` to ask.
    """
    parts = _parts(packed, what)
    readers = {name: _reader(name, array, parts, form, what) for name, array in base.items()}
    if parts:
        raise _broken(what, form, f"it has {min(parts)[:80]!r}, which the model lacks")
    layout = layout_of(base)
    return Packed(layout.bytes, _restored(layout, base, readers))


def _restored(layout: Layout, base: Tensors, readers: Mapping[str, Blocks]) -> Iterator[bytes]:
    yield layout.header
    for name in layout.places:
        array = base[name]
        start = 0
        for block in readers[name]():
            if array.dtype.kind == "f":
                yield _moved(array.reshape(-1)[start : start + block.size], block).tobytes()
            else:
                yield block.tobytes()
            start += block.size


def _moved(base: Array, delta: F64) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return (base.astype(np.float64) + delta).astype(base.dtype)


def _widened(block: Array, step: float) -> F64:
    # A stranger's NaN may be of the kind that signals.
    with np.errstate(invalid="ignore"):
        return block.astype(np.float64) * step


def _parts(packed: memoryview, what: str) -> dict[str, Array]:
    """The tensors of the file by their names there, which are not those of a model."""
    start, places = read_header(packed, what)
    end = max((stop for _, _, _, stop in places.values()), default=0)
    if start + end != len(packed):
        raise BadInput(
            f"{what} is {len(packed)} bytes long where its header says {start + end}", code="bad_tensor"
        )
    return {
        name: np.frombuffer(packed, dtype, math.prod(shape), start + at).reshape(shape)
        for name, (dtype, shape, at, _) in places.items()
    }


def _reader(name: str, base: Array, parts: dict[str, Array], form: Format, what: str) -> Blocks:
    """How the tensor's differences are read; takes what it needs out of `parts`."""

    def take(entry: str, dtypes: tuple[str, ...], shape: tuple[int, ...] | None) -> Array:
        found = parts.pop(entry, None)
        if found is None:
            raise _broken(what, form, f"it lacks {entry[:80]!r}")
        if found.dtype.str not in dtypes or (shape is not None and found.shape != shape):
            raise _broken(
                what, form, f"{entry[:80]!r} is {found.dtype.name} {list(found.shape)}, not as the model"
            )
        return found

    if base.dtype.kind != "f":
        whole = take(name, (base.dtype.str,), base.shape).reshape(-1)
        return lambda: iter([whole])
    if form.name == TOP_K:
        at = take(f"{name}:at", ("<u4", "<u8"), None)
        values = take(f"{name}:values", ("<f4",), at.shape)
        _check_indices(at, base.size, form, f"{what}, tensor {name!r}")
        return lambda: _scattered(at, values, base.size)
    step = 1.0
    if form.name == "int8-delta":
        step = float(take(f"{name}:scale", ("<f4",), ()))
        if not (math.isfinite(step) and step >= 0):
            raise _broken(what, form, f"the scale of {name!r} is {step}")
    code = {"f32-delta": "<f4", "f16-delta": "<f2", "int8-delta": "|i1"}[form.name]
    flat = take(name, (code,), base.shape).reshape(-1)
    return lambda: (_widened(flat[i : i + _BLOCK], step) for i in range(0, flat.size, _BLOCK))


def _check_indices(at: Array, size: int, form: Format, what: str) -> None:
    if at.ndim != 1 or (at.size and int(at[-1]) >= size) or not bool((at[1:] > at[:-1]).all()):
        raise _broken(what, form, f"its indices are not ascending, each once, and below {size}")


def _scattered(at: Array, values: Array, size: int) -> Iterator[F64]:
    for start in range(0, size, _BLOCK):
        block = np.zeros(min(_BLOCK, size - start))
        first, last = np.searchsorted(at, [start, start + block.size])
        block[at[first:last].astype(np.int64) - start] = _widened(values[first:last], 1.0)
        yield block


def _broken(what: str, form: Format, why: str) -> BadInput:
    return BadInput(f"{what} is no {form.name}: {why}", code="bad_tensor")
