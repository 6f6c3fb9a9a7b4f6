"""An experiment's life: rounds, each from the model that the one before made. Knows no clock and no store.

    RUNNING ◀──resume── PAUSED ◀──pause── RUNNING
       ├──the last round completed, or a stopping condition holds────────▶ COMPLETED
       ├──more rounds in a row failed than it outlives, or all did───────▶ FAILED
       └──somebody asked─────────────────────────────────────────────────▶ STOPPED

PAUSED has the same ends. A live experiment is in one of these phases: a round trains, its model is being
evaluated, or one of two in which a paused experiment waits: before an evaluation, or between rounds. A failed
round uses up its number; the next one starts from the same model. An evaluation that fails measures nothing,
and the experiment goes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from propeller.errors import Bug
from propeller.fl.buffer import Buffer, Origin
from propeller.fl.model_ref import ModelRef
from propeller.fl.plan import EVALUATION, ExperimentSpec
from propeller.fl.round_spec import RoundSpec


class ExperimentState(StrEnum):
    """Where an experiment stands."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"


class Phase(StrEnum):
    """What a live experiment is doing."""

    TRAINING = "training"
    UNJUDGED = "unjudged"
    """The round is over, and its model will be evaluated after the pause."""
    EVALUATING = "evaluating"
    BETWEEN = "between"


_R, _P = ExperimentState.RUNNING, ExperimentState.PAUSED
_ENDS: Final = frozenset({ExperimentState.COMPLETED, ExperimentState.FAILED, ExperimentState.STOPPED})

MOVES: Final[Mapping[ExperimentState, frozenset[ExperimentState]]] = {
    _R: _ENDS | {_P},
    _P: _ENDS | {_R},
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
    metrics: Mapping[str, float] = field(default_factory=dict)
    counted: tuple[str, ...] = ()
    """Whose updates counted in it."""
    lost: tuple[str, ...] = ()
    """Whose tasks ended without one."""
    elapsed_s: float = 0.0
    """Since the experiment began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLost:
    """A round of the experiment failed; `final` if the next one would fail alike."""

    number: int
    reason: str
    final: bool = False
    counted: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The evaluation of a round's model ended; it measured nothing if `failure` says why."""

    number: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Somebody wants the experiment to end."""


@dataclass(frozen=True, slots=True)
class PauseAsked:
    """Somebody wants no further round to begin; the one under way goes on to its end."""


@dataclass(frozen=True, slots=True)
class ResumeAsked:
    """Somebody wants a paused experiment to go on."""


ExperimentEvent = RoundDone | RoundLost | Evaluated | StopAsked | PauseAsked | ResumeAsked


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRound:
    """Register this round and have the manager launch it."""

    spec: RoundSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRound:
    """End the round that is under way."""

    round_id: str


ExperimentCommand = OpenRound | StopRound
Step = tuple["Experiment", list[ExperimentCommand]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment at one moment. `number` is the latest round, `model` the newest version it has made."""

    spec: ExperimentSpec
    model: ModelRef
    model_hash: str = ""
    state: ExperimentState = ExperimentState.RUNNING
    reason: str = ""
    number: int = 1
    phase: Phase = Phase.TRAINING
    failures: int = 0
    """Rounds that failed since the last one that completed."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was measured last."""
    best: float | None = None
    """The best value of the metric that decides about stopping."""
    best_version: int | None = None
    waiting: int = 0
    """Measurements since then."""
    buffer: Buffer | None = None
    """Where updates may come late: who trains from what."""

    @property
    def over(self) -> bool:
        """Whether the experiment has ended, for ever."""
        return not MOVES[self.state]

    def handle(self, event: ExperimentEvent) -> Step:  # noqa: PLR0911 - one return per kind of event
        """The experiment after `event`, and what must be done. Events of earlier rounds are old."""
        if self.over:
            return self, []
        match event:
            case StopAsked():
                return self._stopped()
            case PauseAsked():
                return (self if self.state is _P else self.to(_P, "paused")), []
            case ResumeAsked():
                return self._resumed()
            case RoundLost(number=number) if self._now(number, Phase.TRAINING):
                return self._after_failure(event)
            case RoundDone(number=number) if self._now(number, Phase.TRAINING):
                return self._after_round(event)
            case Evaluated(number=number) if self._now(number, Phase.EVALUATING) or self._only(number):
                return self._after_evaluation(event)
            case _:
                return self, []

    def to(self, state: ExperimentState, reason: str = "") -> "Experiment":
        """The experiment in its next state; raises `Bug` for a move that is not in `MOVES`."""
        if state not in MOVES[self.state]:
            raise Bug(
                f"experiment {self.spec.experiment_id!r} cannot go from {self.state} to {state}: {self!r}"
            )
        return replace(self, state=state, reason=reason)

    def _now(self, number: int, phase: Phase) -> bool:
        return number == self.number and phase is self.phase

    def _only(self, number: int) -> bool:
        """Whether this is the only round of an experiment that trains nothing."""
        return self.spec.mode == "evaluate" and self._now(number, Phase.TRAINING)

    def _stopped(self) -> Step:
        ended = self.to(ExperimentState.STOPPED, "stopped")
        if self.phase in {Phase.BETWEEN, Phase.UNJUDGED}:
            return ended, []
        tail = EVALUATION if self.phase is Phase.EVALUATING else ""
        return ended, [StopRound(round_id=self.spec.round_id(self.number) + tail)]

    def _resumed(self) -> Step:
        if self.state is not _P:
            return self, []
        running = self.to(_R)
        match self.phase:
            case Phase.BETWEEN:
                return _next(running)
            case Phase.UNJUDGED:
                return _judged(running)
            case _:
                return running, []

    def _closed(self, event: RoundDone | RoundLost, *, completed: bool) -> "Experiment":
        if self.buffer is None:
            return self
        return replace(self, buffer=self.buffer.closed(event.counted, event.lost, completed=completed))

    def _after_failure(self, event: RoundLost) -> Step:
        failed = replace(self._closed(event, completed=False), failures=self.failures + 1)
        if event.final or failed.failures > self.spec.failures_max:
            return failed.to(ExperimentState.FAILED, event.reason), []
        if self.number == self.spec.rounds and self.model == self.spec.model:
            return failed.to(ExperimentState.FAILED, f"no round completed; the last one: {event.reason}"), []
        return _go_on(failed, event.elapsed_s)

    def _after_round(self, event: RoundDone) -> Step:
        closed = self._closed(event, completed=True)
        advanced = replace(closed, model=event.base, model_hash=event.base_hash, failures=0)
        if self.spec.evaluates(self.number):
            return (replace(advanced, phase=Phase.UNJUDGED), []) if self.state is _P else _judged(advanced)
        # Measurements of another kind would not compare with those of evaluations.
        measured = {} if self.spec.evaluation else event.metrics
        return _measured(advanced, measured, event.elapsed_s)

    def _after_evaluation(self, event: Evaluated) -> Step:
        if self.spec.mode == "evaluate" and event.failure:
            return self.to(ExperimentState.FAILED, event.failure), []
        return _measured(self, event.metrics, event.elapsed_s)


def _judged(experiment: Experiment) -> Step:
    """The evaluation of the newest model begins."""
    opened = experiment.spec.evaluation_spec(experiment.number, experiment.model, experiment.model_hash)
    return replace(experiment, phase=Phase.EVALUATING), [OpenRound(spec=opened)]


def _measured(experiment: Experiment, metrics: Mapping[str, float], elapsed_s: float) -> Step:
    seen = replace(experiment, metrics=metrics) if metrics else experiment
    stopping = experiment.spec.stopping
    value = metrics.get(stopping.metric)
    if value is None:
        return _go_on(seen, elapsed_s)
    if stopping.better(value, experiment.best):
        seen = replace(seen, best=value, best_version=experiment.model.version, waiting=0)
    else:
        seen = replace(seen, waiting=experiment.waiting + 1)
    if stopping.reached(value):
        return seen.to(ExperimentState.COMPLETED, f"{stopping.metric} reached {value:g}"), []
    if stopping.patience and seen.waiting >= stopping.patience:
        why = f"{stopping.metric} has not improved on {seen.best:g} for {seen.waiting} measurements"
        return seen.to(ExperimentState.COMPLETED, why), []
    return _go_on(seen, elapsed_s)


def _go_on(experiment: Experiment, elapsed_s: float) -> Step:
    """After a round and all that belongs to it."""
    stopping = experiment.spec.stopping
    if experiment.number == experiment.spec.rounds:
        return experiment.to(ExperimentState.COMPLETED), []
    if stopping.wall_s and elapsed_s >= stopping.wall_s:
        return experiment.to(ExperimentState.COMPLETED, f"its {stopping.wall_s:g} s are over"), []
    between = replace(experiment, phase=Phase.BETWEEN)
    return (between, []) if experiment.state is _P else _next(between)


def begun(spec: ExperimentSpec, base_hash: str) -> tuple[Experiment, RoundSpec]:
    """A new experiment and its first round."""
    late = spec.staleness_max
    buffer = None if late is None else Buffer(staleness_max=late)
    return _opened(Experiment(spec=spec, model=spec.model, model_hash=base_hash, buffer=buffer))


def _next(experiment: Experiment) -> Step:
    following = replace(experiment, number=experiment.number + 1, phase=Phase.TRAINING)
    opened, round_ = _opened(following)
    return opened, [OpenRound(spec=round_)]


def _opened(experiment: Experiment) -> tuple[Experiment, RoundSpec]:
    """The experiment with its present round, which asks nobody who is still at work."""
    round_ = experiment.spec.round_spec(experiment.number, experiment.model, experiment.model_hash)
    buffer = experiment.buffer
    if buffer is None:
        return experiment, round_
    origin = Origin(round_id=round_.round_id, base=round_.base, base_hash=round_.base_hash, made=buffer.made)
    after, asked, carried = buffer.opened(round_.participants, origin)
    round_ = replace(round_, participants=tuple(asked), carried=carried, made=buffer.made)
    return replace(experiment, buffer=after), round_
