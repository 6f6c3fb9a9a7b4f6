"""Bodies that go to the aggregator and the model registry, and what comes back, as tensors. Pure, no I/O.

Functions of bytes and tensors, so that they can run wherever `offload` runs them. They know no rounds' life.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import numpy as np
from msgspec import structs

from propeller.errors import CallerError, PeerRefused
from propeller.federation.coordinator.pouring import decoded
from propeller.fl.model_ref import ModelRef
from propeller.fl.strategies.registry import strategy
from propeller.fl.tensors import (
    Tensors,
    cast_like,
    check_finite,
    check_like,
    content_hash,
    from_json,
    from_safetensors,
    to_json,
    to_safetensors,
)
from propeller.wire import codec
from propeller.wire.models import (
    MODEL_FILES,
    AggregateBody,
    Folded,
    ObjectiveBody,
    StoreFiles,
    StoreModel,
    StrategyUsed,
    UpdateSource,
    UpdateToFold,
)

REFUSED: Final = "registry_refused"
"""The code of what the registry gave and is no model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One aggregation: what to fold, how, and where the result belongs. `contents` are safetensors files."""

    round_id: str
    base: ModelRef
    participants: Sequence[str]
    samples: Sequence[int]
    staleness: Sequence[int] = ()
    """Of each, where any came late."""
    contents: Sequence[bytes] = ()
    """Of a model that is not large."""
    files: Sequence[UpdateSource] = ()
    """Of a large one."""
    strategy: str
    strategy_version: int
    options: Mapping[str, Any]
    metrics: Mapping[str, float]
    objective: ObjectiveBody | None = None
    """What the experiment stops by, if it names a metric."""


def used(work: Work) -> StrategyUsed:
    """How the model is made, as its version will say."""
    return StrategyUsed(name=work.strategy, version=work.strategy_version, options=dict(work.options))


def base_of(body: bytes, what: str) -> tuple[Tensors, str]:
    """The tensors of a bare model object and their hash. Raises `PeerRefused` if it is none."""
    try:
        tensors, _ = from_json(decoded(dict[str, Any], body, what), what)
        check_finite(tensors, what)
    except CallerError as error:
        raise PeerRefused(f"the registry's {what} is no model: {error}", code=REFUSED) from error
    return tensors, content_hash(tensors)


def base_of_file(content: bytes, what: str) -> tuple[Tensors, str]:
    """The same of a safetensors file, which keeps dtypes. Raises `BadInput`, `TooLarge`."""
    tensors = from_safetensors(content, what)
    check_finite(tensors, what)
    return tensors, content_hash(tensors)


def aggregate_body(work: Work, base: Tensors, state: Tensors, sizes: Sequence[int], joined: bytes) -> bytes:
    """The body of `POST /aggregate`; `joined` are contents of `sizes` bytes, one per participant."""
    ends = list(accumulate(sizes))
    contents = [joined[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    updates = [
        UpdateToFold(
            round_id=work.round_id,
            proplet_id=participant,
            num_samples=samples,
            staleness=staleness,
            update=to_json(from_safetensors(content, f"the stored update of {participant!r}")),
        )
        for participant, samples, staleness, content in zip(
            work.participants,
            work.samples,
            work.staleness or [0] * len(contents),
            contents,
            strict=True,
        )
    ]
    return codec.encode(
        AggregateBody(
            updates=updates,
            strategy=work.strategy,
            options=dict(work.options),
            base=to_json(base),
            state=to_json(state),
        )
    )


def model_body(answer: bytes, base: Tensors, work: Work, made_by: StrategyUsed) -> tuple[bytes, str, str]:
    """The aggregator's answer checked against `base`: body and type of `POST /models`, and the content hash.

    JSON knows float64 only, so a model that has other types goes as files.
    """
    what = "the aggregator's answer"
    folded = decoded(Folded, answer, what)
    like = strategy(work.strategy).expects(base)
    model = cast_like(from_json(folded.model, what)[0], like, what)
    check_like(model, like, what)
    check_finite(model, what)
    state, _ = from_json(folded.state, f"the state in {what}")
    head = StoreFiles(
        name=work.base.name,
        parent=work.base.version,
        round_id=work.round_id,
        strategy=made_by,
        participants=list(work.participants),
        metrics=dict(work.metrics),
        objective=work.objective,
    )
    digest = content_hash(model)
    if any(array.dtype != np.float64 for array in model.values()):
        files = to_safetensors(model), to_safetensors(state) if state else b""
        line = structs.replace(head, model_bytes=len(files[0]), state_bytes=len(files[1]))
        return b"".join((codec.encode(line), b"\n", *files)), MODEL_FILES, digest
    body = StoreModel(
        model=to_json(model),
        state=to_json(state),
        name=head.name,
        parent=head.parent,
        round_id=head.round_id,
        strategy=head.strategy,
        participants=head.participants,
        metrics=head.metrics,
        objective=head.objective,
    )
    return codec.encode(body), "application/json", digest
