"""What the MQTT client and its twin do alike: connect again and again. It knows no connection itself."""

import asyncio
from abc import ABC, abstractmethod
from random import Random

from propeller.bus.inbox import Greeter, Handler, Inbox
from propeller.bus.outgoing import Backoff
from propeller.ports import BusSession


class HealingBus(ABC):
    """Connections one after the other, with pauses between them, and one inbox for all that they bring."""

    def __init__(self, random: Random) -> None:
        self._backoff = Backoff(random)
        self._inbox = Inbox()
        self._connections = 0
        self._added: dict[str, None] = {}
        """Filters beyond those of the session, in the order of asking."""

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

    async def subscribe(self, *filters: str) -> None:
        """See `ports.Bus.subscribe`."""
        self._added |= dict.fromkeys(filters)
        await self._add(filters)

    async def unsubscribe(self, *filters: str) -> None:
        """See `ports.Bus.unsubscribe`."""
        for text in filters:
            self._added.pop(text, None)
        await self._remove(filters)

    def _filters(self, session: BusSession) -> tuple[str, ...]:
        """What a new connection subscribes to."""
        return (*session.subscriptions, *self._added)

    async def _stay_connected(self, session: BusSession, on_connect: Greeter | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            connections = self._connections
            await self._live_once(session, on_connect)
            lasted_s = loop.time() - began_s if self._connections > connections else 0.0
            await asyncio.sleep(self._backoff.next_s(lasted_s))

    @abstractmethod
    async def _live_once(self, session: BusSession, on_connect: Greeter | None) -> None:
        """One connection from its beginning to its end; raises only `Denied`, and only before the first."""

    @abstractmethod
    async def _add(self, filters: tuple[str, ...]) -> None:
        """Subscribe on the connection, if there is one."""

    @abstractmethod
    async def _remove(self, filters: tuple[str, ...]) -> None:
        """Unsubscribe on the connection, if there is one."""

    def _stands(self, on_connect: Greeter | None) -> None:
        """Count a connection whose subscriptions stand, and have it greeted in its turn."""
        self._connections += 1
        if on_connect:
            self._inbox.greet(on_connect)
