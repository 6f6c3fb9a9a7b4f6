"""What a proplet has to say, while it waits for the bus."""

import asyncio
import contextlib

from proplet_fakes import FakeLog

from propeller.ports import Message
from propeller.proplet.outbox import OUTBOX_LOGS_MAX, OUTBOX_MAX, OUTBOX_UNDER_WAY_MAX, Outbox
from propeller.wire.messages import AttemptKey

KEY = AttemptKey(task_id="t", run=1, attempt=1)


class SlowBus:
    """Takes one message at a time, when it is let."""

    def __init__(self):
        self.sent = []
        self.let = asyncio.Semaphore(0)

    async def publish(self, message):
        """Wait for leave, then take it."""
        await self.let.acquire()
        self.sent.append(message.payload)
        return True


async def drained(outbox, bus, count):
    """What the bus gets of `count` messages."""
    sending = asyncio.create_task(outbox.send())
    for _ in range(count):
        bus.let.release()
    while len(bus.sent) < count:  # noqa: ASYNC110 - a list tells nobody
        await asyncio.sleep(0)
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending
    return bus.sent


async def test_only_the_newest_word_of_an_attempt_waits():
    """Earlier events of it are implied; what is about others, or about none, is untouched and in order."""
    bus = SlowBus()
    outbox = Outbox(bus, FakeLog())
    outbox.put(Message("events", b"accepted"), KEY)
    outbox.put(Message("alive", b"alive"))
    outbox.put(Message("events", b"other"), AttemptKey(task_id="u", run=1, attempt=1))
    outbox.put(Message("results", b"finished"), KEY)
    assert await drained(outbox, bus, 3) == [b"alive", b"other", b"finished"]


async def test_what_is_true_now_takes_the_turn_of_what_was():
    """Heartbeats pile up on no line, however slow, and are not put off by newer ones either."""
    bus = SlowBus()
    outbox = Outbox(bus, FakeLog())
    outbox.put(Message("alive", b"first"), renews=True)
    outbox.put(Message("events", b"event"))
    outbox.put(Message("alive", b"second"), renews=True)
    assert await drained(outbox, bus, 2) == [b"second", b"event"]


async def test_a_long_line_carries_several_messages_at_once():
    """In order, without waiting for each other's acknowledgement, but not without bound."""
    bus, begun = SlowBus(), []
    publish = bus.publish

    async def noted(message):
        begun.append(message.payload)
        return await publish(message)

    bus.publish = noted
    outbox = Outbox(bus, FakeLog())
    for number in range(OUTBOX_UNDER_WAY_MAX + 1):
        outbox.put(Message("x", b"%d" % number))
    sending = asyncio.create_task(outbox.send())
    while len(begun) < OUTBOX_UNDER_WAY_MAX:  # noqa: ASYNC110 - a list tells nobody
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert begun == [b"%d" % number for number in range(OUTBOX_UNDER_WAY_MAX)]
    bus.let.release()
    while len(begun) == OUTBOX_UNDER_WAY_MAX:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.01)
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending


async def test_an_answer_to_a_call_waits_for_nothing():
    """Only an attempt's event is worth holding back, as its next word may replace it."""
    bus, begun = SlowBus(), []
    publish = bus.publish

    async def noted(message):
        begun.append(message.payload)
        return await publish(message)

    bus.publish = noted
    outbox = Outbox(bus, FakeLog())
    for name in (b"1", b"2"):
        outbox.put(Message("invoke_results", name))
    outbox.put(Message("events", b"accepted"), KEY)
    sending = asyncio.create_task(outbox.send())
    for _ in range(10):
        await asyncio.sleep(0)
    assert begun == [b"1", b"2"]
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending


async def test_the_oldest_gives_way():
    """The bound holds, and what can be left out is asked to be long before."""
    bus = SlowBus()
    outbox = Outbox(bus, FakeLog())
    for number in range(OUTBOX_LOGS_MAX):
        assert not outbox.behind
        outbox.put(Message("x", b"%d" % number))
    assert outbox.behind
    for number in range(OUTBOX_LOGS_MAX, OUTBOX_MAX + 1):
        outbox.put(Message("x", b"%d" % number))
    assert (await drained(outbox, bus, OUTBOX_MAX))[0] == b"1"
