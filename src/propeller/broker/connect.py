"""A client's CONNECT: strictly parsed, judged against the credentials, and rewritten for the engine.

Pure but for reading the credential store. What the engine is handed names the client by its proven identity,
has no will that its sender might not publish, and no keep-alive, which the gate enforces itself.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

from propeller.broker.credentials import CredentialStore
from propeller.broker.principals import Action, Kind, Rights
from propeller.errors import DecodeError
from propeller.wire.filters import is_topic
from propeller.wire.packets import Cursor, Packet, encode_length, encode_text

_NAME = "MQTT"
_LEVEL = 4
_RESERVED, _CLEAN, _WILL, _WILL_RETAIN, _PASSWORD, _USERNAME = 0x01, 0x02, 0x04, 0x20, 0x40, 0x80
_WILL_QOS_SHIFT = 3
_QOS_MAX = 2


class Refusal(IntEnum):
    """Return codes of a CONNACK that refuses (MQTT 3.1.1, table 3.1)."""

    PROTOCOL = 1
    NOT_AUTHORISED = 5

    def encode(self) -> bytes:
        """The whole CONNACK packet."""
        return bytes([0x20, 2, 0, self])


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """A last will."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """A CONNECT's content. `keep_alive_s` 0 means that the client promises nothing."""

    client_id: str
    clean: bool
    keep_alive_s: int
    will: Will | None
    username: str
    password: str

    def encode(self) -> bytes:
        """The whole packet."""
        flags = _USERNAME | _PASSWORD | (_CLEAN if self.clean else 0)
        content = encode_text(self.client_id)
        if self.will:
            flags |= _WILL | self.will.qos << _WILL_QOS_SHIFT | (_WILL_RETAIN if self.will.retain else 0)
            content += encode_text(self.will.topic)
            content += len(self.will.payload).to_bytes(2, "big") + self.will.payload
        content += encode_text(self.username) + encode_text(self.password)
        body = encode_text(_NAME) + bytes([_LEVEL, flags]) + self.keep_alive_s.to_bytes(2, "big") + content
        return bytes([Packet.CONNECT << 4]) + encode_length(len(body)) + body


class ForeignProtocol(DecodeError):
    """A CONNECT of another version of MQTT: answered, where other undecodable bytes are not."""


def parse_connect(body: bytes) -> Connect:
    """Decode a CONNECT's body. Raises `DecodeError`, or `ForeignProtocol` for another version of MQTT."""
    cursor = Cursor(body)
    name, level = cursor.text(), cursor.byte()
    if (name, level) != (_NAME, _LEVEL):
        raise ForeignProtocol(f"protocol {name[:16]!r} level {level}: this broker speaks MQTT 3.1.1")
    flags = cursor.byte()
    _check_flags(flags)
    keep_alive_s = int.from_bytes(cursor.take(2), "big")
    client_id = cursor.text()
    will = _take_will(cursor, flags) if flags & _WILL else None
    username = cursor.text() if flags & _USERNAME else ""
    password = cursor.text() if flags & _PASSWORD else ""
    if not cursor.at_end:
        raise DecodeError("CONNECT has bytes behind its end")
    return Connect(
        client_id=client_id,
        clean=bool(flags & _CLEAN),
        keep_alive_s=keep_alive_s,
        will=will,
        username=username,
        password=password,
    )


def _check_flags(flags: int) -> None:
    will_bits = flags & (_WILL_RETAIN | 3 << _WILL_QOS_SHIFT)
    if flags & _RESERVED or (flags & _PASSWORD and not flags & _USERNAME):
        raise DecodeError(f"CONNECT with flags {flags:#04x}")
    if (will_bits and not flags & _WILL) or (flags >> _WILL_QOS_SHIFT & 3) > _QOS_MAX:
        raise DecodeError(f"CONNECT with will flags {will_bits:#04x}")


def _take_will(cursor: Cursor, flags: int) -> Will:
    topic = cursor.text()
    if not is_topic(topic):
        raise DecodeError(f"{topic[:80]!r} is not a topic for a will")
    payload = cursor.take(int.from_bytes(cursor.take(2), "big"))
    return Will(
        topic=topic, payload=payload, qos=flags >> _WILL_QOS_SHIFT & 3, retain=bool(flags & _WILL_RETAIN)
    )


def admit(connect: Connect, store: CredentialStore) -> tuple[Connect, Rights] | None:
    """The CONNECT as the engine may see it, with the client's rights; None if it may not come in.

    The client id becomes the username, so that nobody takes over another's session. An operator's keeps its
    own part, for people open several consoles; the slash keeps it apart from every id. A will that its
    sender might not publish is left out, as Mosquitto does.
    """
    rights = store.rights(connect.username)
    if rights is None or not store.verify(connect.username, connect.password):
        return None
    operator = rights.kind is Kind.OPERATOR
    will = connect.will
    if will and not rights.permits(Action.PUBLISH, will.topic):
        will = None
    client_id = f"{rights.id}/{connect.client_id}" if operator else rights.id
    return replace(connect, client_id=client_id, keep_alive_s=0, will=will), rights
