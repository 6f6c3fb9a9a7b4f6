"""A coordinator with the real registry and aggregator over memory, under a virtual clock, for its tests.

`run(scenario)` gives the scenario a fresh `World`; nothing waits for real, and every run is the same.
"""

import asyncio
import contextlib
import json
from random import Random

from federation_world import Services
from propeller.bus.memory import MemoryBroker, MemoryBus
from propeller.federation.coordinator import app
from propeller.federation.coordinator.settings import CoordinatorSettings
from propeller.federation.offload import inline
from propeller.ports import BusSession, Message
from propeller.simulation.world.loop import VirtualClock, VirtualLoop, run_virtual
from propeller.storage.coordinator_memory import MemoryCoordinatorStore
from propeller.storage.memory_blobs import MemoryBlobs
from propeller.wire.topics import Topics

SECRET = b"a secret of the tests"
TOPICS = Topics("d", "c")
BASE = {"b": 0.0, "w": [0.0, 0.0, 0.0]}


class World:
    """The services, a broker, a listener on every FL topic, and the coordinator, which can be killed."""

    def __init__(self, loop, **settings):
        self.services = Services()
        self.http = self.services.http
        self.store, self.blobs, self.pieces = MemoryCoordinatorStore(), MemoryBlobs(), MemoryBlobs()
        self.copies = MemoryBlobs()
        self.clock = VirtualClock(loop)
        self.broker = MemoryBroker()
        self.said = []
        """Messages on FL topics: (topic, decoded payload)."""
        self.settings = CoordinatorSettings(
            topics=TOPICS,
            registry_url="http://registry",
            aggregator_url="http://aggregator",
            **{"token_secret": SECRET, **settings},
        )
        self.bus = MemoryBus(self.broker, "tester", random=Random(1))  # noqa: S311 - a seed
        self.tasks = []
        self.coordinator = None

    async def start(self):
        """Start the coordinator on what the store holds."""
        bus = MemoryBus(self.broker, "coordinator", random=Random(2))  # noqa: S311 - a seed
        self.coordinator, application = await app.build(
            settings=self.settings,
            store=self.store,
            blobs=self.blobs,
            pieces=self.pieces,
            copies=self.copies,
            bus=bus,
            http=self.http,
            clock=self.clock,
            offload=inline,
            random=Random(3),  # noqa: S311 - a seed
        )
        self.http.register("http://coordinator", application)
        self.running = asyncio.create_task(self.coordinator.run())
        await asyncio.sleep(0.1)

    async def kill(self):
        """Take the coordinator away in the middle of whatever it does."""
        self.http.unregister("http://coordinator")
        self.broker.disconnect("coordinator")
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    async def listen(self):
        """Hear everything on FL topics, as a manager would."""
        session = BusSession(subscriptions=("m/d/c/c/fl/#", "fl/#"))
        self.tasks.append(asyncio.create_task(self.bus.run(session, self._hear)))
        await asyncio.sleep(0.1)

    async def _hear(self, message):
        with contextlib.suppress(ValueError):  # tests publish rubbish too
            self.said.append((message.topic, json.loads(message.payload)))

    def heard(self, topic):
        """Payloads said on a topic so far."""
        return [payload for said, payload in self.said if said == topic]

    async def say(self, topic, payload):
        """Publish JSON."""
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        assert await self.bus.publish(Message(topic, raw))
        await asyncio.sleep(0.1)

    async def ask(self, method, path, body=None, **headers):
        """Status and decoded body of a request to the coordinator."""
        return await self.services.ask(method, "http://coordinator" + path, body, **headers)

    async def register(self, round_id="r1", participants=("p1", "p2", "p3"), **more):
        """Register a round from version 0."""
        body = {
            "experiment_id": "exp",
            "round_id": round_id,
            "model_ref": "fl/models/global_model_v0",
            "participants": participants if isinstance(participants, int) else list(participants),
            "hyperparams": {"epochs": 1, "lr": 0.01, "batch_size": 16},
            "task_wasm_image": "localhost:5000/trainer:latest",
            **more,
        }
        return await self.ask("POST", "/experiments", body)

    async def submit(self, participant, value=1.0, round_id="r1", samples=10, headers=None, **more):
        """Post an update whose every parameter is `value`."""
        body = update(participant, value, round_id, samples, **more)
        return await self.ask("POST", "/update", body, **(headers or {}))

    async def settle(self, round_id="r1", for_s=5.0):
        """The round's status after some time."""
        await asyncio.sleep(for_s)
        return (await self.ask("GET", f"/rounds/{round_id}/complete"))[1]


def update(participant, value=1.0, round_id="r1", samples=10, **more):
    """An update's body."""
    return {
        "round_id": round_id,
        "proplet_id": participant,
        "base_model_uri": "fl/models/global_model_v0",
        "num_samples": samples,
        "metrics": {"loss": value},
        "update": {"w": [value] * 3, "b": value},
        **more,
    }


def run(scenario, **settings):
    """Run `scenario(world)` to its end in virtual time."""
    loop = VirtualLoop()

    async def main():
        world = World(loop, **settings)
        await world.services.seed()
        await world.listen()
        await world.start()
        try:
            async with asyncio.timeout(100_000):
                return await scenario(world)
        finally:
            await world.kill()
            for task in world.tasks:
                task.cancel()
            await asyncio.gather(*world.tasks, return_exceptions=True)

    return run_virtual(main(), loop)
