"""Records as the HTTP interface shows them. Knows the bodies of `wire.experiments` and no routes."""

from collections.abc import Sequence

from propeller.federation.coordinator.notices import rfc3339
from propeller.fl.model_ref import ModelRef
from propeller.fl.round import RoundState
from propeller.fl.store import ExperimentRecord, RoundRecord, UpdateRecord
from propeller.wire.experiments import (
    ExperimentDetail,
    ExperimentView,
    NextRound,
    RoundDetail,
    RoundStatus,
    RoundStatusBoth,
    RoundTask,
    RoundTaskAnswer,
    RoundView,
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
    )


def round_detail(record: RoundRecord, updates: Sequence[UpdateRecord], wall_s: float) -> RoundDetail:
    """One round with its updates."""
    view = round_view(record, wall_s)
    fields = {name: getattr(view, name) for name in RoundView.__struct_fields__}
    return RoundDetail(
        **fields, bytes=sum(one.bytes for one in updates), updates=[_update_view(one) for one in updates]
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
    )


def experiment_view(record: ExperimentRecord) -> ExperimentView:
    """One experiment."""
    experiment = record.experiment
    spec = experiment.spec
    return ExperimentView(
        experiment_id=spec.experiment_id,
        round_id=spec.round_id(experiment.number),
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
    )


def experiment_detail(
    record: ExperimentRecord, rounds: Sequence[RoundRecord], wall_s: float
) -> ExperimentDetail:
    """One experiment with rounds of its id."""
    view = experiment_view(record)
    fields = {name: getattr(view, name) for name in ExperimentView.__struct_fields__}
    return ExperimentDetail(**fields, history=[round_view(one, wall_s) for one in rounds])


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
