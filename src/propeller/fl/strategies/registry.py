"""Strategies by name: those that ship with Propeller, and those of installed packages. Knows no algorithm.

`clip:NAME` is the strategy NAME with clipped updates.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Final

from propeller.errors import BadInput, Unsupported
from propeller.fl.strategies.base import API, ENTRY_POINTS, Strategy
from propeller.fl.strategies.bulyan import Bulyan
from propeller.fl.strategies.clip import Clip
from propeller.fl.strategies.fedadagrad import FedAdagrad
from propeller.fl.strategies.fedadam import FedAdam
from propeller.fl.strategies.fedavg import FedAvg
from propeller.fl.strategies.fedavgm import FedAvgM
from propeller.fl.strategies.fedbuff import FedBuff
from propeller.fl.strategies.fedprox import FedProx
from propeller.fl.strategies.fedyogi import FedYogi
from propeller.fl.strategies.geometric_median import GeometricMedian
from propeller.fl.strategies.krum import Krum, MultiKrum
from propeller.fl.strategies.median import Median
from propeller.fl.strategies.options import Options
from propeller.fl.strategies.scaffold import Scaffold
from propeller.fl.strategies.trimmed_mean import TrimmedMean

BUILTIN: Final[dict[str, Strategy]] = {
    one.name: one
    for one in (
        FedAvg(),
        FedAvgM(),
        FedProx(),
        FedAdagrad(),
        FedAdam(),
        FedYogi(),
        FedBuff(),
        Scaffold(),
        Median(),
        TrimmedMean(),
        Krum(),
        MultiKrum(),
        Bulyan(),
        GeometricMedian(),
    )
}
DEFAULT: Final = "fedavg"
_CLIP: Final = "clip:"

Hyperparams = Mapping[str, object] | None
"""What trainers are told beside their model: JSON values, or nothing at all."""


def strategy(name: str) -> Strategy:
    """The strategy called `name` (empty: the default): a built-in one, else one installed by entry point.

    Raises `BadInput` `unknown_strategy` if there is none, `Unsupported` if what is installed is no strategy
    of this version of the seam.
    """
    wanted = name or DEFAULT
    if wanted.startswith(_CLIP):
        return Clip(strategy(wanted.removeprefix(_CLIP)))
    return BUILTIN[wanted] if wanted in BUILTIN else _installed(wanted)


def offered() -> dict[str, Strategy]:
    """Every strategy of this installation by name, built-in ones first. Raises `Unsupported` as above."""
    others = sorted({point.name for point in entry_points(group=ENTRY_POINTS)} - BUILTIN.keys())
    return {**BUILTIN, **{name: _installed(name) for name in others}}


def told(chosen: Strategy, options: Options, hyperparams: Mapping[str, object] | None) -> Hyperparams:
    """The experiment's hyperparameters with what `chosen` must tell trainers, such as FedProx's `mu`.

    Raises `BadInput` `bad_options` if the two say different things.
    """
    more = chosen.hyperparams(chosen.settings(options))
    for name, value in more.items():
        if hyperparams is not None and name in hyperparams and hyperparams[name] != value:
            raise BadInput(
                f"hyperparams say {name} is {hyperparams[name]!r}, strategy {chosen.name} says {value!r}; "
                "say it in the strategy's options alone",
                code="bad_options",
            )
    return {**(hyperparams or {}), **more} if more else hyperparams


def _installed(name: str) -> Strategy:
    for point in entry_points(group=ENTRY_POINTS, name=name):
        loaded = point.load()
        made = loaded() if isinstance(loaded, type) else loaded
        if not isinstance(made, Strategy) or made.name != name:
            raise Unsupported(f"the entry point {point.value} is no Strategy called {name!r}")
        if made.api != API:
            raise Unsupported(f"strategy {name!r} is of seam version {made.api}; this release has {API}")
        return made
    offered = ", ".join(sorted(BUILTIN))
    raise BadInput(
        f"no strategy is called {name[:80]!r}; built in: {offered}, and clip:NAME; others come with "
        f"packages that offer the entry point {ENTRY_POINTS}",
        code="unknown_strategy",
    )
