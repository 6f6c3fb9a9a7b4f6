"""A round by the older application's topics over real brokers, with the rights that each principal has."""

import asyncio
import contextlib
import json
from random import Random

import pytest

from broker_hubs import T, open_hub
from federation_world import Services
from propeller.clock import SystemClock
from propeller.federation.coordinator import app
from propeller.federation.coordinator.settings import CoordinatorSettings
from propeller.federation.offload import inline
from propeller.ports import Message
from propeller.storage.coordinator_memory import MemoryCoordinatorStore
from propeller.storage.memory_blobs import MemoryBlobs

ROUND = {
    "experiment_id": "e",
    "round_id": "r1",
    "model_ref": "fl/models/global_model_v0",
    "participants": ["l1"],
    "task_wasm_image": "localhost:5000/x",
}
UPDATE = {
    "round_id": "r1",
    "proplet_id": "l1",
    "base_model_uri": "fl/models/global_model_v0",
    "num_samples": 10,
    "update": {"w": [4, 4, 4], "b": 4},
}


@contextlib.asynccontextmanager
async def coordinator(bus):
    """A coordinator on that bus; answers how to ask it."""
    services = Services()
    await services.seed()
    made, application = await app.build(
        settings=CoordinatorSettings(
            topics=T, registry_url="http://registry", aggregator_url="http://aggregator", token_secret=b"s"
        ),
        store=MemoryCoordinatorStore(),
        blobs=MemoryBlobs(),
        pieces=MemoryBlobs(),
        copies=MemoryBlobs(),
        bus=bus,
        http=services.http,
        clock=SystemClock(),
        offload=inline,
        random=Random(3),  # noqa: S311 - a seed
    )
    services.http.register("http://coordinator", application)
    running = asyncio.create_task(made.run())
    try:
        yield services
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
async def test_a_device_of_the_original_takes_part_by_mqtt_alone(kind, tmp_path):
    """It reads the retained model and sends its update by the root topic; the new model is retained."""

    def has(peer, topic):
        return any(one.topic == topic for one in peer.heard)

    async with open_hub(kind, tmp_path) as hub, coordinator(hub.bus("c1")) as services:
        watcher = await hub.join("o1", "fl/#").ready()
        status, answer = await services.ask("POST", "http://coordinator/experiments", ROUND)
        assert status == 201, answer
        await watcher.until(lambda: has(watcher, "fl/models/global_model_v0"))
        device = await hub.join("l1", "fl/models/global_model_v0").ready()
        await device.until(lambda: bool(device.heard))
        assert json.loads(device.heard[0].payload) == {"w": [0, 0, 0], "b": 0, "version": 0}
        await device.bus.publish(Message("fl/rounds/r1/updates/l1", json.dumps(UPDATE).encode()))
        for topic in (
            "fl/models/global_model_v1",
            "fl/models/publish",
            "fl/rounds/next",
            "fl/rounds/r1/complete",
        ):
            await watcher.until(lambda topic=topic: has(watcher, topic))
        late = await hub.join("l2", "fl/models/global_model_v1").ready()
        await late.until(lambda: bool(late.heard))
        assert json.loads(late.heard[0].payload) == {"w": [4, 4, 4], "b": 4, "version": 1}
