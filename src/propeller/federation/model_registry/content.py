"""Model versions between JSON and storage: reading a posted one, printing a stored one. Pure, no I/O.

All functions take and give bytes or frozen records, so that a large model can be handled in another process.
They must not know which versions exist: `fl.versions` decides that.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from propeller import limits
from propeller.core.ids import check_id
from propeller.errors import BadInput, StorageBroken, TooLarge
from propeller.fl.tensor_files import view
from propeller.fl.tensors import (
    Tensors,
    check_finite,
    content_hash,
    from_json,
    from_safetensors,
    to_json,
    to_safetensors,
)
from propeller.fl.versions import GLOBAL_MODEL, Measured, ModelVersion, Objective, Proposal
from propeller.wire import codec
from propeller.wire.models import EvaluatedModel, ObjectiveBody, StoreFiles


class _Posted(msgspec.Struct, kw_only=True):
    model: dict[str, Any]
    version: int | None = None
    name: str = GLOBAL_MODEL
    parent: int | None = None
    round_id: str | None = None
    strategy: dict[str, Any] | None = None
    participants: list[str] = []
    metrics: dict[str, float] = {}
    objective: ObjectiveBody | None = None
    state: dict[str, Any] = {}


def propose(body: bytes) -> tuple[Proposal, bytes, bytes]:
    """The version that a posted `body` asks to store, its content and its strategy's state as safetensors.

    No state is no bytes.

    Raises `BadInput` naming the field or the tensor at fault, `TooLarge` over a limit.
    """
    posted = codec.decode(_Posted, body, what="the body", limit_bytes=limits.HTTP_BODY_BYTES_MAX, strict=True)
    tensors, _ = from_json(posted.model, "model")
    if not tensors:
        raise BadInput('model has no tensors; send at least one, such as {"w":[0,0,0]}', code="bad_tensor")
    check_finite(tensors, "model")
    state, _ = from_json(posted.state, "state")
    check_finite(state, "state")
    proposal = Proposal(
        name=posted.name or GLOBAL_MODEL,
        sha256=content_hash(tensors),
        version=posted.version,
        parent=posted.parent,
        round_id=posted.round_id or None,
        strategy_json=_strategy(posted.strategy),
        participants=_participants(posted.participants),
        metrics=_metrics(posted.metrics),
        objective=_objective(posted.objective),
    )
    return proposal, to_safetensors(tensors), to_safetensors(state) if state else b""


def propose_files(head: StoreFiles, model: memoryview, state: memoryview) -> Proposal:
    """The version that a `head` asks to store, its `model` and `state` being safetensors files as they lie.

    Reads both once. Raises what `propose` raises.
    """
    tensors = view(model, "model")
    if not tensors:
        raise BadInput("model has no tensors; send at least one", code="bad_tensor")
    check_finite(tensors, "model")
    if state:
        check_finite(view(state, "state"), "state")
    return Proposal(
        name=head.name or GLOBAL_MODEL,
        sha256=content_hash(tensors),
        version=head.version,
        parent=head.parent,
        round_id=head.round_id or None,
        strategy_json=_strategy(None if head.strategy is None else msgspec.to_builtins(head.strategy)),
        participants=_participants(head.participants),
        metrics=_metrics(head.metrics),
        objective=_objective(head.objective),
    )


def measured_of(told: EvaluatedModel, at_s: float) -> Measured:
    """An evaluation as it is written down at `at_s`, Unix seconds. Raises `BadInput`, `TooLarge`."""
    if told.samples < 1 or not told.metrics:
        raise BadInput("an evaluation has metrics, of at least one sample", code="bad_evaluation")
    return Measured(round_id=told.round_id, metrics=_metrics(told.metrics), samples=told.samples, at_s=at_s)


def initial(tensors: Tensors) -> tuple[Proposal, bytes]:
    """Version 0 of the global model, as a fresh registry stores it."""
    proposal = Proposal(name=GLOBAL_MODEL, version=0, sha256=content_hash(tensors))
    return proposal, to_safetensors(tensors)


def render(content: bytes) -> bytes:
    """The bare model object of stored safetensors `content`, as JSON; its float64 round-trip exactly.

    No bytes are no tensors.
    """
    if not content:
        return b"{}"
    try:
        return codec.encode(to_json(from_safetensors(content, "a stored model")))
    except BadInput as error:
        raise StorageBroken(
            f"a stored model cannot be read: {error}; restore the registry's files"
        ) from error


def info(version: ModelVersion) -> dict[str, object]:
    """What is known of a version beside its content, as JSON values."""
    strategy = None if version.strategy_json is None else msgspec.Raw(version.strategy_json.encode())
    deleted, objective, measured = version.deleted_at_s, version.objective, version.evaluation
    found = {
        "name": version.name,
        "version": version.version,
        "sha256": version.sha256,
        "parent": version.parent,
        "round_id": version.round_id,
        "strategy": strategy,
        "participants": version.participants,
        "metrics": version.metrics,
        "created_at": _iso(version.created_at_s),
        "bytes": version.content_bytes,
    }
    if objective is not None:
        found["objective"] = {"metric": objective.metric, "direction": objective.direction}
    if measured is not None:
        found["evaluation"] = {
            "round_id": measured.round_id,
            "metrics": measured.metrics,
            "samples": measured.samples,
            "at": _iso(measured.at_s),
        }
    return found if deleted is None else {**found, "deleted_at": _iso(deleted)}


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat()


def _objective(told: ObjectiveBody | None) -> Objective | None:
    return None if told is None else Objective(metric=told.metric, direction=told.direction)


def _strategy(strategy: dict[str, Any] | None) -> str | None:
    if strategy is None:
        return None
    text = codec.encode(strategy).decode()
    if len(text) > limits.MODEL_RECORD_BYTES_MAX:
        raise TooLarge(f"strategy is {len(text)} characters; at most {limits.MODEL_RECORD_BYTES_MAX}")
    return text


def _participants(participants: list[str]) -> tuple[str, ...]:
    if len(participants) > limits.PARTICIPANTS_MAX:
        raise TooLarge(f"there are {len(participants)} participants; at most {limits.PARTICIPANTS_MAX}")
    return tuple(
        check_id(participant, f"participants[{index}]") for index, participant in enumerate(participants)
    )


def _metrics(metrics: dict[str, float]) -> dict[str, float]:
    if len(metrics) > limits.UPDATE_METRICS_MAX:
        raise TooLarge(f"there are {len(metrics)} metrics; at most {limits.UPDATE_METRICS_MAX}")
    return metrics
