"""Records as the HTTP interface shows them. Knows the bodies of `wire.experiments` and no routes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from propeller.federation.coordinator.notices import rfc3339
from propeller.fl.experiment import Phase
from propeller.fl.model_ref import ModelRef
from propeller.fl.plan import EVALUATION
from propeller.fl.round import RoundState
from propeller.stores.coordinator import ExperimentRecord, RoundRecord, UpdateRecord
from propeller.wire.experiments import (
    EvaluationBody,
    ExperimentDetail,
    ExperimentView,
    LateBody,
    MetricRow,
    MetricRows,
    NextRound,
    ParticipantRow,
    ParticipantRows,
    RefusalView,
    RoundDetail,
    RoundStatus,
    RoundStatusBoth,
    RoundTask,
    RoundTaskAnswer,
    RoundView,
    SelectorBody,
    StopBody,
    StrategyBody,
    TaskConfig,
    UpdateView,
)


def status_view(record: RoundRecord) -> RoundStatusBoth:
    """How far a round is, flat and nested."""
    status = RoundStatus(
        round_id=record.spec.round_id,
        completed=record.state is RoundState.COMPLETED,
        state=record.state.value,
        reason=record.reason,
        num_updates=record.num_updates,
        k_of_n=record.spec.k,
        model_version=record.version,
    )
    flat = {name: getattr(status, name) for name in RoundStatus.__struct_fields__}
    return RoundStatusBoth(**flat, status=status)


def round_view(record: RoundRecord, wall_s: float) -> RoundView:
    """One round; `wall_s` is the present."""
    spec = record.spec
    ended_s = record.ended_wall_s
    return RoundView(
        round_id=spec.round_id,
        experiment_id=spec.experiment_id,
        number=spec.number,
        state=record.state.value,
        reason=record.reason,
        participants=list(record.participants),
        k_of_n=spec.k,
        min_updates=spec.min_updates,
        timeout_s=spec.timeout_s,
        manual=spec.manual,
        base_model=spec.base.name,
        base_version=spec.base.version,
        base_hash=spec.base_hash,
        model_version=record.version,
        model_hash=record.model_hash,
        num_updates=record.num_updates,
        total_samples=record.samples,
        metrics=dict(record.metrics),
        refused=dict(record.refused),
        started_at=rfc3339(record.started_wall_s),
        ended_at=None if ended_s is None else rfc3339(ended_s),
        seconds=max(0.0, (wall_s if ended_s is None else ended_s) - record.started_wall_s),
        mode=record.spec.mode,
        lost=dict(record.lost),
        config_hash=record.config_hash,
        base_source=spec.base_source,
    )


def round_detail(record: RoundRecord, updates: Sequence[UpdateRecord], wall_s: float) -> RoundDetail:
    """One round with its updates."""
    view = round_view(record, wall_s)
    fields = {name: getattr(view, name) for name in RoundView.__struct_fields__}
    return RoundDetail(
        **fields,
        bytes=sum(one.bytes for one in updates),
        updates=[_update_view(one) for one in updates],
        refusals=[RefusalView(**asdict(one)) for one in record.refusals],
        trainer_hashes=sorted({one.trainer for one in updates if one.trainer}),
    )


def _update_view(record: UpdateRecord) -> UpdateView:
    accepted = record.accepted
    return UpdateView(
        participant=accepted.participant,
        samples=accepted.samples,
        bytes=record.bytes,
        metrics=dict(accepted.metrics),
        content_hash=accepted.content,
        received_at=rfc3339(record.received_wall_s),
        seconds=record.seconds,
        trainer_hash=record.trainer,
        origin=record.origin,
        staleness=record.staleness,
    )


def experiment_view(record: ExperimentRecord) -> ExperimentView:
    """One experiment."""
    experiment = record.experiment
    spec = experiment.spec
    return ExperimentView(
        experiment_id=spec.experiment_id,
        round_id=spec.round_id(experiment.number)
        + (EVALUATION if experiment.phase is Phase.EVALUATING else ""),
        state=experiment.state.value,
        reason=experiment.reason,
        round=experiment.number,
        rounds=spec.rounds,
        participants=list(spec.participants),
        k_of_n=spec.k,
        min_updates=spec.min_updates,
        timeout_s=spec.timeout_s,
        task_wasm_image=spec.image,
        hyperparams=None if spec.hyperparams is None else dict(spec.hyperparams),
        strategy=StrategyBody(name=spec.strategy, options=dict(spec.options)),
        seed=spec.seed,
        base_model=spec.model.uri,
        model_ref=experiment.model.uri,
        model_version=experiment.model.version,
        created_at=rfc3339(record.created_wall_s),
        ended_at=None if record.ended_wall_s is None else rfc3339(record.ended_wall_s),
        mode="infer" if spec.mode == "evaluate" else "train",
        phase="" if experiment.over else experiment.phase.value,
        selector=None if spec.selection is None else SelectorBody(**asdict(spec.selection)),
        evaluation=None if spec.evaluation is None else EvaluationBody(**asdict(spec.evaluation)),
        stop=StopBody(**asdict(spec.stopping)),
        round_failures_max=spec.failures_max,
        late=None if spec.staleness_max is None else LateBody(staleness_max=spec.staleness_max),
        update_format=spec.update_format,
        metrics=dict(experiment.metrics),
        best=experiment.best,
        best_version=experiment.best_version,
        base_source=spec.source,
    )


def experiment_detail(
    record: ExperimentRecord, rounds: Sequence[RoundRecord], wall_s: float
) -> ExperimentDetail:
    """One experiment with rounds of its id."""
    view = experiment_view(record)
    fields = {name: getattr(view, name) for name in ExperimentView.__struct_fields__}
    return ExperimentDetail(**fields, history=[round_view(one, wall_s) for one in rounds])


def metric_rows(
    experiment_id: str, rounds: Sequence[RoundRecord], updates: Sequence[UpdateRecord], wall_s: float
) -> MetricRows:
    """The rounds (newest first) of an experiment in numbers, oldest first."""
    sizes: Counter[str] = Counter()
    for update in updates:
        sizes[update.round_id] += update.bytes
    return MetricRows(
        experiment_id=experiment_id,
        rows=[_metric_row(round_view(one, wall_s), sizes[one.spec.round_id]) for one in reversed(rounds)],
    )


def _metric_row(round_: RoundView, size: int) -> MetricRow:
    return MetricRow(
        round_id=round_.round_id,
        number=round_.number,
        mode=round_.mode,
        state=round_.state,
        model_version=round_.model_version,
        metrics=round_.metrics,
        num_updates=round_.num_updates,
        samples=round_.total_samples,
        bytes=size,
        seconds=round_.seconds,
    )


def participant_rows(
    experiment_id: str, rounds: Sequence[RoundRecord], updates: Sequence[UpdateRecord]
) -> ParticipantRows:
    """Everyone who was asked in one of the rounds."""
    asked = Counter(name for one in rounds for name in one.participants)
    sent: dict[str, list[UpdateRecord]] = {}
    for update in updates:
        sent.setdefault(update.accepted.participant, []).append(update)
    lost = Counter(name for one in rounds for name in one.lost)
    refused = Counter(refusal.participant for one in rounds for refusal in one.refusals)
    return ParticipantRows(
        experiment_id=experiment_id,
        participants=[
            _participant_row(name, asked[name], sent.get(name, []), lost[name], refused[name])
            for name in sorted(asked)
        ],
    )


def _participant_row(
    name: str, asked: int, sent: Sequence[UpdateRecord], lost: int, refused: int
) -> ParticipantRow:
    return ParticipantRow(
        participant=name,
        asked=asked,
        sent=len(sent),
        lost=lost,
        refused=refused,
        samples=sum(one.accepted.samples for one in sent),
        bytes=sum(one.bytes for one in sent),
        seconds_mean=sum(one.seconds for one in sent) / len(sent) if sent else 0.0,
        metrics=dict(sent[-1].accepted.metrics) if sent else {},
    )


def task_view(record: RoundRecord, experiment: ExperimentRecord | None, participant: str) -> RoundTaskAnswer:
    """What a participant does in a round."""
    hyperparams = None if experiment is None else experiment.experiment.spec.hyperparams
    return RoundTaskAnswer(
        task=RoundTask(
            round_id=record.spec.round_id,
            model_ref=record.spec.base.uri,
            config=TaskConfig(proplet_id=participant),
            hyperparams=None if hyperparams is None else dict(hyperparams),
        )
    )


def next_view(record: RoundRecord | None) -> NextRound:
    """The newest model that a round made, if any did."""
    if record is None or record.version is None:
        return NextRound(next_round_available=False, message="No completed rounds found")
    return NextRound(
        next_round_available=True,
        last_completed_round=record.spec.round_id,
        new_model_version=record.version,
        model_uri=ModelRef(name=record.spec.base.name, version=record.version).uri,
        status="ready",
    )
