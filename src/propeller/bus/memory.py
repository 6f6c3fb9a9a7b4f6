"""The in-memory twin of a broker and its clients: the same semantics, no sockets, and faults on demand.

Deterministic: it reads no clock but the running loop's, waits by the loop only, and draws no random numbers
but from the generators it is given; under a virtual clock a run replays exactly. Knows no payloads.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from propeller import limits
from propeller.bus.healing import HealingBus
from propeller.bus.inbox import Greeter, Inbox
from propeller.bus.outgoing import check_outgoing
from propeller.errors import Denied
from propeller.ports import BusSession, Message
from propeller.wire.filters import matches

Action = Literal["publish", "subscribe", "receive"]
Permits = Callable[[str, Action, str], bool]
"""Whether (client id, action, topic or filter) is permitted."""
Verify = Callable[[str, str], bool]
"""Whether (client id, password) may connect."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way to one client. `sender` is empty for a retained message."""

    sender: str
    receiver: str
    message: Message


Decide = Callable[[Delivery], Sequence[float]]
"""The fate of a delivery: after how many seconds each copy arrives; none drops it."""


def once_at_once(_delivery: Delivery) -> Sequence[float]:
    """No faults: one copy, now."""
    return (0.0,)


@dataclass(slots=True, eq=False)
class _Link:
    """One client's connection, as both sides hold it."""

    client_id: str
    inbox: Inbox
    will: Message | None
    filters: dict[str, None] = field(default_factory=dict)
    closed: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryBroker:
    """A broker in the running loop. `decide` may be replaced at any time to change the weather."""

    def __init__(
        self, *, decide: Decide = once_at_once, permits: Permits | None = None, verify: Verify | None = None
    ) -> None:
        self.decide = decide
        self.retained: dict[str, Message] = {}
        """Retained messages by topic."""
        self.denied = 0
        """Messages and subscriptions that `permits` refused."""
        self._permits = permits
        self._verify = verify
        self._links: dict[str, _Link] = {}
        self._cut_off: dict[str, object] = {}
        self._running = True

    @property
    def clients(self) -> tuple[str, ...]:
        """Who is connected, in the order of connecting."""
        return tuple(self._links)

    # faults --------------------------------------------------------------------------------------------
    def disconnect(self, client_id: str) -> None:
        """Break a client's connection and send its last will, as when its process dies; it may come back."""
        if link := self._links.get(client_id):
            self._close(link, with_will=True)

    def partition(self, client_id: str, for_s: float) -> None:
        """Let nothing pass between the client and the broker for `for_s` seconds.

        The client cannot send at once; the broker notices when the keep-alive has run out, and only then
        ends the connection and sends the last will. Healed before that, the connection goes on.
        """
        cut = self._cut_off[client_id] = object()
        loop = asyncio.get_running_loop()
        loop.call_later(for_s, self._heal, client_id, cut)
        if link := self._links.get(client_id):
            silence_s = limits.MQTT_KEEPALIVE_S * limits.MQTT_KEEPALIVE_FACTOR
            loop.call_later(silence_s, self._miss, link, cut)

    def stop(self, *, keep_retained: bool = True) -> None:
        """Go down: every connection ends, no last will is sent, nobody connects until `start`."""
        self._running = False
        for link in list(self._links.values()):
            self._close(link, with_will=False)
        if not keep_retained:
            self.retained.clear()

    def start(self) -> None:
        """Come up again."""
        self._running = True

    # what the clients do -------------------------------------------------------------------------------
    def connect(
        self, client_id: str, password: str, session: BusSession, filters: Sequence[str], inbox: Inbox
    ) -> "_Link | None":
        """A new connection with its subscriptions, ending an older one; None if the broker is out of reach.

        Raises `Denied` for bad credentials.
        """
        if not self.reaches(client_id):
            return None
        if self._verify and not self._verify(client_id, password):
            raise Denied(f"the broker refuses {client_id!r}: check its id and its API key")
        self.disconnect(client_id)
        link = self._links[client_id] = _Link(client_id, inbox, session.will)
        self.subscribe(link, filters)
        return link

    def subscribe(self, link: "_Link", filters: Sequence[str]) -> None:
        """Add to what a connection hears, and give it what is retained there."""
        if link.closed.is_set() or not self.reaches(link.client_id):
            return
        new = [text for text in filters if self._allows(link.client_id, "subscribe", text)]
        link.filters |= dict.fromkeys(new)
        for message in list(self.retained.values()):
            if any(matches(text, message.topic) for text in new):
                self._deliver("", link, message)

    def unsubscribe(self, link: "_Link", filters: Sequence[str]) -> None:
        """Take from what a connection hears."""
        if not link.closed.is_set() and self.reaches(link.client_id):
            for text in filters:
                link.filters.pop(text, None)

    def reaches(self, client_id: str) -> bool:
        """Whether the broker is up and nothing cuts this client off."""
        return self._running and client_id not in self._cut_off

    def leave(self, link: "_Link") -> None:
        """End a connection in good manner: without its last will, if the word gets through."""
        if self.reaches(link.client_id):
            link.will = None
            self._close(link, with_will=False)

    def publish(self, sender: str, message: Message) -> None:
        """Give a message to everybody who may have it; what the sender may not send is swallowed."""
        if not self._allows(sender, "publish", message.topic):
            return
        if message.retain and message.payload:
            self.retained[message.topic] = message
        elif message.retain:
            self.retained.pop(message.topic, None)
        live = Message(message.topic, message.payload)
        for link in list(self._links.values()):
            self._deliver(sender, link, live)

    # inside --------------------------------------------------------------------------------------------
    def _deliver(self, sender: str, link: _Link, message: Message) -> None:
        if not any(matches(text, message.topic) for text in link.filters):
            return
        if not self._allows(link.client_id, "receive", message.topic):
            return
        for after_s in self.decide(Delivery(sender, link.client_id, message)):
            if after_s > 0:
                asyncio.get_running_loop().call_later(after_s, self._arrive, link, message)
            else:
                self._arrive(link, message)

    def _arrive(self, link: _Link, message: Message) -> None:
        """The far end of the wire: what comes after the connection's end, or into a cut, is lost."""
        if not link.closed.is_set() and self.reaches(link.client_id):
            link.inbox.put(message)

    def _close(self, link: _Link, *, with_will: bool) -> None:
        if link.closed.is_set():
            return
        link.closed.set()
        del self._links[link.client_id]
        if with_will and link.will:
            self.publish(link.client_id, link.will)

    def _heal(self, client_id: str, cut: object) -> None:
        if self._cut_off.get(client_id) is cut:
            del self._cut_off[client_id]

    def _miss(self, link: _Link, cut: object) -> None:
        if self._cut_off.get(link.client_id) is cut:
            self._close(link, with_will=True)

    def _allows(self, client_id: str, action: Action, topic: str) -> bool:
        allowed = self._permits is None or self._permits(client_id, action, topic)
        self.denied += not allowed
        return allowed


class MemoryBus(HealingBus):
    """A client of a `MemoryBroker`, behind `ports.Bus`.

    Cancelling `run` leaves in good manner, without the last will; for a process that is killed, call the
    broker's `disconnect` first.
    """

    def __init__(self, broker: MemoryBroker, client_id: str, *, random: Random, password: str = "") -> None:
        super().__init__(random)
        self._broker = broker
        self._client_id = client_id
        self._password = password
        self._link: _Link | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._link is not None and not self._link.closed.is_set()

    async def publish(self, message: Message) -> bool:
        """See `ports.Bus.publish`. Raises `BadInput` and `TooLarge` as the MQTT client does."""
        check_outgoing(message)
        if not self.connected or not self._broker.reaches(self._client_id):
            return False
        self._broker.publish(self._client_id, message)
        # A real publish waits for its acknowledgement, and lets others run meanwhile.
        await asyncio.sleep(0)
        return True

    async def _add(self, filters: tuple[str, ...]) -> None:
        if self._link is not None:
            self._broker.subscribe(self._link, filters)

    async def _remove(self, filters: tuple[str, ...]) -> None:
        if self._link is not None:
            self._broker.unsubscribe(self._link, filters)

    async def _live_once(self, session: BusSession, on_connect: Greeter | None) -> None:
        try:
            await self._connect_once(session, on_connect)
        except Denied:
            if not self._connections:
                raise

    async def _connect_once(self, session: BusSession, on_connect: Greeter | None) -> None:
        link = self._broker.connect(
            self._client_id, self._password, session, self._filters(session), self._inbox
        )
        if link is None:
            return
        self._link = link
        self._stands(on_connect)
        try:
            await link.closed.wait()
        finally:
            self._broker.leave(link)
            self._link = None
