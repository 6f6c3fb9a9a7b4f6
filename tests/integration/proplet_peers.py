"""A manager for the proplet's integration tests: welcomes, acknowledges, and lets one wait for words."""

import asyncio
import json

from propeller.ports import BusSession, Message
from propeller.wire import codec
from propeller.wire.messages import Ack, AckItem, Start, Welcome
from propeller.wire.topics import FromManager

WAIT_S = 30.0


class Manager:
    """Speaks protocol 2 with one proplet."""

    def __init__(self, bus, topics, proplet_id):
        self.bus = bus
        self.topics = topics
        self.proplet_id = proplet_id
        self.heard = []
        self.seen = set()
        self.news = asyncio.Condition()

    async def run(self):
        """Listen to all proplets."""
        session = BusSession(subscriptions=(f"{self.topics.base}/control/proplet/#",))
        await self.bus.run(session, self.hear)

    async def hear(self, message):
        """Answer what wants an answer, keep what is new."""
        kind = message.topic.removeprefix(f"{self.topics.base}/control/proplet/").partition("/")[0]
        body = json.loads(message.payload)
        if kind == "create":
            await self.send(FromManager.WELCOME, Welcome(heartbeat_s=1.0))
        if kind in {"events", "results"}:
            item = AckItem(
                task_id=body["task_id"],
                run=body["run"],
                attempt=body["attempt"],
                kind=body.get("kind", "finished"),
            )
            await self.send(FromManager.ACK, Ack(events=[item]))
        async with self.news:
            self.heard.append((kind, body))
            self.news.notify_all()

    async def send(self, kind, message):
        """Something for the proplet."""
        await self.bus.publish(
            Message(self.topics.from_manager(kind, self.proplet_id), codec.encode(message))
        )

    async def start(self, task, *, name="", **fields):
        """A start of its first attempt."""
        await self.send(FromManager.START, Start(id=task, name=name, run=1, attempt=1, **fields))

    async def hears(self, kind, fits=lambda _body: True):
        """The next body of that kind which fits; it and what came before it are used up."""
        async with asyncio.timeout(WAIT_S), self.news:
            while True:
                for index, (heard, body) in enumerate(self.heard):
                    if heard == kind and fits(body):
                        del self.heard[: index + 1]
                        return body
                await self.news.wait()
