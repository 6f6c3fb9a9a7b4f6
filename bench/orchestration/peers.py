"""Clients that cost little: an HTTP connection kept alive, and an MQTT 3.1.1 client. Sockets are real.

They stand for users and for fleets where neither is what is measured; they must not know what they are sent.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import httptools


class HttpConnection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, port: int) -> None:
        self._head = f"host: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n".encode()
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()

    @classmethod
    async def open(cls, port: int) -> "HttpConnection":
        """A connection to a port of this machine."""
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: cls(port), "127.0.0.1", port)
        return made

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer."""
        if self._transport is None:
            raise ConnectionError("closed")
        self._waiting = asyncio.get_running_loop().create_future()
        first = f"{method} {path} HTTP/1.1\r\ncontent-length: {len(body)}\r\n".encode()
        self._transport.write(first + self._head + b"\r\n" + body)
        return await self._waiting

    async def json(self, method: str, path: str, body: object = None, *, status: int = 200) -> Any:
        """The answer's JSON; raises `RuntimeError` for any other status."""
        sent = b"" if body is None else json.dumps(body).encode()
        got, answer = await self.request(method, path, sent)
        if got != status:
            raise RuntimeError(f"{method} {path} answered {got}: {answer[:300].decode()}")
        return json.loads(answer) if answer else None

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc or ConnectionError("the server hung up"))

    def on_body(self, body: bytes) -> None:
        """See `httptools`."""
        self._body += body

    def on_message_complete(self) -> None:
        """See `httptools`."""
        answer, self._body = bytes(self._body), bytearray()
        if self._waiting is not None:
            self._waiting.set_result((self._parser.get_status_code(), answer))
        self._parser = httptools.HttpResponseParser(self)


Heard = Callable[[str, bytes], None]


class MqttConnection(asyncio.Protocol):
    """A client with one subscription; quality of service 1 both ways. `on_message` gets topic and payload."""

    def __init__(self, client_id: str, password: str, subscription: str, on_message: Heard) -> None:
        self._hello = _connect(client_id, password)
        self._subscribe = _packet(0x82, b"\0\1" + _text(subscription) + b"\1")
        self._on_message = on_message
        self._buffer = b""
        self._packet_id = 1
        self._transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message; its acknowledgement is not waited for."""
        if self._transport is not None:
            self._packet_id = self._packet_id % 65_535 + 1
            self._transport.write(_packet(0x32, _text(topic) + self._packet_id.to_bytes(2, "big") + payload))

    def ping(self) -> None:
        """Say that it is still there."""
        if self._transport is not None:
            self._transport.write(b"\xc0\0")

    def close(self) -> None:
        """Disconnect in good manner."""
        if self._transport is not None:
            self._transport.write(b"\xe0\0")
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._hello)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("the broker hung up"))

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        buffer = self._buffer + data
        at = 0
        while (found := _frame(buffer, at)) is not None:
            first, begin, end = found
            self._take(first, buffer[begin:end])
            at = end
        self._buffer = buffer[at:]

    def _take(self, first: int, body: bytes) -> None:
        if self._transport is None:
            return
        kind = first >> 4
        if kind == 3:  # noqa: PLR2004 - PUBLISH
            size = int.from_bytes(body[:2], "big")
            topic, rest = body[2 : 2 + size].decode(), body[2 + size :]
            if first & 6:
                self._transport.write(b"\x40\x02" + rest[:2])
                rest = rest[2:]
            self._on_message(topic, rest)
        elif kind == 2:  # noqa: PLR2004 - CONNACK
            if body[1]:
                self._transport.close()
                return
            self._transport.write(self._subscribe)
        elif kind == 9 and not self.ready.done():  # noqa: PLR2004 - SUBACK
            self.ready.set_result(None)


async def join(
    port: int, client_id: str, password: str, subscription: str, on_message: Heard
) -> MqttConnection:
    """A client that is connected and subscribed."""
    loop = asyncio.get_running_loop()
    _, made = await loop.create_connection(
        lambda: MqttConnection(client_id, password, subscription, on_message), "127.0.0.1", port
    )
    await made.ready
    return made


def _connect(client_id: str, password: str) -> bytes:
    head = _text("MQTT") + b"\4\xc2" + (60).to_bytes(2, "big")
    return _packet(0x10, head + _text(client_id) + _text(client_id) + _text(password))


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw


def _packet(first: int, body: bytes) -> bytes:
    length, left = bytearray(), len(body)
    while left > 127:  # noqa: PLR2004 - seven bits a byte
        length.append(left & 127 | 128)
        left >>= 7
    length.append(left)
    return bytes((first,)) + bytes(length) + body


def _frame(buffer: bytes, at: int) -> tuple[int, int, int] | None:
    """First byte, begin and end of the body of the packet at `at`; None while it is not whole."""
    length = shift = 0
    begin = at + 1
    while begin < len(buffer):
        byte = buffer[begin]
        begin += 1
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:  # noqa: PLR2004 - the last byte of the length
            end = begin + length
            return (buffer[at], begin, end) if end <= len(buffer) else None
    return None
