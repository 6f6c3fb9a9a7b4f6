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


def shards(labels: npt.ArrayLike, participants: int, *, per_participant: int = 2, seed: int) -> list[Indices]:
    """Sort rows by label, cut them into equal shards, and deal each participant `per_participant` of them.

    McMahan and others: "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017,
    section 3: with two shards most participants see two labels only. Shards differ by one row at most.
    Raises `BadInput` if there are fewer rows than shards.
    """
    label = np.asarray(labels)
    if label.ndim != 1:
        raise BadInput(f"labels must be one per row, not an array of {label.ndim} dimensions")
    if per_participant < 1:
        raise BadInput(f"{per_participant} shards for each participant cannot be; give 1 or more")
    _check(label.size, participants, per_participant)
    random = np.random.default_rng(seed)
    # Shuffled first, so that it is chance which rows of one label share a shard.
    shuffled = random.permutation(label.size)
    order = shuffled[np.argsort(label[shuffled], kind="stable")].astype(np.int64)
    pieces = np.array_split(order, participants * per_participant)
    dealt = random.permutation(len(pieces)).reshape(participants, per_participant)
    return [np.sort(np.concatenate([pieces[piece] for piece in mine])) for mine in dealt]


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
