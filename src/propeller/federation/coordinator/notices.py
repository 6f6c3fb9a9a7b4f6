"""What the coordinator tells the world about a round, as bytes. Knows no connection and no clock."""

from dataclasses import asdict
from datetime import UTC, datetime

from propeller.fl.model_ref import ModelRef
from propeller.fl.plan import ExperimentSpec
from propeller.fl.round import Round, RoundSpec, RoundState
from propeller.fl.selection import Selection
from propeller.fl.store import Notice
from propeller.wire import codec
from propeller.wire.experiments import SelectorBody
from propeller.wire.messages import RoundComplete, RoundNext, RoundStart


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
        k_of_n=round_.k,
        timeout_s=round_.timeout_s,
        experiment_id=experiment.experiment_id,
        seed=experiment.seed,
        selector=_selector(experiment.selection),
        mode="infer" if round_.mode == "evaluate" else "train",
        data_part="test" if round_.mode == "evaluate" else experiment.data_part,
        update_format=experiment.update_format,
    )
    return Notice(
        round_id=round_.round_id, kind="start", payload=codec.encode(message), created_wall_s=wall_s
    )


def _selector(selection: Selection | None) -> SelectorBody | None:
    return None if selection is None else SelectorBody(**asdict(selection))


def complete_notice(round_: Round, wall_s: float) -> Notice:
    """Says that a round has ended, well or not."""
    completed = round_.state is RoundState.COMPLETED
    message = RoundComplete(
        round_id=round_.spec.round_id,
        state="completed" if completed else "failed",
        reason=round_.reason,
        model_version=round_.version,
        model_topic=_made(round_).uri if round_.version is not None else "",
        num_updates=len(round_.accepted),
        contributors=sorted(round_.accepted),
        total_samples=round_.samples,
        completed_at=rfc3339(wall_s),
    )
    return Notice(
        round_id=round_.spec.round_id, kind="complete", payload=codec.encode(message), created_wall_s=wall_s
    )


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
