"""What a strategy is. Knows no algorithm, no transport, and not how a fold is carried out.

A strategy answers up to three questions; `fl.aggregation` asks them, and does all reading and writing:

1. how much each update counts: `weigh`, from samples and staleness, or (`needs = "each"`) from distances;
2. what becomes of one parameter's values: their weighted mean, or (`column`) anything else of them;
3. how the model moves from its base towards that: `step`, with a state that is kept between rounds.

`needs` says what must be at hand, and so what a strategy excludes:

* `sum`      Σ weight·update and Σ weight only: every update is read once (FedAvg, FedAdam);
* `columns`  for each parameter, the values of all clients (median, trimmed mean);
* `each`     all updates together, read more than once (Krum). No secure aggregation, nor with `columns`.

Numbers come and go as float64 blocks, slices of one tensor, so that a strategy is a few lines of arithmetic
and knows nothing of dtypes, files or threads. State (momentum, moments) is stored with the model version;
the aggregator remembers nothing. Outside packages add strategies by the entry point group
`propeller.strategies`: name → a `Strategy` class or instance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from propeller import limits
from propeller.errors import BadInput
from propeller.fl.strategies.options import Number, Options, Settings, checked
from propeller.fl.tensors import EMPTY, Tensors

Needs = Literal["sum", "each", "columns"]
F64 = npt.NDArray[np.float64]

API: Final = 1
"""Version of this seam. A strategy of another one is refused when it is loaded."""

ENTRY_POINTS: Final = "propeller.strategies"


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """What is known of one participant's part beside its tensors."""

    participant: str
    samples: int
    """How many samples it saw, by its own account: 1 or more."""
    staleness: int = 0
    """Versions made between the one it started from and the round's base; 0 except when asynchronous."""

    def __post_init__(self) -> None:
        check_samples(self.samples, f"the update of {self.participant!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution(Party):
    """One participant's part of a round: its trained model, in memory or mapped from a file."""

    tensors: Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregated:
    """What a strategy made of a round: the new global model, and its own state for the next round."""

    model: Tensors
    state: Tensors = EMPTY
    samples: int = 0
    """Samples of all contributions together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The whole round in numbers, as a `step` may want them."""

    updates: int
    samples: int
    weight: float
    """Sum of all weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A slice of one floating-point tensor, on which a `step` works. Arrays are flat, float64 and its own."""

    tensor: str
    mean: F64
    """What the round's updates came to: their weighted mean, or the strategy's own `column`."""
    base: F64
    """The model that the round started from."""
    state: Mapping[str, F64]
    """This tensor's part of each slot of the strategy's state."""
    tally: Tally


@dataclass(frozen=True, slots=True)
class Moved:
    """What a `step` answers: new parameters, and the new content of every slot."""

    model: F64
    state: Mapping[str, F64] = field(default_factory=dict)


class Round(Protocol):
    """The closed set of updates, in participant order, as `weigh` sees it."""

    @property
    def parties(self) -> Sequence[Party]:
        """Who sent, and what is known of it."""
        ...

    def distances(self) -> F64:
        """Squared L2 distances between all updates, over all floating-point tensors: [n, n].

        Reads every update once more. Only for strategies whose `needs` is `each`.
        """
        ...

    def norms(self) -> F64:
        """L2 norm of every update's difference from the base: [n]. Raises `BadInput` without a base."""
        ...


class Strategy:
    """A server-side algorithm. Subclass it, name it, override what differs from FedAvg.

    Instances hold no state between calls. All methods are pure.
    """

    api: int = API
    name: str = ""
    version: int = 1
    """Grows when the same updates would give other bits; recorded with every model version."""
    needs: Needs = "sum"
    options: ClassVar[Mapping[str, Number]] = {}
    """The options it has, all numbers."""
    slots: tuple[str, ...] = ()
    """Names of its state: each slot is a copy of the model's floating-point tensors, begun by `begin`."""
    needs_base: bool = False
    """True if `step` or `weigh` reads the base; it is refused without one."""

    clients_remember: bool = False
    """True if trainers keep a state of their own from round to round: they are given files then."""

    def check_options(self, options: Options) -> None:
        """Return if `options` are lawful, else raise `BadInput` `bad_options` naming the option."""
        self.settings(options)

    def settings(self, options: Options) -> Settings:
        """Every option of this strategy with its value, given or default. Raises `BadInput` `bad_options`."""
        return checked(self.name, options, self.options)

    def hyperparams(self, settings: Settings) -> Mapping[str, object]:
        """What trainers must be told beside the experiment's own hyperparameters."""
        del settings
        return {}

    def least_updates(self, settings: Settings) -> int:
        """With how few updates it still keeps its promise; a round that could close with fewer is refused."""
        del settings
        return 1

    def expects(self, base: Tensors) -> Tensors:
        """Names, shapes and dtypes of an update to a round that starts from `base`, and of what it makes.

        Values are those of the base, and zero for what an update carries beside the model.
        """
        return base

    def weigh(self, round_: Round, settings: Settings) -> F64:
        """How much each update counts: [n], not negative, not all zero; here, its samples.

        Of an update that is τ versions late they count 1/√(1 + τ), as in FedBuff's paper.

        A strategy that needs `each` may answer n + 1 weights: the last one is that of the base.
        """
        del settings
        samples = np.array([party.samples for party in round_.parties], dtype=np.float64)
        staleness = np.array([party.staleness for party in round_.parties], dtype=np.float64)
        return samples / np.sqrt(1 + staleness)

    def column(self, values: F64, settings: Settings) -> F64:
        """What becomes of a block of parameters: [n, width] → [width]. `values` may be overwritten.

        Only updates of positive weight are among `values`. Asked of strategies that override it, only.
        """
        raise NotImplementedError

    def begin(self, slot: str, settings: Settings) -> float:
        """What a slot is filled with before the first round."""
        del slot, settings
        return 0.0

    def step(self, block: Block, settings: Settings) -> Moved:
        """Where the model goes from `block.base`, given `block.mean`: here, to the mean.

        Not asked for tensors of whole numbers: they become their mean, rounded to even.
        """
        del settings
        return Moved(block.mean)


def check_samples(samples: object, what: str) -> int:
    """Return `samples` as an int if it is integral and in 1…`limits.UPDATE_SAMPLES_MAX`.

    A float that is a whole number counts (JSON has one kind of number); booleans do not.
    Raises `BadInput` `bad_samples`.
    """
    if isinstance(samples, float) and samples.is_integer():
        samples = int(samples)
    if (
        isinstance(samples, int)
        and not isinstance(samples, bool)
        and 1 <= samples <= limits.UPDATE_SAMPLES_MAX
    ):
        return samples
    raise BadInput(
        f"num_samples of {what} is {_shown(samples)}; it must be a whole number from 1 to "
        f"{limits.UPDATE_SAMPLES_MAX}",
        code="bad_samples",
    )


def _shown(value: object) -> str:
    return str(value)[:40] if isinstance(value, (int, float)) else type(value).__name__


def too_few(strategy: str, updates: int, least: int) -> BadInput:
    """The error of a strategy that cannot keep its promise with so few updates."""
    return BadInput(
        f"strategy {strategy} with these options needs at least {least} updates, and {updates} may be all; "
        "have more participants, raise k_of_n and min_updates, or expect fewer faulty ones",
        code="too_few_updates",
    )


Array = npt.NDArray[Any]
