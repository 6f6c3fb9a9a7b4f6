"""What every bus promises (`ports.Bus`), on the memory twin, the embedded broker and Mosquitto."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker_hubs import Hub, Peer, T, open_hub
from propeller import limits
from propeller.errors import BadInput, Denied, TooLarge
from propeller.ports import BusSession, Message

RESULTS = T.from_proplet("results", "p1")
MODEL = f"{T.base}/fl/models/global_model_v1"
WILL = Message(T.from_proplet("alive", "p1"), b'{"status":"offline"}')


@pytest.fixture(params=["memory", "embedded", "mosquitto"])
async def hub(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Hub]:
    """A broker of each kind."""
    async with open_hub(request.param, tmp_path) as hub:
        yield hub


async def _manager(hub: Hub) -> Peer:
    return await hub.join("m1", f"{T.base}/#").ready()


async def test_messages_arrive_in_order(hub: Hub) -> None:
    """One sender's messages arrive all and in order, awaited one by one or published at once."""
    manager, proplet = await _manager(hub), await hub.join("p1").ready()
    for number in range(50):
        assert await proplet.bus.publish(Message(RESULTS, b"%d" % number))
    sent = [proplet.bus.publish(Message(RESULTS, b"%d" % number)) for number in range(50, 300)]
    assert all(await asyncio.gather(*sent))
    await manager.hears(b"299")
    assert manager.heard == [Message(RESULTS, b"%d" % number) for number in range(300)]


async def test_without_a_connection_publish_is_false(hub: Hub) -> None:
    """Nothing is queued for later: before the connection and after it, publish says False."""
    bus = hub.bus("p1")
    assert not await bus.publish(Message(RESULTS, b"early"))
    manager, proplet = await _manager(hub), await hub.join("p1").ready()
    await proplet.leave()
    assert not await proplet.bus.publish(Message(RESULTS, b"late"))
    second = await hub.join("p1").ready()
    assert await second.bus.publish(Message(RESULTS, b"now"))
    await manager.hears(b"now")
    assert [message.payload for message in manager.heard] == [b"now"]


async def test_retained_messages_wait_for_subscribers(hub: Hub) -> None:
    """A retained message is marked for who comes later, not for who is there, until it is cleared."""
    coordinator = await hub.join("c1", f"{T.base}/fl/#").ready()
    await coordinator.bus.publish(Message(MODEL, b"old", retain=True))
    await coordinator.bus.publish(Message(MODEL, b"new", retain=True))
    await coordinator.hears(b"new")
    assert [message.retain for message in coordinator.heard] == [False, False]
    proplet = hub.join("p1", f"{T.base}/fl/models/#")
    await proplet.hears(b"new")
    assert proplet.heard == [Message(MODEL, b"new", retain=True)]
    await coordinator.bus.publish(Message(MODEL, b"", retain=True))
    await coordinator.hears(b"")
    other = await hub.join("p2", f"{T.base}/fl/models/#").ready()
    await coordinator.bus.publish(Message(MODEL, b"live"))
    await other.hears(b"live")
    assert other.heard == [Message(MODEL, b"live")]


async def test_more_can_be_heard_for_a_while(hub: Hub) -> None:
    """A subscription of later brings what is retained, again at each asking; it stands over reconnects.

    Once given up, and for another's topics, nothing comes.
    """
    coordinator = await hub.join("c1").ready()
    await coordinator.bus.publish(Message(MODEL, b"retained", retain=True))
    proplet = await hub.join("p1").ready()
    await proplet.bus.subscribe(MODEL, f"{T.base}/control/manager/+/p2")
    await proplet.hears(b"retained")
    await proplet.bus.subscribe(MODEL)
    await proplet.until(lambda: len(proplet.heard) == 2)
    hub.cut(proplet)
    await proplet.until(lambda: len(proplet.heard) == 3)
    await coordinator.bus.publish(Message(MODEL, b"live"))
    await proplet.hears(b"live")
    await proplet.bus.unsubscribe(MODEL)
    await proplet.bus.subscribe(T.round_verdict("r", "p1"))
    manager = await hub.join("m1").ready()
    await manager.bus.publish(Message(T.from_manager("start", "p2"), b"another's"))
    await coordinator.bus.publish(Message(MODEL, b"missed"))
    await coordinator.bus.publish(Message(T.round_verdict("r", "p1"), b"sentinel"))
    await proplet.hears(b"sentinel")
    assert [one.payload for one in proplet.heard] == [b"retained"] * 3 + [b"live", b"sentinel"]


async def test_nobody_gets_retained_messages_unasked(hub: Hub) -> None:
    """What others subscribed to is not given to a newcomer that did not."""
    coordinator = await hub.join("c1", f"{T.base}/fl/#").ready()
    await coordinator.bus.publish(Message(MODEL, b"retained", retain=True))
    await coordinator.hears(b"retained")
    proplet = await hub.join("p1", *T.proplet_subscriptions("p1")).ready()
    manager = await hub.join("m1").ready()
    await manager.bus.publish(Message(T.from_manager("ack", "p1"), b"sentinel"))
    await proplet.hears(b"sentinel")
    assert [message.payload for message in proplet.heard] == [b"sentinel"]


async def test_a_broken_connection_sends_the_will_and_heals(hub: Hub) -> None:
    """The last will is sent; the client returns with its subscriptions, greets again, and counts it.

    Defect 4.8 of the original.
    """
    manager = await _manager(hub)
    proplet = await hub.join("p1", *T.proplet_subscriptions("p1"), will=WILL).ready()
    assert proplet.bus.reconnects == 0
    hub.cut(proplet)
    assert await manager.hears(WILL.payload) == WILL
    await proplet.until(lambda: proplet.greetings == 2)
    assert proplet.bus.reconnects == 1
    await manager.bus.publish(Message(T.from_manager("start", "p1"), b"order"))
    await proplet.hears(b"order")


async def test_leaving_in_good_manner_sends_no_will(hub: Hub) -> None:
    """Cancelling run is a farewell, not a death."""
    manager = await _manager(hub)
    await (await hub.join("p1", will=WILL).ready()).leave()
    second = await hub.join("p1").ready()
    await second.bus.publish(Message(RESULTS, b"sentinel"))
    await manager.hears(b"sentinel")
    assert [message.payload for message in manager.heard] == [b"sentinel"]


async def test_a_will_beyond_ones_rights_is_not_sent(hub: Hub) -> None:
    """A last will is a publication like any other: nobody dies in another's name."""
    manager = await _manager(hub)
    forged = Message(T.from_proplet("alive", "p2"), b"forged")
    proplet = await hub.join("p1", will=forged).ready()
    hub.cut(proplet)
    await proplet.until(lambda: proplet.greetings == 2)
    await proplet.bus.publish(Message(RESULTS, b"sentinel"))
    await manager.hears(b"sentinel")
    assert [message.payload for message in manager.heard] == [b"sentinel"]


async def test_a_newer_connection_of_the_same_client_wins(hub: Hub) -> None:
    """Two with one identity do not coexist: the older is cut off with its will, the newer works at once."""
    manager = await _manager(hub)
    older = await hub.join("p1", will=WILL).ready()
    newer = hub.join("p1", *T.proplet_subscriptions("p1"))
    await manager.hears(WILL.payload)
    await older.leave()
    async with asyncio.timeout(10):
        while not await newer.bus.publish(Message(RESULTS, b"from the newer")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # it may be waiting to reconnect; nothing tells when it has
    await manager.hears(b"from the newer")


@pytest.mark.parametrize(("name", "key"), [("p1", "wrong"), ("p1", ""), ("stranger", "wrong")])
async def test_bad_credentials_are_denied(hub: Hub, name: str, key: str) -> None:
    """At the first connection, bad credentials end the run with a message that says who was refused."""

    async def never(_message: Message) -> None:
        pytest.fail("a refused client heard something")

    async with asyncio.timeout(10):
        with pytest.raises(Denied, match=f"'{name}'"):
            await hub.bus(name, key).run(BusSession(subscriptions=("#",)), never)


async def test_messages_of_any_lawful_size_pass(hub: Hub) -> None:
    """An empty message and one at the limit arrive; one byte more is refused before it is sent."""
    manager, proplet = await _manager(hub), await hub.join("p1").ready()
    largest = bytes(limits.MQTT_MESSAGE_BYTES_MAX)
    assert await proplet.bus.publish(Message(RESULTS, b""))
    assert await proplet.bus.publish(Message(RESULTS, largest))
    await manager.hears(largest)
    assert [len(message.payload) for message in manager.heard] == [0, len(largest)]
    with pytest.raises(TooLarge, match=str(len(largest) + 1)):
        await proplet.bus.publish(Message(RESULTS, largest + b"x"))


@pytest.mark.parametrize("topic", ["", "a/+", "a/#", "a\0"])
async def test_topics_with_wildcards_are_bad_input(hub: Hub, topic: str) -> None:
    """A topic that nobody may publish on is the caller's mistake, connected or not."""
    with pytest.raises(BadInput, match="not a topic"):
        await hub.bus("p1").publish(Message(topic, b"x"))


async def test_handlers_run_one_at_a_time_and_in_turn(hub: Hub) -> None:
    """However slow a handler is, the next message waits for it, and the greeting comes before both."""
    proplet = await hub.join("p1").ready()
    running, story, finished = 0, [], asyncio.Event()

    async def on_message(message: Message) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0.002)
        story.append(message.payload)
        running -= 1
        if len(story) == 40:
            finished.set()

    greeted = asyncio.Event()

    async def on_connect() -> None:
        assert running == 0
        assert not story
        greeted.set()

    task = asyncio.create_task(
        hub.bus("m1").run(BusSession(subscriptions=(f"{T.base}/#",)), on_message, on_connect)
    )
    await greeted.wait()
    await asyncio.gather(*(proplet.bus.publish(Message(RESULTS, b"%d" % number)) for number in range(40)))
    async with asyncio.timeout(10):
        await finished.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert story == [b"%d" % number for number in range(40)]


async def test_a_handlers_error_ends_the_run(hub: Hub) -> None:
    """A programming error in a handler is raised from run, not swallowed."""

    async def on_message(_message: Message) -> None:
        raise ZeroDivisionError

    proplet = await hub.join("p1").ready()
    connected = asyncio.Event()

    async def on_connect() -> None:
        connected.set()

    task = asyncio.create_task(
        hub.bus("m1").run(BusSession(subscriptions=(f"{T.base}/#",)), on_message, on_connect)
    )
    await connected.wait()
    await proplet.bus.publish(Message(RESULTS, b"x"))
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(10):
            await task
