"""Handwritten digits for experiments with many devices: loaded, held out, split; and who reads them.

Optical recognition of handwritten digits (Alpaydin, Kaynak 1998), as scikit-learn ships it: 1,797 images of 8
by 8 pixels, ten classes. Pure but for loading; it must not know any service.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propeller.errors import EnvironmentError_
from propeller.fl.partition import dirichlet, iid

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

HELD_OUT_SHARE: Final = 0.2
HIDDEN: Final = 16
CLASSES: Final = 10
_GREYS: Final = 16.0
_LOGIT_MAX: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """`x` (n, 64) in 0 to 1, `y` (n,) from 0 to 9."""

    x: Floats
    y: Labels

    def rows(self) -> list[tuple[list[float], int]]:
        """As a data store takes them."""
        return [(pixels.tolist(), int(label)) for pixels, label in zip(self.x, self.y, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """`parts` share no image, with each other or with `held_out`."""

    parts: Sequence[Images]
    held_out: Images


def load(devices: int, seed: int, *, alpha: float | None = None) -> Split:
    """The images, split over `devices`: evenly at random, or by Dirichlet(`alpha`) over classes.

    The same for the same arguments. Raises `EnvironmentError_` without scikit-learn, `BadInput` for more
    devices than there are images.
    """
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - belongs to the `demo` extra
    except ImportError as error:
        raise EnvironmentError_("the digits need scikit-learn: pip install 'propeller[demo]'") from error
    found = load_digits()
    x = np.asarray(found.data, dtype=np.float32) / np.float32(_GREYS)
    y = np.asarray(found.target, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(y))
    cut = round(len(y) * HELD_OUT_SHARE)
    out, kept = order[:cut], order[cut:]
    parts = (
        iid(len(kept), devices, seed=seed)
        if alpha is None
        else dirichlet(y[kept], devices, alpha=alpha, seed=seed)
    )
    return Split(
        parts=[Images(x=x[kept][part], y=y[kept][part]) for part in parts],
        held_out=Images(x=x[out], y=y[out]),
    )


def untrained(seed: int) -> dict[str, Any]:
    """A perceptron 64-16-10 with random weights (He, Zhang, Ren, Sun 2015), as a model registry takes it."""
    random = np.random.default_rng(seed)
    sizes = (64, HIDDEN, CLASSES)
    model: dict[str, Any] = {}
    for number, (inputs, units) in enumerate(pairwise(sizes), start=1):
        weights = random.normal(0.0, np.sqrt(2.0 / inputs), (units, inputs)).astype(np.float32)
        model[f"w{number}"] = weights.tolist()
        model[f"b{number}"] = [0.0] * units
    return model


def judged(model: Mapping[str, Any], images: Images) -> tuple[float, float]:
    """Accuracy and mean log loss of a perceptron with rectified hidden layers on `images`."""
    layers = len(model) // 2
    out = images.x.astype(np.float64)
    for number in range(1, layers + 1):
        out = out @ np.asarray(model[f"w{number}"], dtype=np.float64).T + np.asarray(model[f"b{number}"])
        if number < layers:
            out = np.maximum(out, 0.0)
    out = np.clip(out - out.max(axis=1, keepdims=True), -2 * _LOGIT_MAX, 0.0)
    log_likely = out - np.log(np.exp(out).sum(axis=1, keepdims=True))
    right = float(np.mean(out.argmax(axis=1) == images.y))
    return right, float(-np.mean(log_likely[np.arange(len(images.y)), images.y]))
