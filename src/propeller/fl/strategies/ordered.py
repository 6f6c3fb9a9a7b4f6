"""Sorting the columns of a block: each parameter's values over the clients. Knows no strategy.

A sorting network is a fixed list of compare-and-swaps. Over whole rows each of them is two numpy calls, so a
hundred thousand columns are sorted at once without a branch: for ten clients about ten times faster than
sorting along the other axis. For many clients the network grows faster than sorting does.
"""

from functools import lru_cache
from typing import Final

import numpy as np

from propeller.fl.strategies.base import F64

_NETWORK_ROWS_MAX: Final = 64


def sort_columns(values: F64) -> F64:
    """`values` [n, width] with every column ascending. Overwrites `values`; ±0 compare equal."""
    if len(values) > _NETWORK_ROWS_MAX:
        values.sort(axis=0)
        return values
    rows: list[F64] = list(values)
    spare: F64 = np.empty(values.shape[1])
    for low, high in _network(len(values)):
        np.minimum(rows[low], rows[high], out=spare)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    return np.stack(rows)


def sum_rows(values: F64) -> F64:
    """The sum of `values` [n, width] over its rows, each added in turn.

    `values.sum(axis=0)` adds in another order when there is one column only, and slices of a model that are
    folded apart must give the same bits as the whole.
    """
    total: F64 = values[0].copy()
    for row in values[1:]:
        total += row
    return total


@lru_cache(maxsize=_NETWORK_ROWS_MAX)
def _network(rows: int) -> tuple[tuple[int, int], ...]:
    """Batcher's odd-even merge sort for any number of rows (Knuth, TAOCP 3, 5.2.2, algorithm M)."""
    found: list[tuple[int, int]] = []
    top = 1 << max(0, (rows - 1).bit_length() - 1)
    p = top if rows > 1 else 0
    while p:
        q, r, d = top, 0, p
        while True:
            found += [(i, i + d) for i in range(rows - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return tuple(found)


def middle(ordered: F64) -> F64:
    """The median of sorted columns: the middle row, or the mean of the two."""
    half = len(ordered) // 2
    upper: F64 = ordered[half]
    if len(ordered) % 2:
        return upper
    lower: F64 = ordered[half - 1]
    # Halving first: the sum of the two may be beyond float64.
    return lower / 2 + upper / 2
