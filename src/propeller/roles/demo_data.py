"""The demo's patients: real, held out honestly, and split so that hospitals differ. Pure but for loading.

Wisconsin Diagnostic Breast Cancer (Street, Wolberg, Mangasarian 1993), as scikit-learn ships it: 569
patients, 30 features of cell nuclei, y = 1 for malignant. It must not know any service.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propeller.fl.partition import Indices, dirichlet
from propeller.roles.ready_data import breast_cancer

Floats = npt.NDArray[np.float64]

HELD_OUT_SHARE: Final = 0.3
"""Patients that no hospital trains on: 171, so that one of them is 0.6 points."""
ALPHA: Final = 0.5
"""Of the Dirichlet split: low enough that hospitals see very different mixes."""
PATIENTS_MIN: Final = 20
"""Each hospital has at least so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patients:
    """Rows of features (n, 30) and labels (n,), 0 benign or 1 malignant."""

    x: Floats
    y: Floats

    def __len__(self) -> int:
        return len(self.y)

    def some(self, rows: Indices) -> "Patients":
        """Only these rows."""
        return Patients(x=self.x[rows], y=self.y[rows])

    def rows(self) -> list[tuple[list[float], int]]:
        """As a data store takes them."""
        return [(features.tolist(), int(label)) for features, label in zip(self.x, self.y, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """What the demo trains and tests on; `hospitals` together are `training`."""

    training: Patients
    held_out: Patients
    hospitals: Sequence[Patients]


def load(hospitals: int, seed: int) -> Cohort:
    """The data set, split; the same for the same arguments.

    Features are standardised by the mean and deviation of training patients alone, so that nothing is known
    of the held-out ones. Raises `EnvironmentError_` without scikit-learn.
    """
    patients = breast_cancer()
    x, y = patients.x, patients.y.astype(np.float64)
    order = np.random.default_rng(seed).permutation(len(y))
    cut = round(len(y) * HELD_OUT_SHARE)
    out, kept = order[:cut], order[cut:]
    mean, deviation = x[kept].mean(axis=0), x[kept].std(axis=0)
    scaled = (x - mean) / deviation
    training = Patients(x=scaled[kept], y=y[kept])
    parts = dirichlet(
        training.y, hospitals, alpha=ALPHA, seed=seed, min_size=min(PATIENTS_MIN, _fair(kept, hospitals))
    )
    return Cohort(
        training=training,
        held_out=Patients(x=scaled[out], y=y[out]),
        hospitals=[training.some(part) for part in parts],
    )


def accuracy(model: Mapping[str, Any], patients: Patients) -> float:
    """The share of `patients` on the right side of one half; `model` is {"w": 30 numbers, "b": one}."""
    score = patients.x @ np.asarray(model["w"], dtype=np.float64) + float(model["b"])
    return float(np.mean((score >= 0) == (patients.y == 1)))


def sklearn_accuracy(cohort: Cohort) -> float:
    """What scikit-learn's own logistic regression, run to convergence on all training rows, reaches."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - seconds to import, wanted only here

    fitted = LogisticRegression(max_iter=1000).fit(cohort.training.x, cohort.training.y)
    return float(fitted.score(cohort.held_out.x, cohort.held_out.y))


def _fair(rows: Indices, hospitals: int) -> int:
    return len(rows) // hospitals
