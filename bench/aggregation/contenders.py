"""FedAvg of the same updates by each contender's own function. Knows no clock.

A contender is made of the rows (float32 arrays, read-only) and their sample counts, in whatever form it wants
to have them in memory; making it is not measured. Calling it aggregates once, and gives the model.
What is not installed is not offered.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np

from propeller.fl.aggregation import aggregate
from propeller.fl.strategies.base import Contribution
from propeller.fl.strategies.registry import strategy
from propeller.fl.tensors import Tensors

Row = np.ndarray
Once = Callable[[], Row]
BLOCK = 1 << 16


def ours(rows: Sequence[Row], samples: Sequence[int], threads: int) -> Once:
    """`fl.aggregation.aggregate` with the strategy `fedavg`, on `threads` threads."""
    updates = [
        Contribution(participant=f"p{number:02}", samples=count, tensors=Tensors({"w": row}))
        for number, (row, count) in enumerate(zip(rows, samples, strict=True))
    ]
    return lambda: aggregate(strategy("fedavg"), updates, threads=threads).model["w"]


def numpy_plain(rows: Sequence[Row], samples: Sequence[int], threads: int) -> Once:
    """What one writes first: `acc += row * factor`."""
    del threads
    factors = _factors(samples)

    def once() -> Row:
        total = rows[0] * factors[0]
        for row, factor in zip(rows[1:], factors[1:], strict=True):
            total += row * factor
        return total

    return once


def numpy_blocked(rows: Sequence[Row], samples: Sequence[int], threads: int) -> Once:
    """The same in blocks that stay in cache, on one thread."""
    del threads
    factors = _factors(samples)

    def once() -> Row:
        total, scratch = np.empty_like(rows[0]), np.empty(BLOCK, np.float32)
        for start in range(0, total.size, BLOCK):
            part = total[start : start + BLOCK]
            np.multiply(rows[0][start : start + BLOCK], factors[0], out=part)
            for row, factor in zip(rows[1:], factors[1:], strict=True):
                product = np.multiply(row[start : start + BLOCK], factor, out=scratch[: part.size])
                np.add(part, product, out=part)
        return total

    return once


def torch(rows: Sequence[Row], samples: Sequence[int], threads: int) -> Once:
    """PyTorch's `add_(row, alpha=factor)`, whose kernels are compiled and use every thread."""
    import warnings  # noqa: PLC0415 - only where torch is installed

    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it could write to our read-only rows; it does not
        tensors = [torch.from_numpy(row) for row in rows]
    factors = [float(factor) for factor in _factors(samples)]

    def once() -> Row:
        total = tensors[0] * factors[0]
        for tensor, factor in zip(tensors[1:], factors[1:], strict=True):
            total.add_(tensor, alpha=factor)
        return total.numpy()

    return once


def flower(rows: Sequence[Row], samples: Sequence[int], threads: int) -> Once:
    """Flower's `aggregate_arrayrecords`, on records as its messages hold them: a second copy of the rows."""
    del threads
    from flwr.app import ArrayRecord, MetricRecord, RecordDict  # noqa: PLC0415
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords  # noqa: PLC0415

    records = [
        RecordDict({"arrays": ArrayRecord([row]), "metrics": MetricRecord({"num-examples": count})})
        for row, count in zip(rows, samples, strict=True)
    ]

    def once() -> Row:
        made = aggregate_arrayrecords(records, "num-examples")
        return next(iter(made.values())).numpy()

    return once


def flare(rows: Sequence[Row], samples: Sequence[int], threads: int) -> Once:
    """NVIDIA FLARE's `WeightedAggregationHelper`, the heart of its in-time accumulation."""
    del threads
    from nvflare.app_common.aggregators.weighted_aggregation_helper import (  # noqa: PLC0415
        WeightedAggregationHelper,
    )

    def once() -> Row:
        helper = WeightedAggregationHelper()
        for number, (row, count) in enumerate(zip(rows, samples, strict=True)):
            helper.add({"w": row}, float(count), f"site-{number}", 0)
        return helper.get_result()["w"]

    return once


def pfl(rows: Sequence[Row], samples: Sequence[int], threads: int) -> Once:
    """pfl-research's `SumAggregator` over `MappedVectorStatistics`, then `average`.

    Its clients multiply their updates by their weight themselves, so that here only sums are measured: every
    row is taken as if that had been done, each with the same weight. The model is the plain mean.
    """
    del threads, samples
    from pfl.aggregate.base import SumAggregator  # noqa: PLC0415
    from pfl.stats import MappedVectorStatistics  # noqa: PLC0415

    def once() -> Row:
        aggregator, total = SumAggregator(), None
        for row in rows:
            user = MappedVectorStatistics({"w": row}, weight=1.0)
            total = aggregator.accumulate(accumulated=total, user_stats=user)
        total.average()
        return total["w"]

    return once


def installed() -> dict[str, Callable[[Sequence[Row], Sequence[int], int], Once]]:
    """The contenders that this environment has, by name."""
    always = {"propeller": ours, "numpy": numpy_plain, "numpy_blocked": numpy_blocked}
    peers = {"torch": ("torch", torch), "flower": ("flwr", flower), "flare": ("nvflare", flare)}
    found = {name: made for name, (package, made) in peers.items() if find_spec(package)}
    if find_spec("pfl"):
        found["pfl"] = pfl
    return {**always, **found}


def expected(name: str, rows: Sequence[Row], samples: Sequence[int], part: slice) -> Row:
    """What `name` must give for `part` of the model, in float64."""
    weights = np.ones(len(rows)) if name == "pfl" else np.array(samples, dtype=np.float64)
    mean: Row = np.average([row[part].astype(np.float64) for row in rows], axis=0, weights=weights)
    return mean


def _factors(samples: Sequence[int]) -> list[np.float32]:
    return [np.float32(count / sum(samples)) for count in samples]
