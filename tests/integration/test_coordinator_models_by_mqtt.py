"""Models on retained topics, updates by the older application's topics: rounds of devices without HTTP."""

import asyncio
import json
from random import Random

from coordinator_world import TOPICS, run, update
from test_coordinator_large import SIZE, lived, model, register, send

from propeller.bus.memory import MemoryBus
from propeller.fl.tensors import from_safetensors
from propeller.http.memory import NO_FAULT, Fault
from propeller.ports import BusSession

MODEL = "m/d/c/c/fl/models/global_model_v0"


class Device:
    """Whatever hears a topic, from a connection of its own."""

    def __init__(self, world, *filters):
        self.heard = {}
        bus = MemoryBus(world.broker, f"device-{len(world.tasks)}", random=Random(1))  # noqa: S311 - backoff
        world.tasks.append(asyncio.create_task(bus.run(BusSession(subscriptions=filters), self._hear)))

    async def _hear(self, message):
        self.heard[message.topic] = message


def test_a_round_of_the_older_application():
    """The base is retained under both spellings; updates that come by both old topics count once.

    The new model is announced and retained, with its version in it.
    """

    async def scenario(world):
        await world.register(participants=["p1", "p2"])
        await world.settle(for_s=1)
        late = Device(world, "fl/models/+", "m/d/c/c/fl/models/+")
        await asyncio.sleep(0.5)
        assert json.loads(late.heard["fl/models/global_model_v0"].payload) == {
            "w": [0, 0, 0],
            "b": 0,
            "version": 0,
        }
        assert late.heard[MODEL].payload == late.heard["fl/models/global_model_v0"].payload
        for participant, value in (("p1", 1.0), ("p2", 3.0)):
            said = update(participant, value)
            await world.say(f"fl/rounds/r1/updates/{participant}", said)
            await world.say("fml/updates", {**said, "forwarded_at": "2026-01-16T00:00:00Z"})
        done = await world.settle()
        assert (done["completed"], done["num_updates"], done["model_version"]) == (True, 2, 1)
        (published,) = world.heard("fl/models/publish")
        assert published == {"w": [2, 2, 2], "b": 2, "version": 1}
        later = Device(world, "fl/models/+")
        await asyncio.sleep(0.5)
        assert json.loads(later.heard["fl/models/global_model_v1"].payload) == published
        assert world.heard("fl/rounds/next")[0]["model_uri"] == "fl/models/global_model_v1"
        assert world.heard("fl/rounds/r1/complete")[0]["model_version"] == 1

    run(scenario)


def test_an_update_by_the_older_topics_outlives_a_registry_that_is_away():
    """Its sender hears no verdict and will not send again: it is taken once it can be, and counts once."""

    async def scenario(world):
        await world.register(participants=["p1"])
        await world.kill()
        await world.start()
        await asyncio.sleep(1)
        world.coordinator._peers._bases.clear()
        world.http.unregister("http://registry")
        said = update("p1")
        await world.say("fl/rounds/r1/updates/p1", said)
        await world.say("fml/updates", {**said, "forwarded_at": "2026-01-16T00:00:00Z"})
        assert (await world.settle(for_s=10))["num_updates"] == 0
        world.services.start_registry()
        done = await world.settle(for_s=30)
        assert (done["completed"], done["num_updates"]) == (True, 1)
        assert world.coordinator._listener._again == 0

    run(scenario)


def test_an_update_by_the_older_topics_is_not_tried_for_ever():
    """Not one that is wrong, and the others for minutes."""

    async def scenario(world):
        await world.register(participants=["p1"], timeout_s=3600)
        listener = world.coordinator._listener
        await world.say("fl/rounds/r1/updates/p1", update("p1", samples=0))
        assert listener._again == 0
        world.coordinator._peers._bases.clear()
        world.http.unregister("http://registry")
        await world.say("fl/rounds/r1/updates/p1", update("p1"))
        assert listener._again == 1
        await asyncio.sleep(600)
        assert (listener._again, listener._updates.qsize()) == (0, 0)

    run(scenario)


def test_a_model_that_was_told_of_is_retained_also_by_the_coordinators_next_life():
    """`rounds/next` went out, the model could not be read just then, and the coordinator died."""

    async def scenario(world):
        await world.register(participants=["p1"])
        await world.settle(for_s=1)
        world.http._faults = lambda method, url: (
            Fault(lose="request") if (method, url[-9:]) == ("GET", "/models/1") else NO_FAULT
        )
        await world.submit("p1")
        assert (await world.settle())["model_version"] == 1
        assert world.heard("fl/rounds/next")
        assert not world.heard("fl/models/global_model_v1")
        await world.kill()
        world.http._faults = lambda _method, _url: NO_FAULT
        await world.start()
        await asyncio.sleep(1)
        late = Device(world, "fl/models/+", "m/d/c/c/fl/models/+")
        await asyncio.sleep(0.5)
        assert json.loads(late.heard["fl/models/global_model_v1"].payload)["version"] == 1

    run(scenario)


def test_a_new_model_is_announced_though_a_round_begins_with_it_before_it_is_shown():
    """Whoever waits for `fl/models/publish` hears of it once the broker can be reached."""

    async def scenario(world):
        await world.register(participants=["p1"])
        await world.settle(for_s=1)
        world.broker.partition("coordinator", 60)
        await world.submit("p1")
        assert (await world.settle())["model_version"] == 1
        next_ref = "fl/models/global_model_v1"
        assert (await world.register("r2", participants=["p1"], model_ref=next_ref))[0] == 201
        await asyncio.sleep(120)
        assert [said["version"] for said in world.heard("fl/models/publish")] == [1]

    run(scenario)


def test_without_the_mirror_root_topics_are_silent():
    """Nothing is retained or heard outside B."""

    async def scenario(world):
        await world.register(participants=["p1"])
        await world.settle(for_s=1)
        device = Device(world, "fl/#", MODEL)
        await asyncio.sleep(0.5)
        assert list(device.heard) == [MODEL]
        await world.say("fml/updates", update("p1"))
        assert (await world.settle())["num_updates"] == 0

    run(scenario, mirror=False)


def test_a_large_model_is_a_manifest_and_pieces(tmp_path):
    """The topic says how many pieces there are; each comes to who asks, and together they are the file."""

    async def scenario(world):
        await register(world)
        for participant in ("p1", "p2"):
            assert (await send(world, participant, model(2)))[0] == 200
        assert (await world.settle())["model_version"] == 1
        device = Device(world, "m/d/c/c/fl/models/#")
        await asyncio.sleep(0.5)
        manifest = json.loads(device.heard["m/d/c/c/fl/models/big_v1"].payload)
        assert manifest["bytes"] > SIZE * 4
        assert manifest["chunks"] == 3
        pieces = []
        for chunk in range(manifest["chunks"]):
            wish = {"model_uri": manifest["model_uri"], "chunk": chunk}
            await world.say(TOPICS.model_wishes(), wish)
            pieces.append(device.heard[f"m/d/c/c/fl/models/big_v1/chunks/{chunk}"].payload)
        assert len(b"".join(pieces)) == manifest["bytes"]
        assert from_safetensors(b"".join(pieces), "x") == model(2)
        for bad in (
            b"{",
            b'{"model_uri":"big_v1","chunk":-1}',
            b'{"model_uri":"fl/models/big_v1","chunk":3}',
        ):
            await world.say(TOPICS.model_wishes(), bad)
        assert (await world.settle())["completed"], "rubbish ends nothing"

    lived(scenario, tmp_path)


def test_a_broker_that_forgot_is_told_again():
    """Retained messages may be lost with a broker: they are said again at every connection."""

    async def scenario(world):
        await world.register(participants=["p1"])
        await world.settle(for_s=1)
        world.broker.stop(keep_retained=False)
        await asyncio.sleep(1)
        world.broker.start()
        await asyncio.sleep(10)
        device = Device(world, "m/d/c/c/fl/models/+")
        await asyncio.sleep(0.5)
        assert MODEL in device.heard

    run(scenario)
