"""Federated averaging: the mean of the participants' models, weighted by their numbers of samples.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, algorithm 1: w ← Σ nₖ·wₖ / Σ nₖ. Sums are float64 whatever the model's
dtype, in participant order; one rounding to the dtype at the end. Knows nothing of rounds or transports.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from propeller.errors import BadInput
from propeller.fl.strategies.base import (
    Aggregated,
    Contribution,
    Needs,
    Options,
    check_order,
    refuse_unknown_options,
)
from propeller.fl.tensors import Tensors, check_finite, check_like, frozen

_BLOCK = 1 << 16
"""Elements multiplied and added at once: half a megabyte of float64, which stays in cache."""


class FedAvg:
    """The strategy `fedavg`. It has no options and no state."""

    name = "fedavg"
    version = 1
    needs: Needs = "sum"
    coordinatewise = True

    def check_options(self, options: Options) -> None:
        """Raise `BadInput` `bad_options` for any option at all."""
        refuse_unknown_options(self.name, options, ())

    def start(self, *, base: Tensors | None, state: Tensors, options: Options) -> "FedAvgFold":
        """Begin a weighted mean of updates shaped like `base`."""
        self.check_options(options)
        if state:
            raise BadInput("strategy fedavg keeps no state, but was given some", code="bad_state")
        return FedAvgFold(base)


class FedAvgFold:
    """Σ nₖ·wₖ and Σ nₖ so far: one float64 copy of the model, however many clients."""

    def __init__(self, base: Tensors | None) -> None:
        self._like = base
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._samples = 0
        self._last: str | None = None

    def add(self, contribution: Contribution) -> None:
        """Add nₖ·wₖ."""
        if self._like is None:
            self._like = contribution.tensors
        check_like(contribution.tensors, self._like, f"the update of {contribution.participant!r}")
        self._last = check_order(self._last, contribution)
        if not self._sums:
            self._sums = {name: np.zeros(array.size) for name, array in self._like.items()}
        for name, array in contribution.tensors.items():
            _multiply_add(self._sums[name], array.reshape(-1), contribution.samples)
        self._samples += contribution.samples

    def finish(self) -> Aggregated:
        """Σ nₖ·wₖ / Σ nₖ in the dtypes of the base; raises `BadInput` `not_finite` if that overflows."""
        if self._like is None or not self._samples:
            raise BadInput("there is nothing to aggregate: no update was given", code="no_updates")
        model = frozen(
            {
                name: _rounded(self._sums.pop(name) / self._samples, like.dtype).reshape(like.shape)
                for name, like in self._like.items()
            }
        )
        check_finite(model, "the aggregated model")
        return Aggregated(model=model, samples=self._samples)


def _multiply_add(into: npt.NDArray[np.float64], values: npt.NDArray[Any], samples: int) -> None:
    scratch = np.empty(min(_BLOCK, into.size))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, into.size, _BLOCK):
            part = into[start : start + _BLOCK]
            product = scratch[: part.size]
            np.multiply(values[start : start + _BLOCK], float(samples), out=product, dtype=np.float64)
            part += product


def _rounded(mean: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if dtype.kind in "iu":
        # The mean of whole numbers lies between them, so it fits; ties go to even, as in IEEE 754.
        return np.rint(mean).astype(dtype)
    with np.errstate(over="ignore"):
        return mean.astype(dtype)
