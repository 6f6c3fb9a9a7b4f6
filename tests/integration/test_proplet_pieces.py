"""A proplet that takes its modules through the broker: from the real manager, and from one that errs."""

import asyncio
import base64
import os
from random import Random

import pytest
from manager_world import ECHO, echo, in_world, module, trap

from propeller import limits
from propeller.bus.memory import MemoryBroker, MemoryBus
from propeller.errors import PeerRefused, PeerUnavailable
from propeller.ports import BusSession, Message
from propeller.proplet.ear import Ear
from propeller.proplet.pieces import BrokerImages
from propeller.simulation.world.loop import VirtualLoop, run_virtual
from propeller.storage.memory_blobs import MemoryBlobs
from propeller.telemetry.logs import logger
from propeller.wire import codec
from propeller.wire.messages import ImageChunk, ImageWish
from propeller.wire.topics import Topics

TOPICS = Topics("d", "c")
PINNED = "localhost:5000/m@sha256:" + "a" * 64


def test_tasks_run_on_modules_that_came_by_the_broker():
    """An image and an inline module, on a proplet that asks no registry and no manager by HTTP for either."""

    async def story(api):
        world = api.world
        world.by_broker.add("proplet-1")
        world.crash("proplet-1", down_s=1)
        await asyncio.sleep(20)
        asked = []
        images, fetch = world.images, world.images.fetch

        async def counted(reference):
            asked.append(asyncio.current_task())
            return await fetch(reference)

        images.fetch = counted
        await api.good("POST", "/tasks", echo("by-image", proplet_id="proplet-1"))
        await api.good("POST", "/tasks", {**trap("inline", proplet_id="proplet-1"), "file": module(ECHO)})
        for name in ("by-image", "inline"):
            await api.good("POST", f"/tasks/{name}/start")
            assert (await api.ended(name))["state"] == 3
        assert len(asked) == 1, "the manager fetched the image once, and the proplet never"

    in_world(story, proplets=1)


class Broken:
    """A proplet's bus with pieces, and a manager that says what a test wants."""

    def __init__(self, answer):
        broker = MemoryBroker()
        self.wishes = []
        self._manager = MemoryBus(broker, "manager", random=Random(1))  # noqa: S311 - a seed
        self._bus = MemoryBus(broker, "p", random=Random(2))  # noqa: S311 - a seed
        self._ear = Ear(self._bus, TOPICS)
        self.kept = MemoryBlobs()
        self.pieces = BrokerImages(self._bus, TOPICS, self._ear, self.kept, logger())
        self._answer = answer

    async def _wished(self, message):
        name = codec.decode(ImageWish, message.payload, what="a wish").app_name
        self.wishes.append(name)
        for chunk in self._answer(name, len(self.wishes)):
            payload = chunk if isinstance(chunk, bytes) else codec.encode(chunk)
            await self._manager.publish(Message(TOPICS.image_chunks(), payload))

    async def _heard(self, message):
        assert self._ear.hear(message)

    async def __aenter__(self):
        wishes = BusSession(subscriptions=(TOPICS.image_wishes(),))
        own = BusSession(subscriptions=TOPICS.proplet_subscriptions("p"))
        self._tasks = [
            asyncio.create_task(self._manager.run(wishes, self._wished)),
            asyncio.create_task(self._bus.run(own, self._heard)),
        ]
        await asyncio.sleep(1)
        return self

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def cut(name, content, size=1000):
    """A module in pieces."""
    total = -(-len(content) // size)
    return [
        ImageChunk(
            app_name=name,
            chunk_idx=at,
            total_chunks=total,
            data=base64.b64encode(content[at * size : (at + 1) * size]).decode(),
        )
        for at in range(total)
    ]


def with_manager(answer, story):
    """Run `story(broken)` in virtual time."""

    async def main():
        async with Broken(answer) as broken:
            return await story(broken)

    return run_virtual(main(), VirtualLoop())


CONTENT = b"\0asm" + os.urandom(5_500)


def test_pieces_come_in_any_order_twice_and_after_others_are_lost():
    """The whole module, from a manager whose first answer loses every other piece; rubbish is passed over."""

    def answer(name, wish):
        pieces = cut(name, CONTENT)
        some = pieces[::2] if wish == 1 else [*pieces[::-1], *pieces]
        odd = ImageChunk(app_name=name, chunk_idx=0, total_chunks=1, data="\u00e9")
        return [b"rubbish", odd, ImageChunk(app_name=name), *cut("somebody else's", CONTENT), *some]

    async def story(broken):
        got = await asyncio.gather(*(broken.pieces.fetch(PINNED) for _ in range(3)))
        assert {one.content for one in got} == {CONTENT}
        assert len(broken.wishes) == 2
        await broken.pieces.fetch(PINNED)
        assert len(broken.wishes) == 2, "a name with a digest is kept"
        await broken.pieces.fetch("localhost:5000/m:latest")
        assert len(broken.wishes) == 3

    with_manager(answer, story)


@pytest.mark.parametrize(
    ("failure", "raised"), [("unknown_image", PeerRefused), ("peer_unavailable", PeerUnavailable)]
)
def test_what_the_manager_says_is_what_the_attempt_hears(failure, raised):
    """Its reason, and whether it may pass."""

    def answer(name, _):
        return [ImageChunk(app_name=name, error="no live task has it", failure=failure)]

    async def story(broken):
        with pytest.raises(raised, match="no live task has it"):
            await broken.pieces.fetch(PINNED)

    with_manager(answer, story)


def test_a_silent_manager_is_asked_again_and_then_is_unavailable():
    """No module is waited for without end."""

    async def story(broken):
        with pytest.raises(PeerUnavailable, match="sends no module"):
            await broken.pieces.fetch(PINNED)
        assert len(broken.wishes) == limits.IMAGE_WISHES_MAX

    with_manager(lambda *_: [], story)
