"""Three brokers behind one face, for the suites of the buses and of the ACL. Not a test itself."""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from propeller.broker.credentials import CredentialStore
from propeller.broker.embedded import EmbeddedBroker
from propeller.broker.mosquitto import MosquittoProcess
from propeller.broker.principals import Action, Kind
from propeller.bus.memory import MemoryBroker, MemoryBus
from propeller.bus.mqtt import MqttBus
from propeller.errors import NotFound
from propeller.ports import BusSession, Message
from propeller.wire.topics import Topics

T = Topics("dom", "ch")
PRINCIPALS = {
    "m1": Kind.MANAGER,
    "c1": Kind.COORDINATOR,
    "p1": Kind.PROPLET,
    "p2": Kind.PROPLET,
    "l1": Kind.LEGACY_PROPLET,
    "l2": Kind.LEGACY_PROPLET,
    "o1": Kind.OPERATOR,
}
"""Who exists on every hub."""
DEADLINE_S = 20.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def need_mosquitto() -> None:
    """Skip without Mosquitto."""
    if not shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"):
        pytest.skip("missing Debian package: mosquitto")


class Peer:
    """A bus that runs in the background and remembers what it heard."""

    def __init__(self, bus: Any, *filters: str, will: Message | None = None) -> None:
        self.bus = bus
        self.heard: list[Message] = []
        self.greetings = 0
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(
            bus.run(BusSession(subscriptions=filters, will=will), self._hear, self._greet)
        )

    async def _hear(self, message: Message) -> None:
        self.heard.append(message)
        self._changed.set()

    async def _greet(self) -> None:
        self.greetings += 1
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that changes with what is heard."""
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                if self.task.done():
                    await self.task
                self._changed.clear()
                await self._changed.wait()

    async def ready(self) -> "Peer":
        """Wait for the first connection."""
        await self.until(lambda: self.greetings > 0)
        return self

    async def hears(self, payload: bytes) -> Message:
        """Wait for a message with this payload."""
        await self.until(lambda: any(message.payload == payload for message in self.heard))
        return next(message for message in self.heard if message.payload == payload)

    async def leave(self) -> None:
        """End the run in good manner."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


class Hub:
    """A broker with the principals above, and peers on it that end with the test."""

    def __init__(self, store: CredentialStore) -> None:
        self.store = store
        self.keys = {name: store.add(kind, name) for name, kind in PRINCIPALS.items()}
        self.peers: list[Peer] = []
        self.address = ("", 0)
        self.embedded: EmbeddedBroker | None = None

    def bus(self, name: str, key: str | None = None) -> Any:
        """A new bus as `name`."""
        key = self.keys.get(name, "") if key is None else key
        return MqttBus(*self.address, name, key, name, random=Random(name))  # noqa: S311

    def cut(self, peer: Peer) -> None:
        """Break the peer's connection as a failing network does."""
        peer.bus._link.socket.shutdown(socket.SHUT_RDWR)

    def join(self, name: str, *filters: str, will: Message | None = None) -> Peer:
        """A running peer as `name`."""
        peer = Peer(self.bus(name), *filters, will=will)
        self.peers.append(peer)
        return peer

    async def close(self) -> None:
        """Let every peer leave."""
        await asyncio.gather(*(peer.leave() for peer in self.peers if not peer.task.done()))


class MemoryHub(Hub):
    """The in-memory twin, with the same credentials and rights."""

    def __init__(self, store: CredentialStore) -> None:
        super().__init__(store)
        self.broker = MemoryBroker(permits=self._permits, verify=store.verify)

    def _permits(self, client_id: str, action: str, topic: str) -> bool:
        if (rights := self.store.rights(client_id)) is None:
            raise NotFound(client_id)
        return rights.permits(Action(action), topic)

    def bus(self, name: str, key: str | None = None) -> Any:
        """A new bus as `name`."""
        key = self.keys.get(name, "") if key is None else key
        return MemoryBus(self.broker, name, random=Random(name), password=key)  # noqa: S311

    def cut(self, peer: Peer) -> None:
        """Break the peer's connection."""
        self.broker.disconnect(peer.bus._client_id)


@contextlib.asynccontextmanager
async def open_hub(kind: str, directory: Path) -> AsyncIterator[Hub]:
    """A hub of this kind: memory, embedded or mosquitto."""
    store = CredentialStore.create(directory / "credentials", T.domain, T.channel)
    async with contextlib.AsyncExitStack() as stack:
        if kind == "memory":
            hub: Hub = MemoryHub(store)
        else:
            hub = Hub(store)
            if kind == "mosquitto":
                need_mosquitto()
                broker: Any = MosquittoProcess(store, directory / "mosquitto", port=free_port())
            else:
                broker = hub.embedded = EmbeddedBroker(store, port=0)
            await stack.enter_async_context(broker)
            hub.address = ("127.0.0.1", broker.port)
        stack.push_async_callback(hub.close)
        yield hub
