"""Real data sets to begin with, made ready for a federation: scaled, some rows held out, the rest dealt out.

Two come with scikit-learn, so that nothing is downloaded; the third is read from a folder that its user has
unpacked. Rows leave as data store documents. Pure but for reading; it must not know any service.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from propeller.errors import BadInput, EnvironmentError_
from propeller.fl.partition import Indices, dirichlet, iid, shards

Floats = npt.NDArray[np.float64]
Scale = tuple[Floats, Floats]
"""What is taken off each feature, and what it is divided by."""

DECIMALS: Final = 6
"""Scaled features are rounded to so many: no trainer needs more, and documents halve."""
PARTITIONS: Final = ("iid", "dirichlet", "shards", "natural")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A data set as its source has it: features (n, m), labels from 0 (n,), perhaps each row's person."""

    x: Floats
    y: npt.NDArray[np.int64]
    people: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One data set that can be had."""

    title: str
    rows: int
    features: int
    classes: int
    source: str
    """Where it is from, and under which terms."""
    read: Callable[[Path | None], Rows]
    scale: Callable[[Floats], Scale]
    """From the rows that are trained on alone, so that nothing is known of those held out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealt:
    """A data set dealt out: scaled, a part for each client, and rows that nobody trains on."""

    name: str
    features: int
    clients: Sequence[dict[str, Any]] = field(repr=False)
    """Documents as a data store takes them."""
    held_out: dict[str, Any] = field(repr=False)


def deal(
    name: str,
    clients: int,
    *,
    by: str = "iid",
    seed: int = 0,
    hold_out: float = 0.2,
    alpha: float = 0.5,
    per_client: int = 2,
    folder: Path | None = None,
) -> Dealt:
    """Data set `name` split over `clients`; the same arguments give the same split.

    `by`: `iid`, `dirichlet` (of `alpha`), `shards` (`per_client` each), or `natural`: a client for each
    person, however many `clients` are asked for. Raises `BadInput` for what cannot be, `EnvironmentError_`
    without scikit-learn.
    """
    kind = _kind(name)
    if not 0 <= hold_out < 1:
        raise BadInput(f"hold-out is {hold_out}; it must be a share from 0 to below 1")
    if by not in PARTITIONS:
        raise BadInput(f"there is no partition {by[:40]!r}; there are {', '.join(PARTITIONS)}")
    rows = kind.read(folder)
    out, kept = _held_out(rows, hold_out, seed, people=by == "natural")
    offset, unit = kind.scale(rows.x[kept])
    scaled = np.round((rows.x - offset) / unit, DECIMALS)
    parts = _parts(rows, kept, clients, by, seed, alpha, per_client)
    return Dealt(
        name=name,
        features=rows.x.shape[1],
        clients=[_document(name, scaled, rows.y, kept[part]) for part in parts],
        held_out=_document(name, scaled, rows.y, out),
    )


def _held_out(rows: Rows, share: float, seed: int, *, people: bool) -> tuple[Indices, Indices]:
    """Row numbers held out and kept; with `people`, whole persons: a model is to fit strangers too."""
    random = np.random.default_rng(seed)
    if people and rows.people is not None:
        everybody = random.permutation(np.unique(rows.people))
        away = np.isin(rows.people, everybody[: round(len(everybody) * share)])
        return np.flatnonzero(away), np.flatnonzero(~away)
    order = random.permutation(len(rows.y))
    cut = round(len(order) * share)
    return order[:cut], order[cut:]


def _parts(
    rows: Rows, kept: Indices, clients: int, by: str, seed: int, alpha: float, per_client: int
) -> Sequence[Indices]:
    labels = rows.y[kept]
    match by:
        case "dirichlet":
            return dirichlet(labels, clients, alpha=alpha, seed=seed)
        case "shards":
            return shards(labels, clients, per_participant=per_client, seed=seed)
        case "natural":
            if rows.people is None:
                raise BadInput("this data set does not say who each row is from; choose another partition")
            people = rows.people[kept]
            return [np.flatnonzero(people == one) for one in np.unique(people)]
        case _:
            return iid(len(kept), clients, seed=seed)


def _document(name: str, x: Floats, y: npt.NDArray[np.int64], part: Indices) -> dict[str, Any]:
    data = [{"x": x[row].tolist(), "y": int(y[row])} for row in part]
    return {"schema": name, "data": data, "size": len(data)}


# --- reading and scaling ---------------------------------------------------------------------------------


def breast_cancer(_: Path | None = None) -> Rows:
    """569 patients; 1 is malignant, which is what one looks for (scikit-learn numbers them otherwise)."""
    x, y = _sklearn("load_breast_cancer")
    return Rows(x=x, y=1 - y)


def digits(_: Path | None = None) -> Rows:
    """1,797 images, 64 grey values from 0 to 16 each."""
    x, y = _sklearn("load_digits")
    return Rows(x=x, y=y)


def hapt(folder: Path | None) -> Rows:
    """The folder as UCI's archive unpacks. Raises `BadInput` naming the file that cannot be read."""
    if folder is None:
        raise BadInput(
            "hapt is not shipped: unpack UCI's archive 'Smartphone-Based Recognition of Human Activities and "
            "Postural Transitions' and name its folder with --from"
        )
    halves = [_half(folder, half) for half in ("Train", "Test")]
    joined = [np.concatenate(both) for both in zip(*halves, strict=True)]
    x, y, people = joined
    return Rows(x=x, y=y.astype(np.int64) - 1, people=people.astype(np.int64))


def _half(folder: Path, half: str) -> tuple[Floats, Floats, Floats]:
    x, y, people = (_table(folder / half / f"{stem}_{half.lower()}.txt") for stem in ("X", "y", "subject_id"))
    if not len(x) == len(y) == len(people):
        raise BadInput(f"the files in {folder / half} differ in length; unpack the archive again")
    return x, y, people


def _table(path: Path) -> Floats:
    try:
        found: Floats = np.loadtxt(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {error}") from error
    return found


def _sklearn(loader: str) -> tuple[Floats, npt.NDArray[np.int64]]:
    try:
        from sklearn import datasets  # noqa: PLC0415 - belongs to the `demo` extra
    except ImportError as error:
        raise EnvironmentError_(
            "the data sets are scikit-learn's: pip install 'propeller[demo]', or `make demo`"
        ) from error
    found = getattr(datasets, loader)()
    return np.asarray(found.data, dtype=np.float64), np.asarray(found.target, dtype=np.int64)


def _standard(x: Floats) -> Scale:
    deviation = x.std(axis=0)
    return x.mean(axis=0), np.where(deviation > 0, deviation, 1.0)


def _sixteenths(x: Floats) -> Scale:
    return np.zeros(x.shape[1]), np.full(x.shape[1], 16.0)


def _as_is(x: Floats) -> Scale:
    return np.zeros(x.shape[1]), np.ones(x.shape[1])


KINDS: Final[Mapping[str, Kind]] = {
    "breast-cancer": Kind(
        title="cell nuclei of 569 patients: malignant (1) or benign (0)",
        rows=569,
        features=30,
        classes=2,
        source="Wolberg, Mangasarian, Street, Street 1993, UCI, CC BY 4.0; with scikit-learn",
        read=breast_cancer,
        scale=_standard,
    ),
    "digits": Kind(
        title="handwritten digits, 8 by 8 grey values",
        rows=1797,
        features=64,
        classes=10,
        source="Alpaydin, Kaynak 1998, UCI, CC BY 4.0; with scikit-learn",
        read=digits,
        scale=_sixteenths,
    ),
    "hapt": Kind(
        title="smartphone motion of 30 people: 12 activities and postures",
        rows=10929,
        features=561,
        classes=12,
        source="Reyes-Ortiz and others 2015, UCI; your own copy by --from, its terms in its README",
        read=hapt,
        scale=_as_is,
    ),
}


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise BadInput(f"there is no data set {name[:40]!r}; there are {', '.join(KINDS)}")
    return KINDS[name]
