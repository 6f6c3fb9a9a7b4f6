"""One aggregation, from a request's bytes to an answer's bytes: pure, so that it can run in any process.

Reads the documented JSON body, checks that the updates fit together, and lets a strategy fold them. It must
not know HTTP, rounds or participants' rights: whoever sends updates here has admitted them.
"""

from typing import Annotated, Any, Literal

import msgspec

from propeller import limits
from propeller.errors import BadInput
from propeller.fl.aggregation import aggregate
from propeller.fl.strategies.base import Aggregated, Contribution, Strategy, check_samples
from propeller.fl.strategies.registry import strategy
from propeller.fl.tensors import EMPTY, Tensors, check_finite, check_like, content_hash, from_json, to_json
from propeller.wire import codec


class _Update(msgspec.Struct, kw_only=True):
    update: dict[str, Any]
    num_samples: int | float
    proplet_id: str = ""
    staleness: Annotated[int, msgspec.Meta(ge=0)] = 0


class _Request(msgspec.Struct, kw_only=True):
    updates: list[_Update]
    strategy: str = ""
    options: dict[str, Any] = {}
    base: dict[str, Any] | None = None
    state: dict[str, Any] | None = None
    reply: Literal["model", "full"] = "model"


def fold(body: bytes) -> bytes:
    """The answer to the aggregation that `body` asks for: the bare model object, as JSON.

    With `"reply": "full"` it is `{"model", "state", "num_samples", "num_updates", "strategy", "sha256"}`.
    The same set of updates gives the same bytes in any order. An update of 0 samples is checked and weighs
    nothing. Raises `BadInput` naming the update and the tensor at fault, `TooLarge` over a limit.
    """
    request = codec.decode(_Request, body, what="the body", limit_bytes=limits.HTTP_BODY_BYTES_MAX)
    if not request.updates:
        raise BadInput("updates is an empty list; send at least one update", code="no_updates")
    chosen = strategy(request.strategy)
    base = None if request.base is None else _finite(request.base, "base")
    done = aggregate(
        chosen,
        _contributions(request.updates, None if base is None else chosen.expects(base)),
        base=base,
        state=EMPTY if request.state is None else _finite(request.state, "state"),
        options=request.options,
    )
    check_finite(done.model, "the aggregated model")
    if request.reply == "model":
        return codec.encode(to_json(done.model))
    return codec.encode(_full(done, chosen, len(request.updates)))


def _contributions(updates: list[_Update], like: Tensors | None) -> list[Contribution]:
    contributions = []
    for index, update in enumerate(updates):
        what = f"updates[{index}]"
        tensors = _finite(update.update, f"{what}.update")
        like = tensors if like is None else like
        if not tensors:
            raise BadInput(f"{what}.update has no tensors", code="bad_tensor")
        check_like(tensors, like, f"{what}.update")
        samples = _samples(update.num_samples, what)
        if samples:
            contributions.append(
                Contribution(
                    participant=update.proplet_id,
                    samples=samples,
                    staleness=update.staleness,
                    tensors=tensors,
                )
            )
    if not contributions:
        raise BadInput("num_samples is 0 in every update; at least one must be positive", code="bad_samples")
    return contributions


def _samples(samples: float, what: str) -> int:
    return 0 if samples == 0 else check_samples(samples, what)


def _finite(model: dict[str, Any], what: str) -> Tensors:
    tensors, _ = from_json(model, what)
    check_finite(tensors, what)
    return tensors


def _full(done: Aggregated, chosen: Strategy, updates: int) -> dict[str, object]:
    return {
        "model": to_json(done.model),
        "state": to_json(done.state),
        "num_samples": done.samples,
        "num_updates": updates,
        "strategy": {"name": chosen.name, "version": chosen.version},
        "sha256": content_hash(done.model),
    }
