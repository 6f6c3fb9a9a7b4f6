"""What the coordinator tells the world about a round, as bytes. Knows no connection and no clock."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from propeller.fl.experiment import Experiment
from propeller.fl.model_ref import ModelRef
from propeller.fl.plan import ExperimentSpec
from propeller.fl.round import Round, RoundState
from propeller.fl.round_spec import RoundSpec
from propeller.fl.selection import Selection
from propeller.stores.coordinator import Notice
from propeller.wire import codec
from propeller.wire.experiments import LateBody, SelectorBody
from propeller.wire.rounds import RoundComplete, RoundNext, RoundStart


def rfc3339(wall_s: float) -> str:
    """Unix seconds as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def start_notice(experiment: ExperimentSpec, round_: RoundSpec, wall_s: float) -> Notice:
    """Asks the manager to launch a later round of an experiment."""
    message = RoundStart(
        round_id=round_.round_id,
        model_uri=round_.base.uri,
        task_wasm_image=experiment.image,
        participants=list(experiment.participants if round_.drawn else round_.participants),
        hyperparams=None if experiment.hyperparams is None else dict(experiment.hyperparams),
        # Others than those who are asked now may bring updates that count.
        k_of_n=round_.k if round_.drawn else min(round_.k, len(round_.participants)),
        timeout_s=round_.timeout_s,
        experiment_id=experiment.experiment_id,
        seed=experiment.seed,
        selector=_selector(experiment.selection),
        mode="infer" if round_.mode == "evaluate" else "train",
        data_part="test" if round_.mode == "evaluate" else experiment.data_part,
        update_format=experiment.update_format,
        files=experiment.files,
        late=_late(experiment),
    )
    return Notice(
        round_id=round_.round_id, kind="start", payload=codec.encode(message), created_wall_s=wall_s
    )


def _late(experiment: ExperimentSpec) -> LateBody | None:
    most = experiment.staleness_max
    return None if most is None else LateBody(policy="fold", staleness_max=most)


def _selector(selection: Selection | None) -> SelectorBody | None:
    return None if selection is None else SelectorBody(**asdict(selection))


def complete_notice(round_: Round, experiments: Sequence[Experiment], wall_s: float) -> Notice:
    """Says that a round has ended, well or not; where late updates count, its tasks may go on for now.

    `experiments`: its experiment before and after that, if it is known.
    """
    completed = round_.state is RoundState.COMPLETED
    goes_on = round_.spec.late and bool(experiments) and not experiments[-1].over
    message = RoundComplete(
        round_id=round_.spec.round_id,
        state="completed" if completed else "failed",
        reason=round_.reason,
        model_version=round_.version,
        model_topic=_made(round_).uri if round_.version is not None else "",
        num_updates=len(round_.accepted),
        contributors=sorted(round_.participants if goes_on else round_.accepted),
        stragglers=_stragglers(round_, experiments),
        total_samples=round_.samples,
        completed_at=rfc3339(wall_s),
    )
    return Notice(
        round_id=round_.spec.round_id, kind="complete", payload=codec.encode(message), created_wall_s=wall_s
    )


def _stragglers(round_: Round, experiments: Sequence[Experiment]) -> dict[str, str]:
    """Whose tasks of earlier rounds are of no more use: too stale, or the experiment is over."""
    if not round_.spec.carried or not experiments:
        return {}
    after = experiments[-1]
    still = after.buffer.away() if after.buffer is not None and not after.over else {}
    return {
        name: origin.round_id
        for name, origin in sorted(round_.spec.carried.items())
        if name not in round_.accepted and name not in round_.lost and still.get(name) != origin
    }


def next_notice(round_: Round, wall_s: float) -> Notice:
    """Says that a completed round made a new model."""
    made = _made(round_)
    message = RoundNext(
        round_id=round_.spec.round_id,
        new_model_version=made.version,
        model_uri=made.uri,
        timestamp=rfc3339(wall_s),
    )
    return Notice(
        round_id=round_.spec.round_id, kind="next", payload=codec.encode(message), created_wall_s=wall_s
    )


def _made(round_: Round) -> ModelRef:
    return ModelRef(name=round_.spec.base.name, version=round_.version or 0)
