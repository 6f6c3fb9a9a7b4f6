"""amqtt as the embedded broker's engine: our plugins, and the parts of it that we had to replace.

The plugins put authentication and the ACL on the table of `principals`. What is replaced, and why (amqtt
0.12): it gives a new client the retained messages of everybody's subscriptions; it iterates over the
subscriptions across awaits, and loses a message if one is added meanwhile; it forgets acknowledged messages
of a client that disconnects; it waits for each receiver's acknowledgement with a task apiece, without bound;
and its clean-up may end a session that has just come back. Connections come from the gate in `embedded`,
already authenticated, one per client id. Knows no sockets.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amqtt.broker import Broker, RetainedApplicationMessage
from amqtt.contexts import Action as AmqttAction
from amqtt.contexts import BaseContext, BrokerConfig, ListenerConfig, ListenerType
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import ApplicationMessage, Session

from propeller import limits
from propeller.broker.connection import Connection, Traffic
from propeller.broker.credentials import CredentialStore
from propeller.broker.principals import Action
from propeller.broker.retained import Retained, RetainedStore
from propeller.wire.filters import matches

LISTENER = "default"
_REFUSED = 0x80
_AUDIENCES_MAX = 10_000


class Credentials(BaseAuthPlugin):  # type: ignore[misc]  # amqtt has no types
    """amqtt plugin: a session is authentic if the credential store says so."""

    @dataclass
    class Config:
        """What amqtt passes to the plugin."""

        store: Any = None

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._store: CredentialStore = self.config.store

    async def authenticate(self, *, session: Session) -> bool:
        """Whether username and password fit."""
        return self._store.verify(session.username or "", session.password or "")


class Permissions(BaseTopicPlugin):  # type: ignore[misc]  # amqtt has no types
    """amqtt plugin: a topic is permitted if the session's rights say so."""

    @dataclass
    class Config:
        """What amqtt passes to the plugin."""

        connections: Any = field(default_factory=dict)

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._connections: Mapping[str, Connection] = self.config.connections

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: AmqttAction | None = None
    ) -> bool:
        """Whether the session's client may do that with that topic."""
        connection = self._connections.get(session.client_id or "") if session else None
        if connection is None or topic is None or action is None:
            return False
        return connection.rights.permits(Action(action.value), topic)


def configuration(store: CredentialStore, connections: dict[str, Connection]) -> BrokerConfig:
    """The engine's configuration: our two plugins, no others, and connections handed in from outside."""
    here = __name__
    return BrokerConfig(
        listeners={LISTENER: ListenerConfig(type=ListenerType.EXTERNAL)},
        plugins={
            f"{here}.{Credentials.__name__}": {"store": store},
            f"{here}.{Permissions.__name__}": {"connections": connections},
        },
    )


class Engine(Broker):  # type: ignore[misc]  # amqtt has no types
    """The broker proper. `connections` is shared with the gate, which alone adds to it and takes from it."""

    def __init__(
        self,
        store: CredentialStore,
        connections: dict[str, Connection],
        traffic: Traffic,
        retained: RetainedStore | None,
    ) -> None:
        super().__init__(configuration(store, connections))
        self._connections = connections
        self._traffic = traffic
        self._disk = retained
        self._audiences: dict[str, tuple[tuple[str, int], ...]] = {}
        self._closing = False

    # life ----------------------------------------------------------------------------------------------
    async def open(self) -> None:
        """Start, with the retained messages that the disk kept."""
        await self.start()
        for kept in self._disk.load() if self._disk else ():
            self._retained_messages[kept.topic] = RetainedApplicationMessage(
                None, kept.topic, kept.payload, kept.qos
            )

    def seal(self) -> None:
        """From now on nobody's last will is sent: all that still happens is our own end."""
        self._closing = True

    async def close(self) -> None:
        """Stop, once the gate has ended every connection."""
        await self.shutdown()
        if self._disk:
            await self._disk.close()

    async def accept(
        self, connection: Connection, topic: str, payload: bytes, *, qos: int, retain: bool
    ) -> None:
        """Give a client's message to everybody who may have it, without once giving up the loop."""
        self._traffic.published += 1
        if not connection.rights.permits(Action.PUBLISH, topic):
            self._traffic.denied += 1
            return
        self._fan_out(topic, payload, qos)
        if retain:
            await self.retain_message(None, topic, payload, qos)

    # amqtt's inside ------------------------------------------------------------------------------------
    async def _session_monitor(self) -> None:
        """Nothing to watch: each connection's end cleans up after itself."""

    async def _topic_filtering(self, session: Session, topic: str, action: AmqttAction) -> bool:
        """Ask the topic plugins one after the other, without a task for each."""
        for plugin in self.plugins_manager._topic_plugins:  # noqa: SLF001 - amqtt offers no other access
            if not await plugin.topic_filtering(session=session, topic=topic, action=action):
                self._traffic.denied += 1
                return False
        return True

    async def add_subscription(self, subscription: tuple[str, int], session: Session) -> int:
        """Subscribe with a quality of service of at most 1; the return code says with which, or refuses."""
        text, qos = subscription
        connection = self._connections.get(session.client_id or "")
        if connection is None:
            return _REFUSED
        if len(connection.filters | {text}) > limits.MQTT_SUBSCRIPTIONS_MAX:
            return _REFUSED
        granted: int = await super().add_subscription((text, min(qos, 1)), session)
        if granted != _REFUSED:
            connection.filters.add(text)
            self._audiences.clear()
        return granted

    def _del_subscription(self, a_filter: str, session: Session) -> int:
        self._audiences.clear()
        if connection := self._connections.get(session.client_id or ""):
            connection.filters.discard(a_filter)
        deleted: int = super()._del_subscription(a_filter, session)
        return deleted

    async def _client_message_loop(self, client_session: Session, handler: BrokerProtocolHandler) -> None:
        """Serve one client to its end; what it published before its end is still delivered."""
        inlet = self._connections[client_session.client_id].inlet
        pumps = [
            asyncio.create_task(self._pump_messages(client_session)),
            asyncio.create_task(self._pump_subscriptions(client_session, handler)),
            asyncio.create_task(self._pump_unsubscriptions(client_session, handler)),
        ]
        # The inlet's word is the surer one; the handler's own covers a failure inside amqtt.
        ends = [asyncio.ensure_future(handler.wait_disconnect()), asyncio.create_task(inlet.over.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*pumps, *ends):
                task.cancel()
            await asyncio.gather(*pumps, *ends, return_exceptions=True)
        queue = client_session.delivered_message_queue
        while not queue.empty():
            await self._route(client_session, queue.get_nowait())
        client_session.will_flag = client_session.will_flag and not inlet.said_goodbye
        await self._handle_disconnect(client_session, handler, _done(None))
        client_session.inflight_in.clear()
        if client_session.clean_session:
            await self._delete_session(client_session.client_id)

    async def _pump_messages(self, session: Session) -> None:
        while True:
            await self._route(session, await session.delivered_message_queue.get())

    async def _pump_subscriptions(self, session: Session, handler: BrokerProtocolHandler) -> None:
        while True:
            await self._handle_subscription(
                session, handler, _done(await handler.get_next_pending_subscription())
            )

    async def _pump_unsubscriptions(self, session: Session, handler: BrokerProtocolHandler) -> None:
        while True:
            asked = _done(await handler.get_next_pending_unsubscription())
            await self._handle_unsubscription(session, handler, asked)

    async def _route(self, session: Session, message: ApplicationMessage) -> None:
        """A message that came through amqtt: one of quality of service 2."""
        if connection := self._connections.get(session.client_id or ""):
            retain = bool(message.publish_packet and message.publish_packet.retain_flag)
            await self.accept(connection, message.topic, bytes(message.data), qos=message.qos, retain=retain)

    async def _broadcast_message(
        self, session: Session | None, topic: str | None, data: bytes | None, force_qos: int | None = None
    ) -> None:
        """What amqtt still sends by itself: last wills."""
        del session
        if topic and not self._closing:
            self._fan_out(topic, bytes(data or b""), force_qos or 0)

    def _fan_out(self, topic: str, payload: bytes, qos: int) -> None:
        for client_id, wanted_qos in self._audience(topic):
            if connection := self._connections.get(client_id):
                self._deliver(connection, topic, payload, qos=min(qos, wanted_qos))

    def _deliver(
        self, connection: Connection, topic: str, payload: bytes, *, qos: int, retain: bool = False
    ) -> None:
        if not connection.rights.permits(Action.RECEIVE, topic):
            self._traffic.denied += 1
        elif connection.deliver(topic, payload, qos=qos, retain=retain):
            self._traffic.delivered += 1
        else:
            self._traffic.dropped += 1

    def _audience(self, topic: str) -> tuple[tuple[str, int], ...]:
        """Each subscribed client once, with the highest quality of service that it asked for."""
        if (known := self._audiences.get(topic)) is not None:
            return known
        found: dict[str, int] = {}
        for text, subscriptions in self._subscriptions.items():
            if matches(text, topic):
                for session, qos in subscriptions:
                    found[session.client_id] = max(qos, found.get(session.client_id, 0))
        if len(self._audiences) >= _AUDIENCES_MAX:
            self._audiences.clear()
        audience = self._audiences[topic] = tuple(found.items())
        return audience

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        """Give a subscriber what is retained; amqtt also asks this for filters that are not this client's."""
        text, qos = subscription
        connection = self._connections.get(session.client_id or "")
        if connection is None or session not in (held for held, _ in self._subscriptions.get(text, ())):
            return
        for topic, kept in self._retained_messages.items():
            if matches(text, topic):
                self._deliver(
                    connection, topic, bytes(kept.data), qos=min(qos, kept.qos or 0, 1), retain=True
                )

    async def retain_message(
        self,
        source_session: Session | None,
        topic_name: str | None,
        data: bytes | bytearray | None,
        qos: int | None = None,
    ) -> None:
        """Retain, or with no data forget, a topic's message: in memory, and on disk if there is one."""
        known = topic_name in self._retained_messages
        full = len(self._retained_messages) >= limits.MQTT_RETAINED_MESSAGES_MAX
        if self._closing or not topic_name or (data and full and not known):
            return
        await super().retain_message(source_session, topic_name, data, qos)
        if self._disk and data:
            self._disk.keep(Retained(topic=topic_name, payload=bytes(data), qos=qos or 0))
        elif self._disk and known:
            self._disk.forget(topic_name)


def _done(result: Any) -> asyncio.Future[Any]:
    """A future that is done already, as amqtt's handlers want their work."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future
