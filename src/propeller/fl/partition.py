"""Splitting one data set over participants, for demonstrations, tests and simulation. Pure and seeded.

Returns row numbers, never rows: each row goes to exactly one participant; a seed always gives the same split.
"""

import numpy as np
import numpy.typing as npt

from propeller.errors import BadInput

Indices = npt.NDArray[np.int64]


def iid(samples: int, participants: int, *, seed: int) -> list[Indices]:
    """Shuffle `samples` row numbers and deal them into parts whose sizes differ by at most one."""
    _check(samples, participants, 1)
    order = np.random.default_rng(seed).permutation(samples).astype(np.int64)
    return [np.sort(part) for part in np.array_split(order, participants)]


def dirichlet(
    labels: npt.ArrayLike, participants: int, *, alpha: float, seed: int, min_size: int = 1
) -> list[Indices]:
    """Split rows by label, each label's shares drawn from Dirichlet(alpha): small alpha, uneven participants.

    Hsu, Qi, Brown: "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", 2019. `labels` is one label per row. A participant short of `min_size` rows then takes
    random rows from whoever has most, which ends because `min_size` rows for everyone must exist
    (else `BadInput`).
    """
    label = np.asarray(labels)
    if label.ndim != 1:
        raise BadInput(f"labels must be one per row, not an array of {label.ndim} dimensions")
    if not alpha > 0:
        raise BadInput(f"alpha is {alpha}; it must be positive")
    _check(label.size, participants, min_size)
    random = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(participants)]
    for value in np.unique(label):
        rows = random.permutation(np.flatnonzero(label == value))
        shares = random.dirichlet(np.full(participants, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * rows.size).astype(np.int64)
        for part, dealt in zip(parts, np.split(rows, cuts), strict=True):
            part.extend(dealt.tolist())
    _level(parts, min_size, random)
    return [np.array(sorted(part), dtype=np.int64) for part in parts]


def _level(parts: list[list[int]], min_size: int, random: np.random.Generator) -> None:
    for part in parts:
        while len(part) < min_size:
            richest = max(parts, key=len)
            part.append(richest.pop(int(random.integers(len(richest)))))


def _check(samples: int, participants: int, min_size: int) -> None:
    if participants < 1 or min_size < 0 or samples < participants * min_size:
        raise BadInput(
            f"{samples} rows cannot be split over {participants} participants with {min_size} each at least"
        )
