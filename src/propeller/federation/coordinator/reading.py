"""An update's bytes, and what is said beside them, as data. Pure; knows no round's state and no transport."""

import binascii
from base64 import b64decode
from dataclasses import dataclass, replace
from typing import Literal

from propeller import limits
from propeller.core.ids import check_id
from propeller.errors import BadInput, CallerError, Denied
from propeller.fl import update as updates
from propeller.fl.strategies.registry import strategy
from propeller.fl.tensor_files import view
from propeller.fl.tensors import Tensors, check_like, to_safetensors
from propeller.fl.update import Draft, Terms, Update
from propeller.fl.update_format import JSON, Format, parse_format
from propeller.wire import cbor, codec
from propeller.wire.experiments import UpdateBody

Form = Literal["json", "cbor"]
_DIGEST_CHARS = 64
"""SHA-256 in hex."""
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """What the path says of an update's origin: ids from a topic, and whether they are proven there."""

    round_id: str = ""
    participant: str = ""
    proven: bool = False
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is said of an update that comes as a file, beside it. Ids are lawful; the rest is not checked."""

    round_id: str
    participant: str
    samples: object
    metrics: object
    base_uri: str = ""
    base_hash: str = ""
    sender: Sender
    form: Format
    trainer: str = ""
    """SHA-256 of the module that made it, as its proplet says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read: a draft, or why there is none, and for which round."""

    round_id: str
    participant: str = ""
    token: str = ""
    trainer: str = ""
    draft: Draft | None = None
    file: tuple[bytes, Said] | None = None
    """The update came as a file within JSON."""
    error: CallerError | None = None


def named(said: Said) -> str:
    """The update in messages for people."""
    return f"the update of {said.participant!r} for round {said.round_id!r}"


def read_update(raw: bytes, form: Form, sender: Sender) -> Reading:
    """What `raw` says. The ids of `sender` come from a topic; if empty, `raw` has them.

    Raises `DecodeError` or `TooLarge` for bytes that are no update; a wrong value is in the `Reading`.
    """
    what, most = "the update", limits.UPDATE_BYTES_MAX
    if form == "cbor":
        body = cbor.decode(UpdateBody, raw, what=what, limit_bytes=most)
    else:
        body = codec.decode(UpdateBody, raw, what=what, limit_bytes=most, strict=True)
    round_id = sender.round_id or body.round_id or ""
    participant = sender.participant or body.proplet_id or ""
    try:
        _check_origin(body, sender.round_id, sender.participant)
        if body.update_b64 is not None:
            return Reading(round_id=round_id, file=_enclosed(body, round_id, participant, sender))
        if parse_format(body.format or "").name != JSON:
            raise BadInput(
                f"an update of format {body.format!r} comes in `update_b64`", code="bad_update_format"
            )
        draft = updates.read(
            round_id=round_id,
            participant=participant,
            samples=body.num_samples,
            update=body.update,
            metrics=body.metrics,
            base_uri=body.base_model_uri or "",
            base_hash=body.base_hash or "",
        )
    except CallerError as error:
        return Reading(round_id=round_id, participant=participant[: limits.ID_CHARS_MAX], error=error)
    return Reading(
        round_id=round_id,
        participant=participant,
        token=body.update_token or "",
        trainer=trainer_of(body.trainer_hash),
        draft=draft,
    )


def trainer_of(said: str | None) -> str:
    """A trainer's hash as its proplet says it; what cannot be one is left out."""
    return said if said and len(said) == _DIGEST_CHARS and set(said) <= _HEX else ""


def _enclosed(body: UpdateBody, round_id: str, participant: str, sender: Sender) -> tuple[bytes, Said]:
    """The file in `update_b64`, and what is said beside it. Raises `BadInput`."""
    try:
        content = b64decode(body.update_b64 or "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"update_b64 is not base64: {error}", code="bad_tensor") from error
    form = parse_format(body.format or "")
    if form.name == JSON:
        raise BadInput("an update in `update_b64` must say its `format`", code="bad_update_format")
    return content, Said(
        round_id=check_id(round_id, "round_id"),
        participant=check_id(participant, "proplet_id"),
        samples=body.num_samples,
        metrics=body.metrics,
        base_uri=body.base_model_uri or "",
        base_hash=body.base_hash or "",
        sender=replace(sender, token=sender.token or body.update_token or ""),
        form=form,
        trainer=trainer_of(body.trainer_hash),
    )


def _check_origin(body: UpdateBody, round_id: str, participant: str) -> None:
    for said, proven, what in (
        (body.round_id, round_id, "round_id"),
        (body.proplet_id, participant, "proplet_id"),
    ):
        if not (said or proven):
            raise BadInput(f"the update has no {what}; name it", code=f"missing_{what}")
        if said and proven and said != proven:
            raise Denied(
                f"the update says {what} {said[:80]!r}, but came by the topic of {proven[:80]!r}",
                code="wrong_sender",
            )


def admit_update(draft: Draft, terms: Terms, base: Tensors, chosen: str) -> tuple[Update, bytes]:
    """The admitted update and its safetensors file; it has the tensors that the `chosen` strategy expects."""
    update = updates.admit(draft, terms, strategy(chosen).expects(base))
    return update, to_safetensors(update.tensors)


def draft_file(file: memoryview, said: Said) -> Draft:
    """The draft in `file`. Raises `BadInput`, `TooLarge`."""
    return updates.drafted(
        view(file, named(said)),
        round_id=said.round_id,
        participant=said.participant,
        samples=said.samples,
        metrics=said.metrics,
        base_uri=said.base_uri,
        base_hash=said.base_hash,
    )


def admit_file(file: memoryview, said: Said, terms: Terms, base: Tensors, chosen: str) -> Update:
    """The admitted update in `file`, which must have the dtypes of the model: it is not written again."""
    draft, expected = draft_file(file, said), strategy(chosen).expects(base)
    check_like(draft.tensors, expected, named(said))
    return updates.admit(draft, terms, expected)
