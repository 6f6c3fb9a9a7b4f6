"""The MQTT client behind `ports.Bus`: one connection that heals itself, on aiomqtt. Knows no payloads.

MQTT 3.1.1, quality of service 1 both ways, TCP_NODELAY (without it each acknowledged publish stalls 40 ms).
What is in flight when a connection ends is lost here and repeated above: nothing is resent from a queue.
"""

import asyncio
import contextlib
import logging
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import cast

import aiomqtt
from aiomqtt.exceptions import MqttConnectError

from propeller import limits
from propeller.bus.inbox import Greeter, Handler, Inbox
from propeller.bus.outgoing import Backoff, check_outgoing
from propeller.errors import Denied
from propeller.ports import BusSession, Message

_QOS = 1
_CONNECT_S = 10.0
_IN_FLIGHT_MAX = 64
"""Publishes that wait for their acknowledgement; aiomqtt looks through all of them for each new one."""
_NODELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
_KEEPALIVE = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
_DENIED = frozenset({4, 5, 134, 135})
"""CONNACK's "bad user name or password" and "not authorised", as 3.1.1 and as 5 number them."""
_REFUSED = 0x80
"""A SUBACK code from here on refuses the subscription."""

log = logging.getLogger(__name__)
_paho_log = logging.getLogger(f"{__name__}.paho")
_paho_log.setLevel(logging.ERROR)


class MqttBus:
    """A connection to an MQTT broker as `username`. `tls` is the context to use, None for plain TCP.

    `clean` False asks the broker to keep the session while away, which our own roles never need.
    """

    def __init__(
        self,
        host: str,
        port: int,
        username: str,
        password: str,
        client_id: str,
        *,
        random: Random,
        tls: ssl.SSLContext | None = None,
        clean: bool = True,
    ) -> None:
        self._host, self._port = host, port
        self._username, self._password = username, password
        self._client_id = client_id
        self._tls = tls
        self._clean = clean
        self._backoff = Backoff(random)
        self._inbox = Inbox()
        self._client: aiomqtt.Client | None = None
        self._publishing: set[asyncio.Timeout] = set()
        self._connections = 0

    @property
    def connected(self) -> bool:
        """Whether there is a connection whose subscriptions stand."""
        return self._client is not None

    @property
    def dropped(self) -> int:
        """Messages that arrived and were dropped: oversized, or for want of room (see `bus.inbox`)."""
        return self._inbox.dropped

    @property
    def reconnects(self) -> int:
        """Connections made after the first."""
        return max(0, self._connections - 1)

    async def run(self, session: BusSession, on_message: Handler, on_connect: Greeter | None = None) -> None:
        """See `ports.Bus.run`. `on_connect` takes its turn among the messages, never beside one."""
        await self._inbox.handle_during(self._stay_connected(session, on_connect), on_message)

    async def publish(self, message: Message) -> bool:
        """See `ports.Bus.publish`. True once the broker has acknowledged it.

        Raises `BadInput` for an unlawful topic and `TooLarge` over `limits.MQTT_MESSAGE_BYTES_MAX`.
        """
        check_outgoing(message)
        client = self._client
        if client is None:
            return False
        try:
            async with asyncio.timeout(limits.MQTT_PUBLISH_S) as scope:
                self._publishing.add(scope)
                try:
                    await client.publish(
                        message.topic, message.payload, qos=_QOS, retain=message.retain, timeout=math.inf
                    )
                finally:
                    self._publishing.discard(scope)
        except (aiomqtt.MqttError, TimeoutError):
            return False
        return True

    async def _stay_connected(self, session: BusSession, on_connect: Greeter | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            connections = self._connections
            try:
                await self._connect_once(session, on_connect)
            except MqttConnectError as error:
                if _is_denial(error) and not self._connections:
                    raise Denied(
                        f"the MQTT broker at {self._host}:{self._port} refuses {self._username!r} ({error}): "
                        "check the client id and its API key, and that the broker has these credentials"
                    ) from error
                self._report(error)
            except aiomqtt.MqttError as error:
                self._report(error)
            lasted_s = loop.time() - began_s if self._connections > connections else 0.0
            await asyncio.sleep(self._backoff.next_s(lasted_s))

    def _report(self, error: aiomqtt.MqttError) -> None:
        log.info("no connection to the MQTT broker at %s:%d: %s", self._host, self._port, error)

    async def _connect_once(self, session: BusSession, on_connect: Greeter | None) -> None:
        """One connection from its beginning to its end, which raises `MqttError`."""
        async with _connection(self._new_client(session)) as client:
            if session.subscriptions:
                await self._subscribe(client, session.subscriptions)
            self._client = client
            self._connections += 1
            if on_connect:
                self._inbox.greet(on_connect)
            try:
                # Messages go to the inbox as they arrive (see `_Funnel`); this waits for the end only.
                async for _ in client.messages:
                    pass
            finally:
                self._client = None
                self._give_up_publishing()

    async def _subscribe(self, client: aiomqtt.Client, filters: tuple[str, ...]) -> None:
        codes = await client.subscribe([(text, _QOS) for text in filters], timeout=_CONNECT_S)
        for text, code in zip(filters, codes, strict=True):
            if _value(code) >= _REFUSED:
                # Another's broker may grant less than ours; what was granted is worth having.
                log.error("the MQTT broker does not let %s subscribe to %s", self._username, text)

    def _give_up_publishing(self) -> None:
        """Let publishes that wait for an acknowledgement know that none will come."""
        now_s = asyncio.get_running_loop().time()
        for scope in self._publishing:
            scope.reschedule(now_s)

    def _new_client(self, session: BusSession) -> aiomqtt.Client:
        client = aiomqtt.Client(
            self._host,
            self._port,
            username=self._username,
            password=self._password,
            identifier=self._client_id,
            logger=_paho_log,
            queue_type=cast("type[asyncio.Queue[aiomqtt.Message]]", self._funnel()),
            will=_will(session.will),
            clean_session=self._clean,
            timeout=_CONNECT_S,
            keepalive=limits.MQTT_KEEPALIVE_S,
            max_inflight_messages=_IN_FLIGHT_MAX,
            max_concurrent_outgoing_calls=_IN_FLIGHT_MAX,
            tls_context=self._tls,
            socket_options=(_NODELAY, _KEEPALIVE),
        )
        client.pending_calls_threshold = _IN_FLIGHT_MAX
        return client

    def _funnel(self) -> Callable[..., asyncio.Queue[aiomqtt.Message]]:
        return lambda maxsize: _Funnel(self._inbox, maxsize)


class _Funnel(asyncio.Queue[aiomqtt.Message]):
    """aiomqtt's queue, which stays empty: what arrives goes straight on to the inbox."""

    def __init__(self, inbox: Inbox, maxsize: int) -> None:
        super().__init__(maxsize)
        self._inbox = inbox

    def put_nowait(self, item: aiomqtt.Message) -> None:
        payload = item.payload if isinstance(item.payload, bytes) else bytes(str(item.payload), "utf-8")
        self._inbox.put(Message(item.topic.value, payload, item.retain))


@contextlib.asynccontextmanager
async def _connection(client: aiomqtt.Client) -> AsyncIterator[aiomqtt.Client]:
    """Connect, disconnect in good manner if there is still a connection, close the socket in any case."""
    try:
        await _enter(client)
        try:
            yield client
        finally:
            with contextlib.suppress(aiomqtt.MqttError):
                await client.__aexit__(None, None, None)
    finally:
        # aiomqtt leaves the socket of a connection that failed half-way to the garbage collector.
        client._client._sock_close()  # noqa: SLF001


async def _enter(client: aiomqtt.Client) -> None:
    """Connect. If cancelled, wait until the connecting thread is done, or it would leave its socket open."""
    entering = asyncio.ensure_future(client.__aenter__())
    try:
        await asyncio.shield(entering)
    except asyncio.CancelledError:
        connected = client._connected  # noqa: SLF001 - the broker's answer need not be waited for
        if not connected.done():
            connected.set_exception(aiomqtt.MqttError("given up"))
        with contextlib.suppress(aiomqtt.MqttError):
            await entering
        raise


def _will(message: Message | None) -> aiomqtt.Will | None:
    if message is None:
        return None
    return aiomqtt.Will(message.topic, message.payload, qos=_QOS, retain=message.retain)


def _is_denial(error: MqttConnectError) -> bool:
    return error.rc is not None and _value(error.rc) in _DENIED


def _value(code: object) -> int:
    """A return code as a number, whether paho made a `ReasonCode` of it or not."""
    return int(getattr(code, "value", code))  # type: ignore[call-overload,no-any-return]
