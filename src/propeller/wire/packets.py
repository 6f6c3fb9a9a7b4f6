"""The bytes of MQTT 3.1.1 as the embedded broker's gate needs them: a strict check, and one encoder.

Decoding proper is the engine's; this is what stands before it, so that no packet reaches it whose inside
disagrees with its length, whose flags are forbidden, or which only a server may send. Does no I/O.
"""

from dataclasses import dataclass
from enum import IntEnum

from propeller.errors import DecodeError
from propeller.wire.filters import is_filter, is_topic

LENGTH_BYTES_MAX = 4
"""Bytes of a packet's length (seven bits in each)."""
MORE = 0x80
"""The bit of a length's byte that says that another follows."""
_QOS_MAX = 2
_PACKET_ID_BYTES = 2


class Packet(IntEnum):
    """The packets that a client may send, by type."""

    CONNECT = 1
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    UNSUBSCRIBE = 10
    PINGREQ = 12
    DISCONNECT = 14


FLAGS: dict[Packet, int] = {
    Packet.CONNECT: 0,
    Packet.PUBACK: 0,
    Packet.PUBREC: 0,
    Packet.PUBREL: 2,
    Packet.PUBCOMP: 0,
    Packet.SUBSCRIBE: 2,
    Packet.UNSUBSCRIBE: 2,
    Packet.PINGREQ: 0,
    Packet.DISCONNECT: 0,
}
"""The low four bits of the first byte, fixed for all but PUBLISH (MQTT 3.1.1, table 2.2)."""


@dataclass(frozen=True, slots=True)
class Head:
    """A packet's first byte, taken apart."""

    packet: Packet
    flags: int

    @property
    def qos(self) -> int:
        """Quality of service; of meaning for PUBLISH only."""
        return self.flags >> 1 & 3

    @property
    def retain(self) -> bool:
        """Whether to retain; of meaning for PUBLISH only."""
        return bool(self.flags & 1)


def parse_head(first: int) -> Head:
    """Take apart a packet's first byte. Raises `DecodeError` for what no client may send."""
    try:
        head = Head(Packet(first >> 4), first & 15)
    except ValueError:
        raise DecodeError(f"packet type {first >> 4} is not for clients to send") from None
    if head.flags != FLAGS.get(head.packet, head.flags) or head.qos > _QOS_MAX:
        raise DecodeError(f"{head.packet.name} with flags {head.flags}")
    return head


@dataclass(frozen=True, slots=True)
class Publish:
    """A PUBLISH's content. `packet_id` is 0 for quality of service 0."""

    topic: str
    packet_id: int
    payload: bytes


def parse_publish(head: Head, body: bytes) -> Publish:
    """Decode a PUBLISH's body. Raises `DecodeError`."""
    cursor = Cursor(body)
    if not is_topic(topic := cursor.text()):
        raise DecodeError(f"{topic[:80]!r} is not a topic to publish on")
    packet_id = cursor.packet_id() if head.qos else 0
    return Publish(topic, packet_id, cursor.rest())


def check_body(head: Head, body: bytes) -> None:
    """Raise `DecodeError` unless `body` is exactly one lawful body of such a packet (but CONNECT's)."""
    cursor = Cursor(body)
    match head.packet:
        case Packet.PUBLISH:
            parse_publish(head, body)
            return
        case Packet.SUBSCRIBE | Packet.UNSUBSCRIBE:
            _check_filters(cursor, with_qos=head.packet is Packet.SUBSCRIBE)
        case Packet.PUBACK | Packet.PUBREC | Packet.PUBREL | Packet.PUBCOMP:
            cursor.packet_id()
        case _:
            pass
    if not cursor.at_end:
        raise DecodeError(f"{head.packet.name} has bytes behind its end")


def _check_filters(cursor: "Cursor", *, with_qos: bool) -> None:
    cursor.packet_id()
    if cursor.at_end:
        raise DecodeError("a subscription to nothing")
    while not cursor.at_end:
        # A filter that is merely unlawful is the engine's to refuse; an empty one would upset it.
        if not (text := cursor.text()) or (not with_qos and not is_filter(text)):
            raise DecodeError(f"{text[:80]!r} is not a topic filter")
        if with_qos and cursor.byte() > _QOS_MAX:
            raise DecodeError("a subscription with a quality of service over 2")


def publish_head_bytes(start: bytes, qos: int) -> int:
    """How many bytes of a PUBLISH body precede its payload; `start` is the body's first two bytes."""
    return 2 + int.from_bytes(start[:2], "big") + (_PACKET_ID_BYTES if qos else 0)


def encode_length(length: int) -> bytes:
    """A packet's length as MQTT writes it."""
    encoded = bytearray()
    while length >= MORE:
        encoded.append(length & ~MORE & 0xFF | MORE)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


def encode_text(text: str) -> bytes:
    """A string as MQTT writes it: two bytes of length, then UTF-8."""
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw


def encode_publish(topic: str, payload: bytes, *, packet_id: int | None, retain: bool) -> bytes:
    """A PUBLISH packet: quality of service 1 if it has a packet id, else 0."""
    name = encode_text(topic)
    identity = b"" if packet_id is None else packet_id.to_bytes(2, "big")
    first = Packet.PUBLISH << 4 | (2 if identity else 0) | retain
    length = encode_length(len(name) + len(identity) + len(payload))
    return b"".join((bytes([first]), length, name, identity, payload))


class Cursor:
    """Reads forward through a body, and never beyond it: every method raises `DecodeError` instead."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    @property
    def at_end(self) -> bool:
        """Whether all of it is read."""
        return self._at == len(self._body)

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        taken = self._body[self._at : self._at + count]
        if len(taken) < count:
            raise DecodeError("a packet that ends before its content does")
        self._at += count
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._body) - self._at)

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def packet_id(self) -> int:
        """The next two bytes as a packet id, which is never 0."""
        if packet_id := int.from_bytes(self.take(_PACKET_ID_BYTES), "big"):
            return packet_id
        raise DecodeError("packet id 0")

    def text(self) -> str:
        """The next string."""
        raw = self.take(int.from_bytes(self.take(2), "big"))
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise DecodeError("text that is not UTF-8") from None
        if "\0" in text:
            raise DecodeError("text with a NUL")
        return text
