"""What an experiment was asked to be: the checked spec, made of a request by `plan`. Knows none of its life.

A single round, as the original posts it, is an experiment of one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from propeller import limits
from propeller.core.ids import check_id
from propeller.errors import BadInput
from propeller.fl.model_ref import ModelRef
from propeller.fl.round_spec import Mode, RoundSpec, quorum
from propeller.fl.selection import Selection, check_selection

Part = Literal["", "train", "test"]
"""A part of a participant's data; empty: all of it."""

RESERVED: Final = frozenset({"next", "start"})
"""Words that stand where a round id may stand in a path or topic."""
EVALUATION: Final = "-eval"
"""What the id of a round's evaluation has after the round's own."""
_SEED_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """After which rounds the new model is evaluated on the devices' held-out rows."""

    every: int = 1
    """After each so-manieth round, and after the last."""
    timeout_s: float = 0.0
    """0: that of the rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """When an experiment ends before its last round. Metrics are those of evaluation, where there is one."""

    metric: str = ""
    direction: Literal["max", "min"] = "max"
    target: float | None = None
    """Ends once the metric is as good as this."""
    patience: int = 0
    """Ends once the metric has not improved for so many measurements; 0: never."""
    min_delta: float = 0.0
    """What counts as an improvement."""
    wall_s: float = 0.0
    """No round begins later than this after the experiment; 0: no such limit."""

    def better(self, value: float, best: float | None) -> bool:
        """Whether `value` improves on `best`."""
        if best is None:
            return True
        gain = value - best if self.direction == "max" else best - value
        return gain > self.min_delta

    def reached(self, value: float) -> bool:
        """Whether `value` is as good as the target."""
        if self.target is None:
            return False
        return value >= self.target if self.direction == "max" else value <= self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentSpec:
    """What an experiment was asked to be, checked and with every default filled in. Made by `plan`."""

    experiment_id: str
    series: str
    """The id of its first round; identifies the experiment, as `experiment_id` may be used again."""
    rounds: int
    participants: tuple[str, ...]
    """Who takes part in each round; with a `selection`, from whom they are drawn (empty: by labels)."""
    k: int
    min_updates: int
    """0, with a selection: as many as close the set."""
    timeout_s: float
    image: str
    model: ModelRef
    hyperparams: Mapping[str, object] | None = None
    strategy: str = "fedavg"
    options: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    manual: bool = False
    mode: Mode = "train"
    selection: Selection | None = None
    evaluation: Evaluation | None = None
    stopping: Stopping = field(default_factory=Stopping)
    failures_max: int = 0
    """How many rounds in a row may fail without ending the experiment."""
    update_format: str = ""
    """How trainers write what they learned; empty: as they like."""
    files: bool = False
    """Whether trainers get files, however small the model is."""
    data_part: Part = ""
    """Which part of their data participants train on; empty: all of it."""
    staleness_max: int | None = None
    """How many versions a late update may be behind; None: late updates are dropped."""
    source: str = ""
    """The artefact that `model` was pulled from, `oci://…@sha256:…`; empty: it was in the registry."""

    def round_id(self, number: int) -> str:
        """The id of round `number`, counted from 1."""
        return self.series if number == 1 else generated_id(self.experiment_id, number)

    def round_ids(self) -> list[str]:
        """The ids of all rounds and evaluations that it may have."""
        ids = [self.round_id(number) for number in range(1, self.rounds + 1)]
        return ids + [one + EVALUATION for one in ids] if self.evaluation else ids

    def evaluates(self, number: int) -> bool:
        """Whether the model of round `number` is evaluated."""
        return self.evaluation is not None and (number % self.evaluation.every == 0 or number == self.rounds)

    def round_spec(self, number: int, base: ModelRef, base_hash: str) -> RoundSpec:
        """Round `number`, started from `base`."""
        drawn = self.selection is not None
        return RoundSpec(
            round_id=self.round_id(number),
            experiment_id=self.experiment_id,
            series=self.series,
            number=number,
            late=self.staleness_max is not None,
            participants=() if drawn else self.participants,
            k=self.k,
            min_updates=self.min_updates,
            timeout_s=self.timeout_s,
            base=base,
            base_hash=base_hash,
            base_source=self.source if base == self.model else "",
            manual=self.manual,
            mode=self.mode,
            drawn=drawn,
        )

    def evaluation_spec(self, number: int, base: ModelRef, base_hash: str) -> RoundSpec:
        """The evaluation of the model that round `number` made. One measurement is enough at the timeout."""
        drawn = self.selection is not None
        timeout_s = self.evaluation.timeout_s if self.evaluation else 0.0
        return RoundSpec(
            round_id=self.round_id(number) + EVALUATION,
            experiment_id=self.experiment_id,
            series=self.series,
            number=number,
            participants=() if drawn else self.participants,
            k=0 if drawn else len(self.participants),
            min_updates=1,
            timeout_s=timeout_s or self.timeout_s,
            base=base,
            base_hash=base_hash,
            base_source=self.source if base == self.model else "",
            mode="evaluate",
            drawn=drawn,
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
    mode: Mode = "train",
    selection: Selection | None = None,
    evaluation: Evaluation | None = None,
    stopping: Stopping | None = None,
    failures_max: int | None = None,
    update_format: str = "",
    files: bool = False,
    data_part: Part = "",
    staleness_max: int | None = None,
) -> ExperimentSpec:
    """The checked spec of a request. An empty `round_id` is generated if there are several rounds.

    `k_of_n` 0 means all, `timeout_s` 0 the default; `min_updates` None means 1 for a single round, as the
    original has it, and k for more; `failures_max` None means none for a single round, and
    `limits.ROUND_FAILURES` for more. Raises `BadInput`, naming the field.
    """
    check_id(experiment_id, "experiment_id")
    _bounded(rounds, 1, limits.ROUNDS_MAX, "rounds")
    if selection is not None:
        check_selection(selection)
    who = _participants(participants, drawn=selection is not None)
    k = 0 if selection else quorum(k_of_n, len(who))
    least = (1 if rounds == 1 else k) if min_updates is None else min_updates
    if selection is None or min_updates is not None:
        _bounded(least, 1, k or limits.PARTICIPANTS_MAX, "min_updates")
    _check_image(image, needed=rounds > 1 or selection is not None or evaluation is not None)
    _bounded(seed, 0, _SEED_MAX, "seed")
    failures = (0 if rounds == 1 else limits.ROUND_FAILURES) if failures_max is None else failures_max
    _bounded(failures, 0, limits.ROUNDS_MAX, "round_failures_max")
    _check_mode(mode, rounds, evaluation)
    return ExperimentSpec(
        experiment_id=experiment_id,
        series=_series(experiment_id, round_id, rounds, evaluation),
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
        mode=mode,
        selection=selection,
        evaluation=_evaluation(evaluation),
        stopping=_stopping(stopping or Stopping()),
        failures_max=failures,
        update_format=update_format,
        files=files,
        data_part=data_part or ("train" if evaluation else ""),
        staleness_max=_staleness(staleness_max, selection, manual=manual),
    )


def _series(experiment_id: str, round_id: str, rounds: int, evaluation: Evaluation | None) -> str:
    tail = EVALUATION if evaluation else ""
    if rounds > 1:
        check_id(generated_id(experiment_id, rounds) + tail, "the generated id of the last round")
    elif not round_id:
        raise BadInput("round_id is missing; name the round", code="missing_round_id")
    series = check_id(round_id or generated_id(experiment_id, 1), "round_id")
    check_id(series + tail, "the generated id of an evaluation")
    if series in RESERVED:
        raise BadInput(f"round_id {series!r} is a word of the interface; choose another", code="bad_id")
    later = {generated_id(experiment_id, number) for number in range(2, rounds + 1)}
    if later & {series, series.removesuffix(EVALUATION)}:
        raise BadInput(f"round_id {series!r} is that of a later round; choose another", code="bad_id")
    return series


def _participants(participants: Sequence[str], *, drawn: bool) -> tuple[str, ...]:
    if not (0 if drawn else 1) <= len(participants) <= limits.PARTICIPANTS_MAX:
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


def _check_image(image: str, *, needed: bool) -> None:
    if len(image) > limits.IMAGE_REFERENCE_CHARS_MAX:
        raise BadInput(
            f"task_wasm_image has {len(image)} characters; the limit is {limits.IMAGE_REFERENCE_CHARS_MAX}",
            code="bad_image",
        )
    if needed and not image:
        raise BadInput("task_wasm_image is missing; later rounds start tasks from it", code="missing_image")


def _check_mode(mode: Mode, rounds: int, evaluation: Evaluation | None) -> None:
    if mode == "evaluate" and (rounds > 1 or evaluation is not None):
        raise BadInput(
            "an experiment of mode infer evaluates one model once: leave out rounds and evaluation",
            code="bad_mode",
        )


def _evaluation(evaluation: Evaluation | None) -> Evaluation | None:
    if evaluation is not None:
        _bounded(evaluation.every, 1, limits.ROUNDS_MAX, "evaluation.every")
        _timeout(evaluation.timeout_s)
    return evaluation


def _staleness(most: int | None, selection: Selection | None, *, manual: bool) -> int | None:
    if most is None or manual:
        return None
    _bounded(most, 1, limits.STALENESS_MAX, "late.staleness_max")
    if selection is not None:
        raise BadInput(
            "late updates count only where `participants` are named: with a selector nobody knows who is "
            "still at work; leave one of them out",
            code="bad_late",
        )
    return most


def _stopping(stopping: Stopping) -> Stopping:
    _bounded(stopping.patience, 0, limits.ROUNDS_MAX, "stop.patience")
    if not stopping.metric and (stopping.target is not None or stopping.patience):
        raise BadInput("stop.metric is missing: which metric has the target or the patience", code="bad_stop")
    if stopping.metric and stopping.target is None and not stopping.patience:
        raise BadInput(
            f"stop.metric is {stopping.metric[:80]!r}: give it a target or a patience", code="bad_stop"
        )
    if len(stopping.metric) > limits.TENSOR_NAME_CHARS_MAX:
        raise BadInput(
            f"stop.metric has {len(stopping.metric)} characters; no metric has over "
            f"{limits.TENSOR_NAME_CHARS_MAX}",
            code="bad_stop",
        )
    if stopping.min_delta < 0 or stopping.wall_s < 0:
        raise BadInput("stop.min_delta and stop.wall_s must not be negative", code="bad_stop")
    return stopping


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
        raise BadInput(
            f"{what} is {value}; it must be from {low} to {high}", code=f"bad_{what.replace('.', '_')}"
        )
