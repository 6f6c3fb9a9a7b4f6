"""Carrying a strategy out: all reading, rounding and writing of a fold. Pure: arrays in, arrays out.

Updates are taken block by block, every update's part of a block before the next block; so memory does not
grow with their number, and arrays that are mapped from files are read once, from end to end. Whole numbers
are summed in float64, exact up to 2⁵³. Knows no file, no request and no algorithm.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from propeller.errors import BadInput, Unsupported
from propeller.fl.blocks import (
    BLOCK,
    BLOCK_FLOAT32,
    BLOCK_STEP,
    F64,
    Array,
    Span,
    Sum,
    over,
    rounded_into,
    spans,
)
from propeller.fl.strategies.base import Aggregated, Block, Contribution, Moved, Party, Strategy, Tally
from propeller.fl.strategies.options import Options, Settings
from propeller.fl.tensors import EMPTY, Tensors, cast_like, check_like, content_hash, frozen

_COLUMN_BYTES: Final = 1 << 20
"""What all clients' values of one block may weigh, with copies: it stays in cache."""
_WIDTH_MIN: Final = 64


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


def state_like(strategy: Strategy, model: Tensors) -> dict[str, Array]:
    """Names, shapes and dtypes of the state that `strategy` keeps beside `model`: `{slot}/{tensor}`."""
    return {
        f"{slot}/{name}": array
        for slot in strategy.slots
        for name, array in model.items()
        if array.dtype.kind == "f"
    }


def aggregate(
    strategy: Strategy,
    contributions: Sequence[Contribution],
    *,
    base: Tensors | None = None,
    state: Tensors = EMPTY,
    options: Options | None = None,
    threads: int = 1,
    into: Mapping[str, Array] | None = None,
    state_into: Mapping[str, Array] | None = None,
) -> Aggregated:
    """One whole aggregation: the same bits for every order of `contributions` and number of `threads`.

    `state` is what the last `Aggregated` of this line of models carried, `EMPTY` at first. `into` and
    `state_into` are writable arrays for the results (mapped files, say); made here if not given, and taken
    over. Raises `BadInput`: `no_updates`, `wrong_shape`, `bad_options`, `bad_state`, `too_few_updates`,
    `not_finite`; `Unsupported` without a base that the strategy needs.
    """
    settings = strategy.settings(options or {})
    if not contributions:
        raise BadInput("there is nothing to aggregate: no update was given", code="no_updates")
    if base is None and strategy.needs_base:
        raise Unsupported(f"strategy {strategy.name} needs the model that the round started from as `base`")
    ordered = in_participant_order(contributions)
    like = strategy.expects(ordered[0].tensors if base is None else base)
    for one in ordered:
        check_like(one.tensors, like, f"the update of {one.participant!r}")
    state = _fitting(strategy, state, like)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        fold = _Fold(strategy, settings, ordered, None if base is None else like, like, state, threads)
        model, moved = fold.run(_room(like, into), _room(state_like(strategy, like), state_into))
    return Aggregated(
        model=frozen(model, "the aggregated model"),
        state=frozen(moved, "the strategy's state"),
        samples=sum(one.samples for one in ordered),
    )


def _room(like: Mapping[str, Array], given: Mapping[str, Array] | None) -> dict[str, Array]:
    return dict(given) if given is not None else {name: np.empty_like(array) for name, array in like.items()}


def _fitting(strategy: Strategy, state: Tensors, model: Tensors) -> Tensors:
    """`state` in the dtypes of the model, which JSON does not carry. Raises `BadInput` `bad_state`."""
    if not state:
        return state
    if not strategy.slots:
        raise BadInput(f"strategy {strategy.name} keeps no state, but was given some", code="bad_state")
    what = f"the state of strategy {strategy.name}"
    try:
        wanted = Tensors(state_like(strategy, model), what)
        fitting = cast_like(state, wanted, what)
        check_like(fitting, wanted, what)
    except BadInput as error:
        raise BadInput(error.message, code="bad_state") from error
    return fitting


@dataclass(slots=True)
class _View:
    """The closed set as `weigh` sees it."""

    contributions: Sequence[Contribution]
    base: Tensors | None
    threads: int
    _distances: F64 | None = field(default=None, init=False)

    @property
    def parties(self) -> Sequence[Party]:
        return self.contributions

    def distances(self) -> F64:
        if self._distances is None:
            self._distances = self._measured([one.tensors for one in self.contributions])
        return self._distances

    def norms(self) -> F64:
        if self.base is None:
            raise BadInput("the length of an update needs the base model; give `base`", code="no_base")
        squared = self._measured([one.tensors for one in self.contributions], self.base)[0]
        lengths: F64 = np.sqrt(squared)
        return lengths

    def _measured(self, models: Sequence[Tensors], centre: Tensors | None = None) -> F64:
        """Squared distances between `models`, or [1, n] from `centre`; a fixed sum over fixed blocks."""
        floats = {name: array for name, array in models[0].items() if array.dtype.kind == "f"}
        blocks = spans(floats, lambda _: _width(2 * len(models)))
        shape = (len(models) if centre is None else 1, len(models))
        found = np.zeros((len(blocks), *shape))

        def measure(share: Iterator[tuple[int, Span]]) -> None:
            for index, span in share:
                rows = _stacked(models, span)
                near = rows if centre is None else _stacked([centre], span)
                for row in range(shape[0]):
                    apart = rows - near[row]
                    np.multiply(apart, apart, out=apart)
                    np.add.reduce(apart, axis=1, out=found[index, row])

        over(blocks, measure, threads=self.threads, rows=len(models) * shape[0])
        total: F64 = np.add.reduce(found, axis=0)
        return total


def _width(rows: int) -> int:
    return max(_WIDTH_MIN, min(BLOCK, _COLUMN_BYTES // (8 * rows)))


def _flat(array: Array, span: Span) -> Array:
    return array.reshape(-1)[span.start : span.stop]


def _stacked(models: Sequence[Tensors], span: Span) -> F64:
    rows = np.empty((len(models), span.stop - span.start))
    for row, model in zip(rows, models, strict=True):
        np.copyto(row, _flat(model[span.name], span))
    return rows


class _Fold:
    """One aggregation under way."""

    def __init__(
        self,
        strategy: Strategy,
        settings: Settings,
        contributions: Sequence[Contribution],
        base: Tensors | None,
        like: Tensors,
        state: Tensors,
        threads: int,
    ) -> None:
        self._strategy, self._settings = strategy, settings
        self._base, self._like, self._state, self._threads = base, like, state, threads
        weights = strategy.weigh(_View(contributions, base, threads), settings)
        models: list[Tensors] = [one.tensors for one in contributions]
        if len(weights) == len(models) + 1 and base is not None:
            models.append(base)
        counted = [index for index, weight in enumerate(weights) if weight > 0]
        self._models = [models[index] for index in counted]
        self._weights = [float(weights[index]) for index in counted]
        if not self._models or not np.isfinite(weights).all():
            raise BadInput(f"strategy {strategy.name} gives no update any weight", code="no_updates")
        self._tally = Tally(
            updates=len(contributions),
            samples=sum(one.samples for one in contributions),
            weight=float(np.add.reduce(weights)),
        )
        self._columns = type(strategy).column is not Strategy.column
        self._steps = type(strategy).step is not Strategy.step

    def run(
        self, model: dict[str, Array], state: dict[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Fill both, and hand them back."""
        blocks = spans(self._like, self._width)

        def fold(share: Iterator[tuple[int, Span]]) -> None:
            adder = Sum(self._weights)
            for _, span in share:
                self._fold(span, adder, model, state)

        # The outer errstate is the calling thread's own; each thread needs one.
        def quietly(share: Iterator[tuple[int, Span]]) -> None:
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                fold(share)

        over(blocks, quietly, threads=self._threads, rows=len(self._models))
        return model, state

    def _width(self, array: Array) -> int:
        if self._columns:
            return _width(2 * len(self._models))
        if self._steps:
            return BLOCK_STEP
        return BLOCK_FLOAT32 if array.dtype == np.float32 else BLOCK

    def _fold(self, span: Span, adder: Sum, model: dict[str, Array], state: dict[str, Array]) -> None:
        out = _flat(model[span.name], span)
        rows = [_flat(one[span.name], span) for one in self._models]
        steps = self._steps and out.dtype.kind == "f"
        if out.dtype == np.float32 and not steps and not self._columns:
            adder.mean_into(out, rows)
        else:
            value = self._column(span) if self._columns else adder.mean(rows)
            rounded_into(out, self._moved(span, value, state) if steps else value)
        _check_finite(out, span.name, "the aggregated model")

    def _column(self, span: Span) -> F64:
        return self._strategy.column(_stacked(self._models, span), self._settings)

    def _moved(self, span: Span, mean: F64, state: dict[str, Array]) -> F64:
        moved: Moved = self._strategy.step(
            Block(
                tensor=span.name,
                mean=mean,
                base=self._part(self._base, span.name, span, 0.0),
                state={
                    slot: self._part(
                        self._state,
                        f"{slot}/{span.name}",
                        span,
                        self._strategy.begin(slot, self._settings),
                    )
                    for slot in self._strategy.slots
                },
                tally=self._tally,
            ),
            self._settings,
        )
        for slot in self._strategy.slots:
            out = _flat(state[f"{slot}/{span.name}"], span)
            np.copyto(out, moved.state[slot], casting="unsafe")
            _check_finite(out, span.name, f"the state {slot!r} of strategy {self._strategy.name}")
        return moved.model

    def _part(self, tensors: Tensors | None, name: str, span: Span, otherwise: float) -> F64:
        if not tensors:
            return np.full(span.stop - span.start, otherwise)
        return _flat(tensors[name], span).astype(np.float64)


def _check_finite(out: Array, name: str, what: str) -> None:
    """While the block is in cache. NaN is neither above nor below anything, so it comes out of both."""
    if out.dtype.kind == "f" and not (np.isfinite(out.min()) and np.isfinite(out.max())):
        raise BadInput(f"{what}: tensor {name!r} holds NaN or infinity", code="not_finite")
