"""What a proplet has to say, while it waits for the bus."""

import asyncio
import contextlib

from proplet_fakes import FakeLog

from propeller.ports import Message
from propeller.proplet.outbox import OUTBOX_LOGS_MAX, OUTBOX_MAX, Outbox
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
