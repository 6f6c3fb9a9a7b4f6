"""Messages that have arrived and wait to be handled: bounded, in order. Knows no connection.

Overflow policy: when full, the oldest heartbeat-like message (alive, metrics, task metrics) makes room, for
a later one says the same and more; if none waits, the newcomer is dropped, and its sender repeats it as
after any loss. Each drop is counted.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine

from propeller import limits
from propeller.ports import Message
from propeller.wire.topics import FromProplet

_REPEATED = frozenset({FromProplet.ALIVE, FromProplet.METRICS, FromProplet.TASK_METRICS})

Handler = Callable[[Message], Awaitable[None]]
Greeter = Callable[[], Awaitable[None]]


def is_heartbeat(topic: str) -> bool:
    """Whether a message on this topic is superseded by the next of its sender."""
    _, found, rest = topic.partition("/control/proplet/")
    return bool(found) and rest.partition("/")[0] in _REPEATED


class Inbox:
    """Waiting messages, and the one task that handles them."""

    def __init__(self, limit: int = limits.MQTT_INBOX_MESSAGES_MAX) -> None:
        self._limit = limit
        self._waiting: OrderedDict[int, Message | Greeter] = OrderedDict()
        self._heartbeats: deque[int] = deque()
        self._number = 0
        self._arrived = asyncio.Event()
        self.dropped = 0
        """Messages dropped since the beginning, for want of room or for their size."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: Message) -> None:
        """Let a message wait its turn, or drop it or a heartbeat before it."""
        if len(message.payload) > limits.MQTT_MESSAGE_BYTES_MAX:
            self.dropped += 1
            return
        if len(self._waiting) >= self._limit and not self._make_room():
            return
        if is_heartbeat(message.topic):
            self._heartbeats.append(self._number)
        self._append(message)

    def greet(self, greeter: Greeter) -> None:
        """Let a call wait its turn between the messages; it is never dropped."""
        self._append(greeter)

    async def handle(self, on_message: Handler) -> None:
        """Handle one after the other, in the order of arrival, until cancelled or a handler raises."""
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            number, waiting = self._waiting.popitem(last=False)
            if self._heartbeats and self._heartbeats[0] == number:
                self._heartbeats.popleft()
            await (on_message(waiting) if isinstance(waiting, Message) else waiting())

    async def handle_during(self, connection: Coroutine[None, None, None], on_message: Handler) -> None:
        """Handle messages while `connection` runs. The first to end ends the other; its error is raised."""
        tasks = [asyncio.create_task(connection), asyncio.create_task(self.handle(on_message))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def _append(self, waiting: Message | Greeter) -> None:
        self._waiting[self._number] = waiting
        self._number += 1
        self._arrived.set()

    def _make_room(self) -> bool:
        self.dropped += 1
        if not self._heartbeats:
            return False
        del self._waiting[self._heartbeats.popleft()]
        return True
