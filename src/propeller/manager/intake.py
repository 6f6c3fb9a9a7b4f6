"""Turns MQTT messages into events: total and bounded. What is no lawful message is dropped and counted.

On directed topics the last level is the sender, proven by the broker; a body that claims another proplet is
refused. On shared topics nobody is proven, and the engine treats what is said accordingly.
"""

from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import msgspec

from propeller import limits
from propeller.core import events as e
from propeller.core.ids import check_id
from propeller.core.run import Lane
from propeller.errors import BadInput, DecodeError
from propeller.wire import codec
from propeller.wire.messages import Alive, AttemptEvent, AttemptFinished, Create, LegacyResult
from propeller.wire.topics import ControlTopic, FromProplet

_EXACT = 2.0**53
"""Up to here a float keeps every integer, and an integer fits what the store writes."""
_ADJECTIVES = (
    "amber",
    "brave",
    "calm",
    "deft",
    "early",
    "fair",
    "keen",
    "lucid",
    "quiet",
    "swift",
    "warm",
    "wise",
)
_NOUNS = (
    "badger",
    "curlew",
    "falcon",
    "heron",
    "ibex",
    "lark",
    "lynx",
    "marten",
    "otter",
    "raven",
    "swift",
    "wren",
)


def read_event(topic: ControlTopic, payload: bytes) -> e.Event | None:
    """The event that a control message stands for; None for kinds that are not the engine's business.

    Raises `DecodeError` or `BadInput` for a message that is not what its topic says.
    """
    read = _READERS.get(topic.kind)
    return read(topic, payload) if read else None


def name_of(proplet_id: str) -> str:
    """A name for a proplet that is seen for the first time: always the same for one id."""
    number = crc32(proplet_id.encode())
    return f"{_ADJECTIVES[number % len(_ADJECTIVES)]}-{_NOUNS[number // 1024 % len(_NOUNS)]}"


def _create(topic: ControlTopic, payload: bytes) -> e.Event:
    body = codec.decode(Create, payload, what="create", limit_bytes=limits.PROPLET_CREATE_BYTES_MAX)
    metadata = {name: value for name, value in msgspec.to_builtins(body.metadata).items() if value}
    proplet_id = _claimed(topic, body.proplet_id)
    return e.Announced(
        proplet_id=proplet_id,
        protocol=body.protocol,
        name=name_of(proplet_id),
        namespace=body.namespace or "default",
        metadata=_whole_numbers(metadata),
        slots=min(max(1, body.slots), 1024),
        proven=topic.sender is not None,
        cause="create",
    )


def _alive(topic: ControlTopic, payload: bytes) -> e.Event:
    body = codec.decode(Alive, payload, what="alive", limit_bytes=limits.PROPLET_ALIVE_BYTES_MAX)
    proplet_id = _claimed(topic, body.proplet_id)
    lane: Lane = "directed" if topic.sender else "legacy"
    if body.status == "offline":
        return e.Gone(proplet_id=proplet_id, lane=lane, cause="will")
    held = tuple(
        e.Held(task_id=item.task_id, run=item.run, attempt=item.attempt, state=item.state)
        for item in body.attempts or ()
    )
    return e.Heard(
        proplet_id=proplet_id,
        lane=lane,
        name=name_of(proplet_id),
        inventory=held if topic.sender else None,
        boot=body.boot,
        cause="alive",
    )


def _events(topic: ControlTopic, payload: bytes) -> e.Event:
    body = codec.decode(AttemptEvent, payload, what="attempt event")
    return e.AttemptReport(
        kind=body.kind,
        sender=_proven(topic),
        task_id=check_id(body.task_id, "task_id"),
        run=body.run,
        attempt=body.attempt,
        cause=body.kind,
    )


def _results(topic: ControlTopic, payload: bytes) -> e.Event:
    if topic.sender is None:
        return _legacy_result(payload)
    body = codec.decode(AttemptFinished, payload, what="result")
    _claimed(topic, body.proplet_id or None)
    return e.AttemptReport(
        kind="finished",
        sender=topic.sender,
        task_id=check_id(body.task_id, "task_id"),
        run=body.run,
        attempt=body.attempt,
        error=_short(body.error),
        failure=_short(body.failure),
        results=_results_text(body.results),
        cause="finished",
    )


def _legacy_result(payload: bytes) -> e.Event:
    body = codec.decode(LegacyResult, payload, what="result")
    return e.LegacyReport(
        task_id=check_id(body.task_id, "task_id"),
        proplet_id=body.proplet_id or None,
        error=_short(body.error or ""),
        results=_results_text(body.results),
        cause="result",
    )


_READERS: Mapping[FromProplet, Callable[[ControlTopic, bytes], e.Event]] = {
    FromProplet.CREATE: _create,
    FromProplet.ALIVE: _alive,
    FromProplet.EVENTS: _events,
    FromProplet.RESULTS: _results,
}


def _claimed(topic: ControlTopic, claimed: str | None) -> str:
    """The proplet a message is from: the topic's level, which the body must not contradict, else the body."""
    if topic.sender is not None:
        if claimed not in {None, "", topic.sender}:
            raise BadInput(f"{topic.sender} speaks for {claimed}", code="wrong_sender")
        return check_id(topic.sender, "proplet id")
    return check_id(claimed or "", "proplet_id")


def _proven(topic: ControlTopic) -> str:
    if topic.sender is None:
        raise DecodeError(f"{topic.kind} exists on directed topics only")
    return topic.sender


def _short(text: str) -> str:
    return (
        text if len(text) <= limits.PROPLET_ERROR_CHARS_MAX else text[: limits.PROPLET_ERROR_CHARS_MAX] + "…"
    )


def _results_text(results: msgspec.Raw) -> bytes:
    """The results as they came. Nothing has looked into their strings yet, and every list will show them."""
    content = bytes(results) or b"null"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"results are not UTF-8: {error}") from error
    return content


def _whole_numbers(metadata: dict[str, Any]) -> dict[str, Any]:
    """Sizes travel as JSON numbers of either kind; what is whole, and exact as a float, is shown whole."""
    return {
        name: int(value)
        if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT
        else value
        for name, value in metadata.items()
    }
