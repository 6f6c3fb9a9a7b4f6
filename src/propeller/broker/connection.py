"""One client's connection to the embedded broker, between the socket and the engine.

The reader hands the engine whole, checked packets only, and ends the stream for whatever else comes: bytes
that are no MQTT, silence beyond the keep-alive, an order to end. The writer never waits: a client that does
not read costs at most its outbox, and nobody else's time. Knows no topics and no rights but to carry them.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from amqtt.adapters import ReaderAdapter, WriterAdapter

from propeller import limits
from propeller.broker.principals import Rights
from propeller.errors import DecodeError
from propeller.wire.packets import (
    LENGTH_BYTES_MAX,
    MORE,
    Head,
    Packet,
    Publish,
    check_body,
    encode_length,
    encode_publish,
    parse_head,
    parse_publish,
    publish_head_bytes,
)

_PACKET_BYTES_MAX = 256 * 1024
"""Any packet but PUBLISH: a CONNECT with the longest will fits."""
_CHUNK_BYTES = 64 * 1024
_PACKETS_PER_TURN = 32
"""Packets read before other connections get their turn of the loop."""
_PACKET_ID_MAX = 65_535
_CLOSE_S = 2.0
"""What a closing connection has to take its last bytes."""
Publisher = Callable[[Head, Publish], Awaitable[None]]
"""Takes a message of quality of service 0 or 1 on to its receivers, without giving up the loop."""
_GONE = (OSError, asyncio.IncompleteReadError, TimeoutError)


@dataclass(slots=True)
class Traffic:
    """Counters of the embedded broker since it started."""

    connections: int = 0
    """Open now."""
    refused: int = 0
    """Connections turned away: bad credentials, foreign protocol, or too many."""
    malformed: int = 0
    """Connections ended for bytes that are no MQTT."""
    published: int = 0
    """Messages taken from clients."""
    delivered: int = 0
    """Messages given to clients."""
    denied: int = 0
    """Messages and subscriptions that the ACL refused."""
    oversized: int = 0
    """Messages dropped for their size."""
    dropped: int = 0
    """Messages not given to a client that does not read."""


class Frames:
    """Takes whole packets off a socket. `silence_s` bounds the wait for each piece; None waits for ever."""

    def __init__(self, stream: asyncio.StreamReader, silence_s: float | None) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self.silence_s = silence_s

    async def head(self) -> tuple[Head, int]:
        """The next packet's head and the length of its body."""
        head = parse_head((await self.body(1))[0])
        length = 0
        for place in range(LENGTH_BYTES_MAX):
            byte = (await self.body(1))[0]
            length |= (byte & ~MORE) << 7 * place
            if not byte & MORE:
                return head, length
        raise DecodeError("a packet length of more than four bytes")

    async def body(self, length: int) -> bytes:
        """That many bytes; on a slow line each piece may take `silence_s`."""
        end = self._at + length
        if end <= len(self._buffer):
            taken = self._buffer[self._at : end]
            self._at = end
            return taken
        pieces = []
        while length:
            if self._at == len(self._buffer):
                await self._fill()
            piece = self._buffer[self._at : self._at + length]
            self._at += len(piece)
            length -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    async def skip(self, length: int) -> None:
        """Let that many bytes pass without keeping them."""
        while length:
            length -= len(await self.body(min(length, _CHUNK_BYTES)))

    def end(self) -> None:
        """Wake whoever waits for bytes: no more will come."""
        self._stream.feed_eof()

    async def _fill(self) -> None:
        async with asyncio.timeout(self.silence_s):
            self._buffer = await self._stream.read(_CHUNK_BYTES)
        self._at = 0
        if not self._buffer:
            raise asyncio.IncompleteReadError(b"", None)


async def read_connect(frames: Frames) -> bytes:
    """The body of the CONNECT that must come first. Raises `DecodeError` for anything else."""
    head, length = await frames.head()
    if head.packet is not Packet.CONNECT or length > _PACKET_BYTES_MAX:
        raise DecodeError(f"{head.packet.name} of {length} bytes where a CONNECT was due")
    return await frames.body(length)


class Outbox(WriterAdapter):  # type: ignore[misc]  # amqtt has no types
    """The way to the client. Writing never waits; `backlog` is what the client has not taken yet."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._transport = writer.transport

    @property
    def backlog(self) -> int:
        """Bytes written and not yet taken by the socket."""
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Queue bytes; a client that lets even acknowledgements pile up is cut off."""
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if self.backlog > 2 * limits.MQTT_OUTBOX_BYTES_MAX:
            self._transport.abort()

    async def drain(self) -> None:
        """Nothing: the backlog is bounded by what is written, not by waiting."""

    def get_peer_info(self) -> tuple[str, int]:
        """The client's address and port; empty if it is gone already."""
        peer = self._transport.get_extra_info("peername") or ("", 0)
        return peer[0], peer[1]

    def get_ssl_info(self) -> ssl.SSLObject | None:
        """Nothing: the listener is plain."""
        return None

    async def close(self, *, at_once: bool = False) -> None:
        """Close once the last bytes are taken, or soon in any case; `at_once` does not wait for them."""
        if at_once:
            self._transport.abort()
        elif not self._transport.is_closing():
            self._transport.close()
            if self.backlog:
                asyncio.get_running_loop().call_later(_CLOSE_S, self._transport.abort)


class Inlet(ReaderAdapter):  # type: ignore[misc]  # amqtt has no types
    """The way from the client, as the engine reads it: checked packets, byte by byte, then the end."""

    def __init__(
        self, first: bytes, frames: Frames, outbox: Outbox, traffic: Traffic, publish: Publisher
    ) -> None:
        self._held = first
        self._at = 0
        self._frames = frames
        self._outbox = outbox
        self._traffic = traffic
        self._publish = publish
        self._ended = False
        self.over = asyncio.Event()
        """Set once the stream has ended and the engine has taken up all that came before."""
        self.said_goodbye = False
        """Whether the client sent DISCONNECT: its last will is then void."""
        self._turn = 0
        # QoS 2 packet ids that the engine waits for the release of; any other release is answered here.
        self._unreleased: set[int] = set()

    async def read(self, n: int = -1) -> bytes:
        """The next `n` bytes of the present packet, or of the next one."""
        if self._at == len(self._held):
            await self._advance()
        taken = self._held[self._at : self._at + n]
        self._at += len(taken)
        return taken

    def feed_eof(self) -> None:
        """End the stream now, whatever has already arrived."""
        self._ended = True
        self._frames.end()

    async def _advance(self) -> None:
        """Hold the next packet that is the engine's business; at the end, let its last tasks run first."""
        while not self._ended:
            try:
                if packet := await self._next():
                    self._held, self._at = packet, 0
                    return
            except DecodeError:
                self._traffic.malformed += 1
                self._ended = True
            except _GONE:
                self._ended = True
        # The engine handles each packet in a task of its own, and cancels those when the stream ends.
        for _ in range(2):
            await asyncio.sleep(0)
        self.over.set()
        raise asyncio.IncompleteReadError(b"", None)

    async def _next(self) -> bytes | None:
        """One packet off the socket; None if it was dealt with here."""
        self._turn = (self._turn + 1) % _PACKETS_PER_TURN
        if not self._turn:
            await asyncio.sleep(0)
        head, length = await self._frames.head()
        if head.packet is Packet.PUBLISH and length > limits.MQTT_MESSAGE_BYTES_MAX:
            start = await self._frames.body(2)
            before = publish_head_bytes(start, head.qos)
            if length - before > limits.MQTT_MESSAGE_BYTES_MAX:
                await self._refuse_publish(head, before - 2, length - before)
                return None
            body = start + await self._frames.body(length - 2)
        elif head.packet is not Packet.PUBLISH and length > _PACKET_BYTES_MAX:
            raise DecodeError(f"{head.packet.name} of {length} bytes")
        else:
            body = await self._frames.body(length) if length else b""
        if await self._settles(head, body):
            return None
        return bytes([head.packet << 4 | head.flags]) + encode_length(length) + body

    async def _refuse_publish(self, head: Head, name_bytes: int, payload_bytes: int) -> None:
        """Let an oversized message pass by, and acknowledge it, or its sender would repeat it for ever."""
        name = await self._frames.body(name_bytes)
        await self._frames.skip(payload_bytes)
        self._traffic.oversized += 1
        if head.qos:
            answer = Packet.PUBACK if head.qos == 1 else Packet.PUBREC
            self._outbox.write(bytes([answer << 4, 2]) + name[-2:])

    async def _settles(self, head: Head, body: bytes) -> bool:
        """Check a packet, and deal with it if amqtt need not see it.

        Messages of quality of service 0 and 1 take the short way: amqtt's has a task for each and is several
        times slower. Deliveries are not repeated, so their receipts end here.
        """
        if head.packet is Packet.PUBLISH and head.qos <= 1:
            message = parse_publish(head, body)
            await self._publish(head, message)
            if head.qos:
                self._outbox.write(bytes([Packet.PUBACK << 4, 2]) + message.packet_id.to_bytes(2, "big"))
            return True
        check_body(head, body)
        match head.packet:
            case Packet.DISCONNECT:
                self._ended = self.said_goodbye = True
                return True
            case Packet.CONNECT:
                raise DecodeError("a second CONNECT")
            case Packet.PUBLISH:
                self._unreleased.add(_packet_id(body, publish_head_bytes(body, head.qos) - 2))
            case Packet.PUBREL if (packet_id := _packet_id(body, 0)) in self._unreleased:
                self._unreleased.discard(packet_id)
            case Packet.PUBREL:
                self._outbox.write(bytes([Packet.PUBCOMP << 4, 2]) + body)
                return True
            case Packet.PUBACK | Packet.PUBREC | Packet.PUBCOMP:
                return True
        return False


def _packet_id(body: bytes, at: int) -> int:
    return int.from_bytes(body[at : at + 2], "big")


@dataclass(slots=True, kw_only=True, eq=False)
class Connection:
    """A client that is in. `finished` is set once the engine has let go of it."""

    client_id: str
    rights: Rights
    mark: bytes | None
    """What its credentials were when it came in; see `CredentialStore.mark`."""
    inlet: Inlet
    outbox: Outbox
    filters: set[str] = field(default_factory=set)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    _packet_id: int = 0

    def deliver(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """Write a message (quality of service at most 1); False if the client's outbox is full."""
        if self.outbox.backlog + len(payload) > limits.MQTT_OUTBOX_BYTES_MAX:
            return False
        if qos:
            self._packet_id = self._packet_id % _PACKET_ID_MAX + 1
        packet_id = self._packet_id if qos else None
        self.outbox.write(encode_publish(topic, payload, packet_id=packet_id, retain=retain))
        return True

    def end(self) -> None:
        """End it from our side; the client's last will is sent."""
        self.inlet.feed_eof()
