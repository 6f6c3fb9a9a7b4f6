"""What a proplet listens to for a while: models and modules that the broker has for anyone.

Who waits for something opens a queue for it; the subscription stands as long as anybody's queue is open.
Knows no payloads.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from propeller.ports import Bus, Message
from propeller.wire.filters import matches
from propeller.wire.topics import Topics

QUEUE_MAX = 16
"""Messages that wait for one listener; more are dropped, and asked for again."""


class Ear:
    """Queues of messages by topic filter."""

    def __init__(self, bus: Bus, topics: Topics) -> None:
        self._bus = bus
        self._topics = topics
        self._queues: dict[asyncio.Queue[Message], tuple[str, ...]] = {}
        self._uses: Counter[str] = Counter()

    @asynccontextmanager
    async def hearing(self, *filters: str) -> AsyncIterator["asyncio.Queue[Message]"]:
        """A queue of what comes on these topics from now on, what is retained there first."""
        queue: asyncio.Queue[Message] = asyncio.Queue(QUEUE_MAX)
        self._queues[queue] = filters
        self._uses.update(filters)
        try:
            await self._bus.subscribe(*filters)
            yield queue
        finally:
            del self._queues[queue]
            self._uses.subtract(filters)
            if unused := [text for text in filters if self._uses[text] <= 0]:
                for text in unused:
                    del self._uses[text]
                await self._bus.unsubscribe(*unused)

    def hear(self, message: Message) -> bool:
        """Hand a message to whoever waits for it; whether it is of the kind that anybody ever does."""
        topics = self._topics
        if message.topic != topics.image_chunks() and not message.topic.startswith(topics.models()):
            return False
        for queue, filters in self._queues.items():
            if not queue.full() and any(matches(text, message.topic) for text in filters):
                queue.put_nowait(message)
        return True
