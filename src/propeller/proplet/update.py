"""From a guest's output to an update that can be sent. Knows weights only as text, and sends nothing."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from propeller import limits
from propeller.ports import GuestDone
from propeller.proplet.failure import AttemptFailed
from propeller.proplet.job import env_of
from propeller.proplet.model import plain
from propeller.proplet.packing import PackOrder
from propeller.wire.messages import Start

TOLD, TENSORS = "update.json", "update.safetensors"
"""What a guest with files writes: what is said of the update, and its tensors."""


def make_update(
    ended: GuestDone, start: Start, proplet_id: str, trainer_hash: str = "", files: Path | None = None
) -> bytes:
    """The update's JSON from what a guest wrote, put or printed, completed where it left out who and where.

    `trainer_hash` is the module's SHA-256, which the guest has no say in. Raises `AttemptFailed`
    (`invalid_update`) unless it is one JSON object of this round and this proplet, with an object `update`
    or, if the guest has `files`, the tensors in one of them; where the round evaluates, with `metrics` and
    without any.
    """
    env = env_of(start)
    fields = _read(ended, files)
    if files is not None and plain(files / TENSORS):
        fields["update"] = msgspec.Raw(b"{}")
    _check_kind(fields, evaluates=env.get("FL_MODE") == "evaluate")
    if trainer_hash:
        fields["trainer_hash"] = msgspec.Raw(msgspec.json.encode(trainer_hash))
    own = {"round_id": env["ROUND_ID"], "proplet_id": proplet_id, "base_model_uri": env.get("MODEL_URI", "")}
    for name, value in own.items():
        given = text_of(fields.get(name))
        if not given:
            fields[name] = msgspec.Raw(msgspec.json.encode(value))
        elif given != value and name != "base_model_uri":
            raise AttemptFailed("invalid_update", f"the update says {name} {given!r}; this is {value!r}")
    update = msgspec.json.encode(fields)
    if len(update) > limits.UPDATE_BYTES_MAX:
        raise AttemptFailed(
            "invalid_update", f"the update has {len(update)} bytes; the limit is {limits.UPDATE_BYTES_MAX}"
        )
    return update


def _read(ended: GuestDone, files: Path | None) -> dict[str, msgspec.Raw]:
    source, text = _source(ended, files)
    try:
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AttemptFailed(
            "invalid_update", f"the guest's {source} is not one JSON object: {error}; it must be the update"
        ) from error
    return fields


def _check_kind(fields: Mapping[str, msgspec.Raw], *, evaluates: bool) -> None:
    update, metrics = (bytes(fields.get(name, b"")).lstrip() for name in ("update", "metrics"))
    if not evaluates and not update.startswith(b"{"):
        raise AttemptFailed("invalid_update", "the guest's result has no object `update`")
    if evaluates and (update not in {b"", b"null"} or not metrics.startswith(b"{")):
        raise AttemptFailed(
            "invalid_update",
            "the round evaluates (FL_MODE): the guest's result must have an object `metrics` and no `update`",
        )


def _source(ended: GuestDone, files: Path | None) -> tuple[str, bytes]:
    """The first that is there: the file, what was put, standard output."""
    told = files / TOLD if files is not None else None
    if told is not None and plain(told):
        if told.stat().st_size > limits.UPDATE_BYTES_MAX:
            raise AttemptFailed("invalid_update", f"{TOLD} is over {limits.UPDATE_BYTES_MAX} bytes")
        return TOLD, told.read_bytes()
    if ended.result is not None:
        return "put_result", ended.result
    return "stdout", ended.stdout.encode()


def pack_order(update: bytes, form: str, base: Path, files: Path, out: Path) -> tuple[bytes, PackOrder]:
    """What is said of the update beside its tensors, and how those become the file that travels."""
    fields = msgspec.json.decode(update, type=dict[str, msgspec.Raw])
    tensors, inside = files / TENSORS, fields.pop("update")
    if not plain(tensors):
        tensors = files / "update-tensors.json"
        tensors.write_bytes(inside)
    order = PackOrder(
        base=str(base),
        update=str(tensors),
        out=str(out),
        form=form,
        round_id=text_of(fields["round_id"]),
        participant=text_of(fields["proplet_id"]),
    )
    return msgspec.json.encode(fields), order


def text_of(raw: msgspec.Raw | None) -> str:
    """The string in a field; empty if there is none or it is null."""
    try:
        value = msgspec.json.decode(raw, type=str | None) if raw is not None else None
    except msgspec.ValidationError:
        return bytes(raw or b"").decode()
    return value or ""
