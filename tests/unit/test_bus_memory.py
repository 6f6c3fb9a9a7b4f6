"""The in-memory broker's faults, under a virtual clock: hours pass at once and every run is the same."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import pytest

from propeller import limits
from propeller.bus.memory import Delivery, MemoryBroker, MemoryBus
from propeller.ports import BusSession, Message


class _Jump(selectors.SelectSelector):
    """Instead of waiting for the next timer, moves the loop's clock there."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.now_s += timeout or 0.0
        return super().select(0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jump = _Jump()
        super().__init__(self.jump)

    def time(self) -> float:
        return self.jump.now_s


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Run a scene in virtual time."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        runner.run(scene())


class Peer:
    """A client that remembers what it heard, and when."""

    def __init__(self, broker: MemoryBroker, name: str, *filters: str, will: Message | None = None) -> None:
        self.bus = MemoryBus(broker, name, random=Random(name))  # noqa: S311
        self.heard: list[tuple[float, str, bytes]] = []
        self.greetings = 0
        self.task = asyncio.create_task(
            self.bus.run(BusSession(subscriptions=filters, will=will), self._hear, self._greet)
        )

    async def _hear(self, message: Message) -> None:
        self.heard.append((asyncio.get_running_loop().time(), message.topic, message.payload))

    async def _greet(self) -> None:
        self.greetings += 1

    @property
    def payloads(self) -> list[bytes]:
        """What was heard, without when and where."""
        return [payload for _, _, payload in self.heard]


WILL = Message("wills/p", b"gone")


def test_copies_arrive_when_the_weather_says() -> None:
    """A delivery is dropped, doubled or delayed exactly as decided, and later copies do not overtake time."""

    async def scene() -> None:
        fates: dict[bytes, Sequence[float]] = {b"a": (), b"b": (0.0, 2.0, 5.0), b"c": (1.0,)}
        seen: list[Delivery] = []

        def decide(delivery: Delivery) -> Sequence[float]:
            seen.append(delivery)
            return fates[delivery.message.payload]

        broker = MemoryBroker(decide=decide)
        sender, receiver = Peer(broker, "s"), Peer(broker, "r", "t/#")
        await asyncio.sleep(1)
        for payload in (b"a", b"b", b"c"):
            assert await sender.bus.publish(Message("t/x", payload))
        await asyncio.sleep(10)
        assert [(at, payload) for at, _, payload in receiver.heard] == [
            (1, b"b"),
            (2, b"c"),
            (3, b"b"),
            (6, b"b"),
        ]
        assert [(delivery.sender, delivery.receiver) for delivery in seen] == [("s", "r")] * 3

    play(scene)


def test_a_delayed_copy_dies_with_its_connection() -> None:
    """What is on the wire when a connection ends does not arrive on the next one."""

    async def scene() -> None:
        broker = MemoryBroker(decide=lambda _: (5.0,))
        sender, receiver = Peer(broker, "s"), Peer(broker, "r", "t")
        await asyncio.sleep(1)
        await sender.bus.publish(Message("t", b"x"))
        broker.disconnect("r")
        await asyncio.sleep(20)
        assert receiver.bus.connected
        assert receiver.payloads == []

    play(scene)


def test_a_disconnect_sends_the_will_and_the_client_comes_back() -> None:
    """A broken connection sends the last will at once; the client reconnects, subscribes and greets again."""

    async def scene() -> None:
        broker = MemoryBroker()
        watcher, peer = Peer(broker, "w", "wills/#"), Peer(broker, "p", "t", will=WILL)
        await asyncio.sleep(1)
        broker.disconnect("p")
        assert not await peer.bus.publish(Message("t", b"lost"))
        await asyncio.sleep(limits.MQTT_RECONNECT_MAX_S)
        assert [at for at, _, _ in watcher.heard] == [1]
        assert (peer.bus.reconnects, peer.greetings) == (1, 2)
        await watcher.bus.publish(Message("t", b"again"))
        await asyncio.sleep(1)
        assert peer.payloads == [b"again"]

    play(scene)


def test_a_short_partition_heals_by_itself() -> None:
    """Cut for less than the keep-alive: what was sent meanwhile is lost, the connection goes on, no will."""

    async def scene() -> None:
        broker = MemoryBroker()
        watcher, peer = Peer(broker, "w", "wills/#", "t"), Peer(broker, "p", "t", will=WILL)
        await asyncio.sleep(1)
        broker.partition("p", 10.0)
        assert not await peer.bus.publish(Message("t", b"from inside"))
        assert await watcher.bus.publish(Message("t", b"from outside"))
        await asyncio.sleep(11)
        assert await peer.bus.publish(Message("t", b"healed"))
        await asyncio.sleep(60)
        assert watcher.payloads == [b"from outside", b"healed"]
        assert peer.payloads == [b"healed"]
        assert peer.bus.reconnects == 0

    play(scene)


def test_a_long_partition_ends_the_connection_when_the_keep_alive_has_run_out() -> None:
    """The broker notices after one and a half keep-alives and sends the will; the client returns later."""

    async def scene() -> None:
        broker = MemoryBroker()
        watcher, peer = Peer(broker, "w", "wills/#"), Peer(broker, "p", "t", will=WILL)
        await asyncio.sleep(1)
        broker.partition("p", 300.0)
        await asyncio.sleep(299)
        assert [at for at, _, _ in watcher.heard] == [
            1 + limits.MQTT_KEEPALIVE_S * limits.MQTT_KEEPALIVE_FACTOR
        ]
        assert not peer.bus.connected
        await asyncio.sleep(1 + limits.MQTT_RECONNECT_MAX_S)
        assert peer.bus.connected
        assert peer.bus.reconnects == 1

    play(scene)


def test_a_second_partition_outlives_the_first_ones_end() -> None:
    """Partitions that overlap last until the later one was to end."""

    async def scene() -> None:
        broker = MemoryBroker()
        peer = Peer(broker, "p")
        await asyncio.sleep(1)
        broker.partition("p", 5.0)
        broker.partition("p", 20.0)
        await asyncio.sleep(10)
        assert not broker.reaches("p")
        await asyncio.sleep(11)
        assert broker.reaches("p")
        assert peer.bus.connected

    play(scene)


@pytest.mark.parametrize("keep", [True, False])
def test_a_restart_keeps_or_loses_the_retained(*, keep: bool) -> None:
    """Clients come back after a restart without wills; retained messages are there if they were kept."""

    async def scene() -> None:
        broker = MemoryBroker()
        peer = Peer(broker, "p", "r/#", will=WILL)
        watcher = Peer(broker, "w", "wills/#")
        await asyncio.sleep(1)
        await peer.bus.publish(Message("r/1", b"kept", retain=True))
        broker.stop(keep_retained=keep)
        await asyncio.sleep(1)
        assert broker.clients == ()
        broker.start()
        await asyncio.sleep(limits.MQTT_RECONNECT_MAX_S)
        assert set(broker.clients) == {"p", "w"}
        assert peer.payloads == [b"kept"] * (2 if keep else 1)
        assert watcher.payloads == []

    play(scene)


def test_a_run_replays_exactly() -> None:
    """The same seeds give the same story to the last instant, reconnection jitter included."""

    def story() -> list[tuple[float, str, bytes]]:
        heard: list[tuple[float, str, bytes]] = []

        async def scene() -> None:
            weather = Random(7)  # noqa: S311
            broker = MemoryBroker(
                decide=lambda _: [weather.expovariate(1.0) for _ in range(weather.randrange(3))]
            )
            peers = [Peer(broker, f"p{n}", "t/#", will=Message(f"t/will{n}", b"")) for n in range(4)]
            for turn in range(50):
                await asyncio.sleep(weather.random())
                await peers[turn % 4].bus.publish(Message(f"t/{turn}", b"x"))
                if not turn % 7:
                    broker.disconnect(f"p{weather.randrange(4)}")
            heard.extend(peers[0].heard)

        play(scene)
        return heard

    first = story()
    assert len(first) > 10
    assert story() == first
