"""The arithmetic of a fold at the speed of memory: blocks that stay in cache, a thread per core. Pure.

Tensors are cut at fixed places into blocks of some ten thousand elements. Within a block the rows (one per
update, in participant order) are added one after the other; no number is ever added across blocks or
threads. So the bits depend on the rows alone, never on arrival or on the number of threads. Only elementwise
operations are used, which IEEE 754 defines exactly: also another machine gives the same bits.

Sums of float32 rows are taken in float32, sixteen rows at a time, and those partial sums in float64; all
other types are summed in float64. Measured on float32 rows, float64 throughout costs 1.7 times as much (ten
rows of 10⁸: 0.78 s against 0.46 s on two threads): a conversion, and twice the bytes in every operation. It
would buy the last two or three bits of 24: a sum of 16 products carries at most 17 roundings of 2⁻²⁴, and
later rows add none, so that the mean of ten thousand updates is as exact as that of sixteen.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]

BLOCK_FLOAT32: Final = 1 << 16
"""Elements of a block of float32 rows: with the scratch of their sum 512 KiB, half of a small L2.

Smaller blocks make more and shorter calls, between which two threads hand the interpreter lock to and fro.
"""
BLOCK: Final = 1 << 15
"""The same for other rows, whose sum and scratch are float64."""
BLOCK_STEP: Final = 1 << 13
"""The same where a strategy steps, with some eight temporaries of float64."""
ROWS_IN_FLOAT32: Final = 16
_RUN: Final = 16
"""Neighbouring blocks that a thread takes at a time: two threads rarely touch one page for the first time."""
_RUNS_MIN: Final = 4
"""Of each thread, so that one which falls behind leaves something to the others."""
_PARALLEL_ELEMENTS: Final = 1 << 18
"""Below so many elements in all rows together a thread costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Span:
    """Elements `start` to `stop` of the flat tensor `name`."""

    name: str
    start: int
    stop: int


def spans(tensors: Mapping[str, Array], width: Callable[[Array], int]) -> list[Span]:
    """The blocks of `tensors`, each of at most `width(tensor)` elements."""
    return [
        Span(name, start, min(start + step, array.size))
        for name, array in tensors.items()
        for step in (width(array),)
        for start in range(0, array.size, step)
    ]


def over(
    blocks: Sequence[Span], work: Callable[[Iterator[tuple[int, Span]]], None], *, threads: int, rows: int
) -> None:
    """Have `work` take every block, with its index, once: in turn, or in each of `threads` threads.

    Each thread takes the next run of blocks when it is done with its last, so that a thread which the machine
    holds up does not hold up the rest. `work` gets an iterator, so that it can keep its scratch; it must
    write only what belongs to its blocks.
    """
    elements = rows * sum(block.stop - block.start for block in blocks)
    share = 1 if elements < _PARALLEL_ELEMENTS else max(1, min(threads, len(blocks)))
    if share == 1:
        work(iter(enumerate(blocks)))
        return
    numbered = list(enumerate(blocks))
    step = max(1, min(_RUN, len(blocks) // (_RUNS_MIN * share)))
    # Threads may share it: stepping a list's iterator is one step under the interpreter's lock.
    left = iter([numbered[first : first + step] for first in range(0, len(blocks), step)])
    with ThreadPoolExecutor(share, thread_name_prefix="fold") as pool:
        parts = [pool.submit(work, chain.from_iterable(left)) for _ in range(share)]
    for part in parts:
        part.result()


class Sum:
    """Σ weight·row / Σ weight of one block, at most `BLOCK_FLOAT32` long. One per thread: it owns scratch."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = weights
        self._narrow = [np.float32(weight) for weight in weights]
        self._total = float(np.add.reduce(np.asarray(weights, dtype=np.float64)))
        # Untouched memory is not resident: what a fold does not use costs nothing.
        self._wide = np.empty((2, BLOCK_FLOAT32))
        self._scratch = np.empty((2, BLOCK_FLOAT32), dtype=np.float32)

    def mean_into(self, out: Array, rows: Sequence[Array]) -> None:
        """The weighted mean of float32 `rows` into the float32 array `out`, all of one length."""
        if len(rows) <= ROWS_IN_FLOAT32:
            self._narrow_sum(out, rows, 0)
            np.divide(out, np.float32(self._total), out=out)
        else:
            np.copyto(out, self.mean(rows), casting="unsafe")

    def mean(self, rows: Sequence[Array]) -> F64:
        """The weighted mean of `rows` in float64; it is scratch, valid until the next call."""
        width = len(rows[0])
        total = self._wide[0, :width]
        if rows[0].dtype == np.float32:
            self._sum_of_float32(total, rows)
        else:
            self._sum(total, rows)
        np.divide(total, self._total, out=total)
        return total

    def _sum(self, total: F64, rows: Sequence[Array]) -> None:
        product = self._wide[1, : len(total)]
        for index, (row, weight) in enumerate(zip(rows, self._weights, strict=True)):
            into = product if index else total
            np.copyto(into, row)
            np.multiply(into, weight, out=into)
            if index:
                np.add(total, product, out=total)

    def _sum_of_float32(self, total: F64, rows: Sequence[Array]) -> None:
        part, wide = self._scratch[1, : len(total)], self._wide[1, : len(total)]
        for first in range(0, len(rows), ROWS_IN_FLOAT32):
            self._narrow_sum(part, rows[first : first + ROWS_IN_FLOAT32], first)
            np.copyto(wide if first else total, part)
            if first:
                np.add(total, wide, out=total)

    def _narrow_sum(self, total: Array, rows: Sequence[Array], first: int) -> None:
        product = self._scratch[0, : len(total)]
        np.multiply(rows[0], self._narrow[first], out=total)
        for index, row in enumerate(rows[1:], start=first + 1):
            np.multiply(row, self._narrow[index], out=product)
            np.add(total, product, out=total)


def rounded_into(out: Array, values: F64) -> None:
    """`values` in the dtype of `out`: whole numbers to the nearest, ties to even."""
    np.copyto(out, np.rint(values) if out.dtype.kind in "iu" else values, casting="unsafe")
