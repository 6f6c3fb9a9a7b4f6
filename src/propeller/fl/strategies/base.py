"""What a strategy is, and how one is found by name. Knows no algorithm and no transport.

A strategy says what it *needs* of the aggregator:

* `sum`      one update at a time, memory independent of the number of clients (FedAvg, FedAdam);
* `each`     all updates of a round at hand together (Krum);
* `columns`  for each parameter, the values of all clients (median, trimmed mean).

An aggregator that does not serve a strategy's need refuses it with a clear error. `sum` strategies are a
`Fold`: contributions go in by ascending participant, so that the bits of the result depend on the set of
updates and never on their arrival. State (momentum, moments) goes in and comes out as tensors, stored with
the model version, so that the aggregator itself remembers nothing.

Outside packages add strategies by the entry point group `propeller.strategies`: name → a `Strategy` class or
instance.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Final, Literal, Protocol, runtime_checkable

from propeller import limits
from propeller.errors import BadInput, Bug, Unsupported
from propeller.fl.tensors import EMPTY, Tensors, content_hash

Needs = Literal["sum", "each", "columns"]
Options = Mapping[str, object]
"""A strategy's own settings, as JSON values: the strategy checks them."""

ENTRY_POINTS: Final = "propeller.strategies"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One participant's part of a round: its tensors, weighted by how many samples they saw (1 or more)."""

    participant: str
    samples: int
    tensors: Tensors

    def __post_init__(self) -> None:
        check_samples(self.samples, f"the update of {self.participant!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregated:
    """What a strategy made of a round: the new global model, and its own state for the next round."""

    model: Tensors
    state: Tensors = EMPTY
    samples: int = 0
    """Samples of all contributions together."""


class Fold(Protocol):
    """One aggregation in progress."""

    def add(self, contribution: Contribution) -> None:
        """Take one contribution in, in ascending order of participant.

        Raises `BadInput` `wrong_shape` if its tensors are not like the base's (the first one's without base).
        """
        ...

    def finish(self) -> Aggregated:
        """The result. Raises `BadInput` `no_updates` if nothing was added. Called once."""
        ...


@runtime_checkable
class Strategy(Protocol):
    """An algorithm of server-side aggregation. Instances hold no state between calls."""

    name: str
    version: int
    """Grows when the same updates would give other bits; recorded with every model version."""
    needs: Needs
    coordinatewise: bool
    """True if each parameter depends on its own column alone: slices may be folded apart, with equal bits."""

    def check_options(self, options: Options) -> None:
        """Return if `options` are lawful, else raise `BadInput` `bad_options` naming the option."""
        ...

    def start(self, *, base: Tensors | None, state: Tensors, options: Options) -> Fold:
        """Begin to fold a round that started from `base` (None: take names and shapes from the updates).

        `state` is what the last `Aggregated` of this experiment carried, `EMPTY` at first. Raises `BadInput`
        for options or state that are not this strategy's.
        """
        ...


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


def in_participant_order(contributions: Iterable[Contribution]) -> list[Contribution]:
    """The one order in which a fold takes them: by participant, then (unnamed ones) samples and content."""

    def unnamed(same: list[Contribution]) -> Iterable[Contribution]:
        return sorted(same, key=lambda one: (one.samples, content_hash(one.tensors)))

    groups: dict[str, list[Contribution]] = {}
    for contribution in contributions:
        groups.setdefault(contribution.participant, []).append(contribution)
    return [
        contribution
        for participant in sorted(groups)
        for contribution in (
            groups[participant] if len(groups[participant]) == 1 else unnamed(groups[participant])
        )
    ]


def check_order(last: str | None, contribution: Contribution) -> str:
    """The participant just taken in. Raises `Bug` if it precedes `last`: the caller forgot to sort."""
    if last is not None and contribution.participant < last:
        raise Bug(
            f"update of {contribution.participant!r} folded after that of {last!r}; sort by participant"
        )
    return contribution.participant


def aggregate(
    strategy: Strategy,
    contributions: Sequence[Contribution],
    *,
    base: Tensors | None = None,
    state: Tensors = EMPTY,
    options: Options | None = None,
) -> Aggregated:
    """One whole aggregation in memory: the same bits for every order of `contributions`."""
    fold = strategy.start(base=base, state=state, options=options or {})
    for contribution in in_participant_order(contributions):
        fold.add(contribution)
    return fold.finish()


def refuse_unknown_options(strategy: str, options: Options, known: Iterable[str]) -> None:
    """Raise `BadInput` `bad_options` naming the first option that `strategy` does not have."""
    strange = sorted(set(options) - set(known))
    if strange:
        offered = ", ".join(sorted(known)) or "none"
        raise BadInput(
            f"strategy {strategy} has no option {strange[0]!r}; it has: {offered}", code="bad_options"
        )


def find(name: str, builtin: Mapping[str, Strategy]) -> Strategy:
    """The strategy called `name`: a built-in one, else one installed by entry point.

    Raises `BadInput` `unknown_strategy` if there is none, `Unsupported` if what is installed is no strategy.
    """
    if name in builtin:
        return builtin[name]
    for point in entry_points(group=ENTRY_POINTS, name=name):
        loaded = point.load()
        made = loaded() if isinstance(loaded, type) else loaded
        if isinstance(made, Strategy):
            return made
        raise Unsupported(f"the entry point {point.value} of strategy {name!r} is no Strategy")
    raise BadInput(
        f"no strategy is called {name[:80]!r}; built in: {', '.join(sorted(builtin))}; others come "
        f"with packages that offer the entry point {ENTRY_POINTS}",
        code="unknown_strategy",
    )
