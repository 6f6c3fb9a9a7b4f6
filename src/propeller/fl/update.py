"""From what a peer sent to an `Update`, the only form in which its numbers are trusted. Knows no transport.

`read` turns decoded fields into a `Draft`: well-formed, but of unknown standing. `admit` holds it against the
round it names and the model it started from. Both raise typed errors with stable codes and nothing else.
"""

import hashlib
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from propeller import limits
from propeller.core.ids import check_id
from propeller.errors import BadInput, Denied
from propeller.fl.model_ref import ModelRef, parse_model_ref
from propeller.fl.strategies.base import check_samples
from propeller.fl.tensors import (
    EMPTY,
    Tensors,
    cast_like,
    check_finite,
    check_like,
    check_norm,
    content_hash,
    from_json,
    frozen,
)

Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A well-formed update that nobody has vouched for. `content` is what makes a repetition recognisable."""

    round_id: str
    participant: str
    base_uri: str
    base_hash: str
    samples: int
    metrics: Metrics
    tensors: Tensors
    content: str


class Sent(Protocol):
    """Whatever says from whom, and for which round, an update is."""

    @property
    def round_id(self) -> str:
        """The round."""
        ...

    @property
    def participant(self) -> str:
        """Who sent it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a round demands of its updates."""

    round_id: str
    participants: frozenset[str]
    base: ModelRef
    base_hash: str
    """Content hash of the base model, empty while it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One participant's admitted update: finite, shaped and typed like the base. Made by `admit` only.

    `content` is the SHA-256 of what was sent, tensors and samples, whatever the path and encoding.
    """

    round_id: str
    participant: str
    samples: int
    metrics: Metrics
    tensors: Tensors
    content: str


def read(
    *,
    round_id: str,
    participant: str,
    samples: object,
    update: object,
    metrics: object = None,
    base_uri: str = "",
    base_hash: str = "",
) -> Draft:
    """The draft in the decoded fields of a JSON or CBOR body. Raises `BadInput` or `TooLarge`.

    Without `update` it is an evaluation, which has metrics and no tensors.
    Codes: `bad_id`, `bad_samples`, `bad_tensor`, `bad_metrics`, `too_large`, `empty_update`.
    """
    check_id(round_id, "round_id")
    check_id(participant, "proplet_id")
    what = f"the update of {participant!r} for round {round_id!r}"
    counted = check_samples(samples, what)
    tensors, _version = (EMPTY, None) if update is None and metrics else from_json(update, what)
    if not tensors and update is not None:
        raise BadInput(f"{what} has no tensors; send the trained model in `update`", code="empty_update")
    return drafted(
        tensors,
        round_id=round_id,
        participant=participant,
        samples=counted,
        metrics=metrics,
        base_uri=base_uri,
        base_hash=base_hash,
    )


def drafted(
    tensors: Tensors,
    *,
    round_id: str,
    participant: str,
    samples: object,
    metrics: object,
    base_uri: str,
    base_hash: str,
) -> Draft:
    """The draft of tensors that came in a form of their own, such as a file; reads all, for their hash.

    Raises what `read` raises.
    """
    what = f"the update of {participant!r} for round {round_id!r}"
    counted, told = check_samples(samples, what), read_metrics(metrics, what)
    return Draft(
        round_id=round_id,
        participant=participant,
        base_uri=base_uri,
        base_hash=base_hash,
        samples=counted,
        metrics=told,
        tensors=tensors,
        content=content_of(tensors, counted) if tensors else content_of_metrics(told, counted),
    )


def read_metrics(metrics: object, what: str) -> dict[str, float]:
    """The finite numbers among `metrics`; what else a trainer reports there is left out.

    Raises `BadInput` `bad_metrics` for anything but an object or null, and for over
    `limits.UPDATE_METRICS_MAX` numbers or a name longer than a tensor's.
    """
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise BadInput(f"metrics of {what} must be an object of numbers", code="bad_metrics")
    kept = {name: number for name, value in metrics.items() if (number := _finite(value)) is not None}
    if len(kept) > limits.UPDATE_METRICS_MAX:
        raise BadInput(
            f"{what} has {len(kept)} metrics; the limit is {limits.UPDATE_METRICS_MAX}", code="bad_metrics"
        )
    if any(not isinstance(name, str) or len(name) > limits.TENSOR_NAME_CHARS_MAX for name in kept):
        raise BadInput(
            f"a metric of {what} has no name of at most {limits.TENSOR_NAME_CHARS_MAX} characters",
            code="bad_metrics",
        )
    return kept


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def content_of(tensors: Tensors, samples: int) -> str:
    """SHA-256 hex over `propeller-update-1 NUL`, samples (u64 little-endian) and the tensors' hash."""
    digest = hashlib.sha256(b"propeller-update-1\0" + struct.pack("<Q", samples))
    digest.update(bytes.fromhex(content_hash(tensors)))
    return digest.hexdigest()


def content_of_metrics(metrics: Metrics, samples: int) -> str:
    """SHA-256 hex over `propeller-evaluation-1 NUL`, samples (u64), and each name, NUL, value (f64)."""
    digest = hashlib.sha256(b"propeller-evaluation-1\0" + struct.pack("<Q", samples))
    for name in sorted(metrics):
        digest.update(name.encode() + b"\0" + struct.pack("<d", metrics[name]))
    return digest.hexdigest()


def admit(draft: Draft, terms: Terms, base: Tensors) -> Update:
    """The trusted `Update`, in the dtypes of `base`, or the reason why not.

    Raises `Denied` `not_a_participant`; `BadInput` `wrong_base`, `wrong_shape`, `not_finite`, `too_large`.
    Whether the round still takes updates is the round's to say.
    """
    check_participant(draft, terms)
    check_base(draft, terms)
    what = f"the update of {draft.participant!r} for round {draft.round_id!r}"
    check_finite(draft.tensors, what, abs_max=limits.UPDATE_ABS_MAX)
    tensors = cast_like(draft.tensors, base, what)
    check_like(tensors, base, what)
    check_finite(tensors, what)
    check_norm(tensors, what)
    return Update(
        round_id=draft.round_id,
        participant=draft.participant,
        samples=draft.samples,
        metrics=draft.metrics,
        tensors=tensors,
        content=draft.content,
    )


def rebased(update: Update, origin: Tensors, base: Tensors) -> Update:
    """A late update as one of today: `base` moved as far as `update` moved from its `origin`.

    Raises `BadInput` `not_finite`, `too_large` if that is no lawful model any more.
    """
    what = f"the late update of {update.participant!r} for round {update.round_id!r}"
    with np.errstate(over="ignore", invalid="ignore"):
        # Arithmetic on an array without dimensions gives a scalar, which `asarray` undoes.
        moved = {
            name: np.asarray(
                array.astype(np.float64) + (update.tensors[name].astype(np.float64) - origin[name])
                if array.dtype.kind == "f"
                else array + (update.tensors[name] - origin[name])
            )
            for name, array in base.items()
        }
    tensors = cast_like(frozen(moved, what), base, what)
    check_finite(tensors, what)
    check_norm(tensors, what)
    return replace(update, tensors=tensors)


def check_trained(draft: Draft) -> None:
    """Raise `BadInput` `empty_update` if there are only metrics."""
    if not draft.tensors:
        raise BadInput(
            f"the update of {draft.participant!r} for round {draft.round_id!r} has no tensors; send the "
            "trained model in `update`",
            code="empty_update",
        )


def admit_evaluation(draft: Draft, terms: Terms) -> Update:
    """The trusted metrics of a round that evaluates, or the reason why not.

    Raises `BadInput` `not_an_evaluation` if a model came too or no metrics did, and what `admit` raises.
    """
    check_participant(draft, terms)
    check_base(draft, terms)
    if draft.tensors or not draft.metrics:
        raise BadInput(
            f"{draft.participant!r} was to evaluate for round {draft.round_id!r}: send `metrics` and no "
            "`update`",
            code="not_an_evaluation",
        )
    return Update(
        round_id=draft.round_id,
        participant=draft.participant,
        samples=draft.samples,
        metrics=draft.metrics,
        tensors=EMPTY,
        content=draft.content,
    )


def check_participant(draft: Sent, terms: Terms) -> None:
    """Raise `Denied` `not_a_participant` unless the round asked for this participant."""
    if draft.participant not in terms.participants:
        raise Denied(
            f"{draft.participant!r} is not a participant of round {draft.round_id!r}; it names those who "
            "may send updates",
            code="not_a_participant",
        )


def check_base(draft: Draft, terms: Terms) -> None:
    """Raise `BadInput` `wrong_base` if the update says that it started from another model than the round."""
    found = ""
    if draft.base_hash and terms.base_hash and draft.base_hash != terms.base_hash:
        found = f"the model with hash {draft.base_hash[:16]!r}"
    elif draft.base_uri and not _means(draft.base_uri, terms.base):
        found = repr(draft.base_uri[:100])
    if found:
        raise BadInput(
            f"the update of {draft.participant!r} started from {found}; round {draft.round_id!r} starts from "
            f"{terms.base.uri}",
            code="wrong_base",
        )


def _means(uri: str, base: ModelRef) -> bool:
    """Whether a trainer may call the base so: by its version, and by its name where it spells both as we do.

    The original's trainers say what they like before the version: a host, a topic.
    """
    try:
        said = parse_model_ref(uri, "base_model_uri")
    except BadInput:
        return False
    return said.version == base.version and (said.name == base.name or said.uri != uri)


def mean_metrics(updates: Iterable[tuple[int, Metrics]]) -> dict[str, float]:
    """The mean of each metric over the updates that have it, weighted by samples, whatever their order."""
    columns: dict[str, list[tuple[int, float]]] = {}
    for samples, metrics in updates:
        for name, value in metrics.items():
            columns.setdefault(name, []).append((samples, value))
    return {name: _mean(columns[name]) for name in sorted(columns)}


def _mean(column: list[tuple[int, float]]) -> float:
    total = sum(samples for samples, _ in column)
    # Dividing first keeps the largest doubles finite; fsum rounds once, so order cannot show.
    return math.fsum(value * (samples / total) for samples, value in column)
