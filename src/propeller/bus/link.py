"""One connection to an MQTT 3.1.1 broker, from CONNECT to its end: packets in, packets out.

It is our own because a task costs a dozen messages; docs/design/mqtt-client.md has the measurements. The
tests still speak the library that was here before, as an independent peer. Subscriptions ask for quality of
service 1 at most, so no packet of quality of service 2 comes.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import cast

from propeller import limits
from propeller.errors import DecodeError
from propeller.ports import Message
from propeller.wire.packets import MORE, encode_length, encode_publish, encode_text

_PUBLISH, _CONNACK, _PUBACK, _SUBACK, _UNSUBACK, _PINGRESP = 3, 2, 4, 9, 11, 13
_HIGHEST_ID = 65_535
IN_FLIGHT_MAX = 256
"""Publishes that wait for their acknowledgement; further ones wait for one of these."""
TICK_S = 2.0
"""How often unanswered publishes and the keep-alive are looked at."""
PACKET_BYTES_MAX = limits.MQTT_MESSAGE_BYTES_MAX * 2
"""A packet over this ends the connection: no broker of ours sends one."""
_CLOSE_S = 1.0


class LinkLost(Exception):
    """The connection has ended, or never came to be; `code` is the broker's refusal, if it was one."""

    def __init__(self, why: str, code: int = 0) -> None:
        super().__init__(why)
        self.code = code


def connect_packet(
    username: str, password: str, client_id: str, will: Message | None, *, clean: bool
) -> bytes:
    """A CONNECT; a will has quality of service 1."""
    flags = 0xC0 | (2 if clean else 0)
    rest = encode_text(client_id)
    if will is not None:
        flags |= 0x0C | (0x20 if will.retain else 0)
        rest += encode_text(will.topic) + len(will.payload).to_bytes(2, "big") + will.payload
    rest += encode_text(username) + encode_text(password)
    body = encode_text("MQTT") + bytes((4, flags)) + limits.MQTT_KEEPALIVE_S.to_bytes(2, "big") + rest
    return b"\x10" + encode_length(len(body)) + body


class Link(asyncio.Protocol):
    """A connection. `received` gets each message as it arrives; `lost` is set once, when it has ended."""

    def __init__(self, received: Callable[[Message], None]) -> None:
        self._received = received
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._last_id = 0
        self._unanswered: dict[int, tuple[asyncio.Future[bool], float]] = {}
        """Publishes on their way by packet id, oldest first, and when they give up."""
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        """Whoever waits for the one CONNACK, SUBACK or UNSUBACK."""
        self._asking = asyncio.Lock()
        self._writable = asyncio.Event()
        self._writable.set()
        self._room = asyncio.Event()
        self._spoke_s = self._heard_s = self._loop.time()
        self._timer = self._loop.call_later(TICK_S, self._tick)
        self.lost: asyncio.Future[LinkLost] = self._loop.create_future()

    @property
    def socket(self) -> socket.socket:
        """The socket, or what stands for it."""
        if self._transport is None:
            raise LinkLost("not connected")
        return cast("socket.socket", self._transport.get_extra_info("socket"))

    # --- what the bus does -----------------------------------------------------------------------------

    async def connect(self, packet: bytes) -> None:
        """Introduce ourselves; raises `LinkLost` with the code of a refusal."""
        answer = await self._ask(_CONNACK, packet)
        if len(answer) < 2:  # noqa: PLR2004 - flags and code
            raise LinkLost("a CONNACK without a code")
        if answer[1]:
            raise LinkLost(f"refused with code {answer[1]}", answer[1])

    async def subscribe(self, filters: Sequence[str]) -> bytes:
        """Subscribe with quality of service 1; the broker's code for each filter."""
        packet_id = self._next_id()
        body = packet_id.to_bytes(2, "big") + b"".join(encode_text(text) + b"\1" for text in filters)
        return (await self._ask(_SUBACK, b"\x82" + encode_length(len(body)) + body))[2:]

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe."""
        packet_id = self._next_id()
        body = packet_id.to_bytes(2, "big") + b"".join(map(encode_text, filters))
        await self._ask(_UNSUBACK, b"\xa2" + encode_length(len(body)) + body)

    async def publish(self, message: Message) -> bool:
        """Send with quality of service 1; whether the broker has acknowledged it in time."""
        while not self._writable.is_set() or len(self._unanswered) >= IN_FLIGHT_MAX:
            if not await self._wait_for_room():
                return False
        if self._transport is None:
            return False
        packet_id = self._next_id()
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._unanswered[packet_id] = (answer, self._loop.time() + limits.MQTT_PUBLISH_S)
        self._write(
            encode_publish(message.topic, message.payload, packet_id=packet_id, retain=message.retain)
        )
        try:
            return await answer
        finally:
            if self._unanswered.pop(packet_id, None) is not None:
                self._room.set()

    async def close(self) -> None:
        """Disconnect in good manner if there is still a connection, and wait for the end of the socket."""
        if self._transport is not None:
            with contextlib.suppress(OSError):
                self._write(b"\xe0\0")
            self._transport.close()
            await asyncio.wait([self.lost], timeout=_CLOSE_S)
        if self._transport is not None:
            self._transport.abort()
            await asyncio.wait([self.lost], timeout=_CLOSE_S)

    # --- what the loop does ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        # Without it, each acknowledged publish stalls 40 ms.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        self._timer.cancel()
        lost = LinkLost(str(exc) if exc else "the broker ended the connection")
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(lost)
        for published, _ in self._unanswered.values():
            if not published.done():
                published.set_result(False)
        self._writable.set()
        self._room.set()
        if not self.lost.done():
            self.lost.set_result(lost)

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._writable.set()
        self._room.set()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._heard_s = self._loop.time()
        buffer = self._buffer
        buffer += data
        at, receipts = 0, bytearray()
        try:
            while (found := _frame(buffer, at)) is not None:
                first, begin, at = found
                self._take(first, bytes(buffer[begin:at]), receipts)
        except DecodeError as error:
            self._abort(str(error))
            return
        if at:
            del buffer[:at]
        if receipts:
            self._write(receipts)

    # --- inside ----------------------------------------------------------------------------------------

    def _take(self, first: int, body: bytes, receipts: bytearray) -> None:
        kind = first >> 4
        if kind == _PUBLISH:
            self._take_publish(first, body, receipts)
        elif kind == _PUBACK:
            published = self._unanswered.pop(int.from_bytes(body[:2], "big"), None)
            if published is not None and not published[0].done():
                published[0].set_result(True)
            self._room.set()
        elif kind in (_CONNACK, _SUBACK, _UNSUBACK):
            waiting = self._answers.get(kind)
            if waiting is not None and not waiting.done():
                waiting.set_result(body)
        elif kind != _PINGRESP:
            raise DecodeError(f"a packet of type {kind}, which no broker sends us")

    def _take_publish(self, first: int, body: bytes, receipts: bytearray) -> None:
        begin = 2 + int.from_bytes(body[:2], "big")
        try:
            topic = body[2:begin].decode()
        except UnicodeDecodeError as error:
            raise DecodeError(f"a topic that is not UTF-8: {error}") from error
        if first & 6:
            receipts += b"\x40\x02" + body[begin : begin + 2]
            begin += 2
        if begin > len(body):
            raise DecodeError("a PUBLISH that ends before its content does")
        self._received(Message(topic, body[begin:], bool(first & 1)))

    async def _ask(self, kind: int, packet: bytes) -> bytes:
        async with self._asking:
            if self._transport is None:
                raise LinkLost("the connection has ended")
            answer: asyncio.Future[bytes] = self._loop.create_future()
            self._answers[kind] = answer
            self._write(packet)
            try:
                return await answer
            finally:
                del self._answers[kind]

    async def _wait_for_room(self) -> bool:
        """Wait until something may be sent; False if that takes too long, or the connection ends."""
        self._room.clear()
        try:
            async with asyncio.timeout(limits.MQTT_PUBLISH_S):
                await self._room.wait()
        except TimeoutError:
            return False
        return self._transport is not None

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % _HIGHEST_ID + 1
            if self._last_id not in self._unanswered:
                return self._last_id

    def _write(self, packet: bytes | bytearray) -> None:
        if self._transport is not None:
            self._spoke_s = self._loop.time()
            self._transport.write(packet)

    def _abort(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(LinkLost(why))
        if self._transport is not None:
            self._transport.abort()

    def _tick(self) -> None:
        """Give up publishes that wait too long, keep the connection alive, notice that it is dead."""
        now_s = self._loop.time()
        for published, until_s in self._unanswered.values():
            if until_s > now_s:
                break
            if not published.done():
                published.set_result(False)
        if now_s - self._heard_s > limits.MQTT_KEEPALIVE_S * limits.MQTT_KEEPALIVE_FACTOR:
            self._abort("the broker is silent")
            return
        if now_s - min(self._spoke_s, self._heard_s) > limits.MQTT_KEEPALIVE_S / 2:
            self._write(b"\xc0\0")
        self._timer = self._loop.call_later(TICK_S, self._tick)


def _frame(buffer: bytearray, at: int) -> tuple[int, int, int] | None:
    """First byte, begin and end of the body of the packet at `at`; None while it is not whole."""
    length = shift = 0
    begin = at + 1
    while begin < len(buffer):
        byte = buffer[begin]
        begin += 1
        length |= (byte & ~MORE) << shift
        shift += 7
        if byte < MORE:
            if length > PACKET_BYTES_MAX:
                raise DecodeError(f"a packet of {length} bytes")
            end = begin + length
            return (buffer[at], begin, end) if end <= len(buffer) else None
        if shift > 21:  # noqa: PLR2004 - four bytes of seven bits
            raise DecodeError("a packet length of more than four bytes")
    return None
