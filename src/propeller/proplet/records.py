"""What a proplet remembers: one `Held` record per attempt, in the spool and in the agent's memory alike.

Knows the wire's names for things and nothing of files, of time, or of how a guest is run.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
from msgspec import Struct

from propeller.wire.messages import AttemptFinished, AttemptKey, Start, Usage


class AttemptState(StrEnum):
    """Where an attempt stands on this device; the words of the heartbeat's inventory."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    FINISHED = "finished"


TRANSITIONS: dict[AttemptState, frozenset[AttemptState]] = {
    # An attempt can end before its guest started: stopped in the queue, or without a module or data.
    AttemptState.ACCEPTED: frozenset({AttemptState.RUNNING, AttemptState.FINISHED}),
    # Running again to running: the guest ended and its update is saved, but not yet delivered.
    AttemptState.RUNNING: frozenset({AttemptState.RUNNING, AttemptState.FINISHED}),
    AttemptState.FINISHED: frozenset(),
}
"""The whole life of an attempt on a proplet. It leaves the table by being acknowledged and forgotten."""


class Held(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt, as the spool stores it. A live one keeps its start message, a finished one its result.

    `order` grows with every start taken, so that queued attempts keep their turn over a restart. `update` is
    the JSON that the guest of a federated task made, kept so that a crash re-sends rather than retrains;
    with a format in `form`, its tensors are in a file of the workspace. `usage` belongs to it. `finished` is
    the encoded `AttemptFinished`, the same bytes at every sending.
    """

    key: AttemptKey
    state: AttemptState
    order: int
    start: Start | None = None
    update: bytes = b""
    form: str = ""
    usage: Usage = Usage()
    finished: bytes = b""


class _Stored(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`Held` with its start as JSON: parts of it are JSON as they came, which MessagePack cannot hold."""

    key: AttemptKey
    state: AttemptState
    order: int
    start: bytes = b""
    update: bytes = b""
    form: str = ""
    usage: Usage = Usage()
    finished: bytes = b""


def packed(held: Held) -> bytes:
    """The record as a spool writes it."""
    fields = {name: getattr(held, name) for name in Held.__struct_fields__}
    fields["start"] = msgspec.json.encode(held.start) if held.start is not None else b""
    return msgspec.msgpack.encode(_Stored(**fields))


def unpacked(content: bytes) -> Held:
    """The record that `packed` wrote; raises `msgspec.MsgspecError` for anything else."""
    stored = msgspec.msgpack.decode(content, type=_Stored)
    fields = {name: getattr(stored, name) for name in Held.__struct_fields__}
    fields["start"] = msgspec.json.decode(stored.start, type=Start) if stored.start else None
    return Held(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended. `results` is JSON; `failure` and `error` are both empty on success."""

    results: bytes = b"null"
    error: str = ""
    failure: str = ""
    stderr: str = ""
    usage: Usage = field(default_factory=Usage)


def show(key: AttemptKey) -> str:
    """The attempt's name in messages for people."""
    return f"{key.task_id} run {key.run} attempt {key.attempt}"


def show_file(key: AttemptKey) -> str:
    """The attempt's name as that of a file."""
    return f"{key.task_id}.{key.run}.{key.attempt}"


def finished(key: AttemptKey, outcome: Outcome, proplet_id: str) -> bytes:
    """The encoded message that an attempt ended so."""
    return msgspec.json.encode(
        AttemptFinished(
            task_id=key.task_id,
            run=key.run,
            attempt=key.attempt,
            proplet_id=proplet_id,
            results=msgspec.Raw(outcome.results),
            error=outcome.error,
            failure=outcome.failure,
            stderr=outcome.stderr,
            usage=outcome.usage,
        )
    )
