"""An experiment: n rounds, each from the model that the one before made. Knows no clock, store or transport.

    RUNNING ──the last round completed──▶ COMPLETED
       ├──a round failed────────────────▶ FAILED
       └──somebody asked────────────────▶ STOPPED

A single round, as the original posts it, is an experiment of one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from propeller import limits
from propeller.core.ids import check_id
from propeller.errors import BadInput, Bug
from propeller.fl.model_ref import ModelRef
from propeller.fl.round import RoundSpec, quorum

RESERVED: Final = frozenset({"next", "start"})
"""Words that stand where a round id may stand in a path or topic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentSpec:
    """What an experiment was asked to be, checked and with every default filled in. Made by `plan`."""

    experiment_id: str
    series: str
    """The id of its first round; identifies the experiment, as `experiment_id` may be used again."""
    rounds: int
    participants: tuple[str, ...]
    k: int
    min_updates: int
    timeout_s: float
    image: str
    model: ModelRef
    hyperparams: Mapping[str, object] | None = None
    strategy: str = "fedavg"
    options: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    manual: bool = False

    def round_id(self, number: int) -> str:
        """The id of round `number`, counted from 1."""
        return self.series if number == 1 else generated_id(self.experiment_id, number)

    def round_spec(self, number: int, base: ModelRef, base_hash: str) -> RoundSpec:
        """Round `number`, started from `base`."""
        return RoundSpec(
            round_id=self.round_id(number),
            experiment_id=self.experiment_id,
            series=self.series,
            number=number,
            participants=self.participants,
            k=self.k,
            min_updates=self.min_updates,
            timeout_s=self.timeout_s,
            base=base,
            base_hash=base_hash,
            manual=self.manual,
        )


def generated_id(experiment_id: str, number: int) -> str:
    """The id of a round that nobody named."""
    return f"{experiment_id}-{number}"


def plan(
    *,
    experiment_id: str,
    round_id: str,
    participants: Sequence[str],
    model: ModelRef,
    k_of_n: int = 0,
    min_updates: int | None = None,
    timeout_s: float = 0.0,
    rounds: int = 1,
    image: str = "",
    hyperparams: Mapping[str, object] | None = None,
    strategy: str,
    options: Mapping[str, object] | None = None,
    seed: int = 0,
    manual: bool = False,
) -> ExperimentSpec:
    """The checked spec of a request. An empty `round_id` is generated if there are several rounds.

    `k_of_n` 0 means all, `timeout_s` 0 the default; `min_updates` None means 1 for a single round, as the
    original has it, and k for more. Raises `BadInput`, naming the field.
    """
    check_id(experiment_id, "experiment_id")
    _bounded(rounds, 1, limits.ROUNDS_MAX, "rounds")
    series = _series(experiment_id, round_id, rounds)
    who = _participants(participants)
    k = quorum(k_of_n, len(who))
    least = (1 if rounds == 1 else k) if min_updates is None else min_updates
    _bounded(least, 1, k, "min_updates")
    if len(image) > limits.IMAGE_REFERENCE_CHARS_MAX:
        raise BadInput(
            f"task_wasm_image has {len(image)} characters; the limit is {limits.IMAGE_REFERENCE_CHARS_MAX}",
            code="bad_image",
        )
    if rounds > 1 and not image:
        raise BadInput("task_wasm_image is missing; later rounds start tasks from it", code="missing_image")
    _bounded(seed, 0, (1 << 63) - 1, "seed")
    return ExperimentSpec(
        experiment_id=experiment_id,
        series=series,
        rounds=rounds,
        participants=who,
        k=k,
        min_updates=least,
        timeout_s=_timeout(timeout_s),
        image=image,
        model=model,
        hyperparams=hyperparams,
        strategy=strategy,
        options=options or {},
        seed=seed,
        manual=manual,
    )


def _series(experiment_id: str, round_id: str, rounds: int) -> str:
    if rounds > 1:
        check_id(generated_id(experiment_id, rounds), "the generated id of the last round")
    elif not round_id:
        raise BadInput("round_id is missing; name the round", code="missing_round_id")
    series = check_id(round_id or generated_id(experiment_id, 1), "round_id")
    if series in RESERVED:
        raise BadInput(f"round_id {series!r} is a word of the interface; choose another", code="bad_id")
    if series in {generated_id(experiment_id, number) for number in range(2, rounds + 1)}:
        raise BadInput(f"round_id {series!r} is that of a later round; choose another", code="bad_id")
    return series


def _participants(participants: Sequence[str]) -> tuple[str, ...]:
    if not 1 <= len(participants) <= limits.PARTICIPANTS_MAX:
        raise BadInput(
            f"participants lists {len(participants)} proplets; give 1 to {limits.PARTICIPANTS_MAX}",
            code="bad_participants",
        )
    for participant in participants:
        check_id(participant, "participant")
    if len(set(participants)) != len(participants):
        [(twice, _)] = Counter(participants).most_common(1)
        raise BadInput(f"participant {twice!r} is listed twice; list each once", code="bad_participants")
    return tuple(participants)


def _timeout(timeout_s: float) -> float:
    if 0 <= timeout_s <= limits.ROUND_TIMEOUT_S_MAX:
        return float(timeout_s or limits.ROUND_TIMEOUT_S)
    raise BadInput(
        f"timeout_s is {timeout_s:g}; give seconds up to {limits.ROUND_TIMEOUT_S_MAX:g}, or 0 for "
        f"{limits.ROUND_TIMEOUT_S:g}",
        code="bad_timeout",
    )


def _bounded(value: int, low: int, high: int, what: str) -> None:
    if not low <= value <= high:
        raise BadInput(f"{what} is {value}; it must be from {low} to {high}", code=f"bad_{what}")


# --- its life --------------------------------------------------------------------------------------------


class ExperimentState(StrEnum):
    """Where an experiment stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"


MOVES: Final[Mapping[ExperimentState, frozenset[ExperimentState]]] = {
    ExperimentState.RUNNING: frozenset(
        {ExperimentState.COMPLETED, ExperimentState.FAILED, ExperimentState.STOPPED}
    ),
    ExperimentState.COMPLETED: frozenset(),
    ExperimentState.FAILED: frozenset(),
    ExperimentState.STOPPED: frozenset(),
}
"""The whole life of an experiment; any other move is a bug."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundDone:
    """A round of the experiment stored version `base.version` of its model, with this content hash."""

    number: int
    base: ModelRef
    base_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLost:
    """A round of the experiment failed."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Somebody wants the experiment to end."""


ExperimentEvent = RoundDone | RoundLost | StopAsked


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRound:
    """Register this round and have the manager launch it."""

    spec: RoundSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRound:
    """End the round that is under way."""

    round_id: str


ExperimentCommand = OpenRound | StopRound


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment at one moment. `number` is the latest round, `model` the newest version it has made."""

    spec: ExperimentSpec
    model: ModelRef
    state: ExperimentState = ExperimentState.RUNNING
    reason: str = ""
    number: int = 1

    @property
    def over(self) -> bool:
        """Whether the experiment has ended, for ever."""
        return not MOVES[self.state]

    def handle(self, event: ExperimentEvent) -> tuple["Experiment", list[ExperimentCommand]]:
        """The experiment after `event`, and what must be done. Events of earlier rounds are old."""
        if self.over:
            return self, []
        match event:
            case StopAsked():
                return self.to(ExperimentState.STOPPED, "stopped"), [
                    StopRound(round_id=self.spec.round_id(self.number))
                ]
            case RoundLost(number=number, reason=reason) if number == self.number:
                return self.to(ExperimentState.FAILED, reason), []
            case RoundDone(number=number, base=base, base_hash=base_hash) if number == self.number:
                return self._after_round(base, base_hash)
            case _:
                return self, []

    def to(self, state: ExperimentState, reason: str = "") -> "Experiment":
        """The experiment in its next state; raises `Bug` for a move that is not in `MOVES`."""
        if state not in MOVES[self.state]:
            raise Bug(
                f"experiment {self.spec.experiment_id!r} cannot go from {self.state} to {state}: {self!r}"
            )
        return replace(self, state=state, reason=reason)

    def _after_round(self, base: ModelRef, base_hash: str) -> tuple["Experiment", list[ExperimentCommand]]:
        advanced = replace(self, model=base)
        if self.number == self.spec.rounds:
            return advanced.to(ExperimentState.COMPLETED), []
        following = replace(advanced, number=self.number + 1)
        return following, [OpenRound(spec=self.spec.round_spec(following.number, base, base_hash))]
