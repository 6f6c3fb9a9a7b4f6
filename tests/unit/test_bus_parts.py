"""The parts of both buses: addresses, the inbox's order and overflow, the backoff."""

import asyncio
from random import Random

import pytest

from propeller import limits
from propeller.bus.address import Address, parse_address
from propeller.bus.inbox import Inbox, is_heartbeat
from propeller.bus.outgoing import Backoff
from propeller.errors import BadInput
from propeller.ports import Message

ALIVE = "m/d/c/c/control/proplet/alive/p1"
RESULT = "m/d/c/c/control/proplet/results/p1"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://broker:1884", Address(host="broker", port=1884)),
        ("mqtt://broker", Address(host="broker", port=1883)),
        ("MQTT://broker/", Address(host="broker", port=1883)),
        ("ssl://broker", Address(host="broker", port=8883, tls=True)),
        ("tls://broker:1", Address(host="broker", port=1, tls=True)),
        ("mqtts://10.0.0.1:8884", Address(host="10.0.0.1", port=8884, tls=True)),
        ("broker:1884", Address(host="broker", port=1884)),
        ("broker", Address(host="broker", port=1883)),
        (" localhost ", Address(host="localhost", port=1883)),
        ("[::1]:1884", Address(host="::1", port=1884)),
        ("[fe80::1]", Address(host="fe80::1", port=1883)),
        ("tls://[::1]", Address(host="::1", port=8883, tls=True)),
    ],
)
def test_addresses_people_write(text: str, address: Address) -> None:
    """Every documented form is read, and an address reads back from its own text."""
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tcp://",
        ":1883",
        "http://h",
        "h:0",
        "h:99999",
        "h:x",
        "h:",
        "u:p@h",
        "h/path",
        "[::1",
        "tcp://h?x=1",
    ],
)
def test_addresses_that_are_none(text: str) -> None:
    """Anything else is refused, naming what was written."""
    with pytest.raises(BadInput, match="MQTT address"):
        parse_address(text)


async def _drain(inbox: Inbox, count: int) -> list[Message]:
    handled: list[Message] = []
    done = asyncio.Event()

    async def on_message(message: Message) -> None:
        handled.append(message)
        if len(handled) == count:
            done.set()

    task = asyncio.create_task(inbox.handle(on_message))
    await done.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return handled


async def test_a_full_inbox_drops_the_oldest_heartbeat_first() -> None:
    """Heartbeats make room for results, oldest first; without one waiting, the newcomer goes."""
    inbox = Inbox(limit=4)
    for topic, payload in ((ALIVE, b"1"), (RESULT, b"2"), (ALIVE, b"3"), (RESULT, b"4")):
        inbox.put(Message(topic, payload))
    inbox.put(Message(RESULT, b"5"))
    inbox.put(Message(RESULT, b"6"))
    inbox.put(Message(RESULT, b"7"))
    inbox.put(Message(ALIVE, b"8"))
    assert inbox.dropped == 4
    assert len(inbox) == 4
    assert [message.payload for message in await _drain(inbox, 4)] == [b"2", b"4", b"5", b"6"]


async def test_a_handled_heartbeat_is_not_dropped_again() -> None:
    """What was handled already never counts as room."""
    inbox = Inbox(limit=1)
    for _ in range(3):
        inbox.put(Message(ALIVE, b"x"))
        await _drain(inbox, 1)
    inbox.put(Message(RESULT, b"y"))
    inbox.put(Message(RESULT, b"z"))
    assert inbox.dropped == 1
    assert [message.payload for message in await _drain(inbox, 1)] == [b"y"]


async def test_an_oversized_message_is_dropped_and_counted() -> None:
    """A message over the limit never reaches a handler."""
    inbox = Inbox()
    inbox.put(Message(RESULT, bytes(limits.MQTT_MESSAGE_BYTES_MAX + 1)))
    inbox.put(Message(RESULT, bytes(limits.MQTT_MESSAGE_BYTES_MAX)))
    assert (len(inbox), inbox.dropped) == (1, 1)


def test_what_counts_as_a_heartbeat() -> None:
    """Alive and metrics repeat themselves; results and events do not, nor do other topics of that name."""
    base = "m/d/c/c/control/proplet"
    assert all(
        is_heartbeat(f"{base}/{kind}{end}")
        for kind in ("alive", "metrics", "task_metrics")
        for end in ("", "/p")
    )
    assert not any(
        map(is_heartbeat, (f"{base}/results/alive", f"{base}/create", "m/d/c/c/fl/alive", "alive"))
    )


def test_backoff_is_full_jitter_and_bounded() -> None:
    """Each pause lies in [0, min(max, base * 2**n)], however long the outage."""
    backoff = Backoff(Random(1))  # noqa: S311
    for attempt in range(2000):
        ceiling = min(limits.MQTT_RECONNECT_MAX_S, limits.MQTT_RECONNECT_BASE_S * 2.0 ** min(attempt, 50))
        assert 0 <= backoff.next_s() <= ceiling


def test_backoff_forgets_after_a_connection_that_lasted() -> None:
    """A connection that is cut at once keeps the pauses growing; one that lasted starts them anew."""
    backoff = Backoff(Random(1))  # noqa: S311
    for _ in range(20):
        backoff.next_s(lasted_s=1.0)
    assert max(backoff.next_s(lasted_s=1.0) for _ in range(50)) > limits.MQTT_RECONNECT_MAX_S / 2
    assert backoff.next_s(lasted_s=60.0) <= limits.MQTT_RECONNECT_BASE_S
