"""E2: a disk whose reads and writes fail now and then, under the manager and under the coordinator."""

import asyncio
import inspect
from random import Random

import pytest

from propeller.errors import EnvironmentError_
from propeller.simulation.world.guests import ECHO_IMAGE, TRAINER_IMAGE
from propeller.simulation.world.world import COORDINATOR, MANAGER, World, run_world
from propeller.wire import codec

ENDED = {3, 4, 5, 6}


class BadDisk:
    """A store each of whose calls fails with the chance `share`, before it does anything or after."""

    def __init__(self, store, seed: int) -> None:
        self._store = store
        self._random = Random(seed)  # noqa: S311 - tests replay
        self.share = 0.0
        self.failed = 0

    def __getattr__(self, name: str):
        found = getattr(self._store, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def unreliable(*args, **kwargs):
            if self._random.random() < self.share:
                self.failed += 1
                raise EnvironmentError_("disk I/O error; check the disk", code="storage_io")
            return await found(*args, **kwargs)

        return unreliable


async def ask(world: World, method: str, url: str, body=None):
    """(status, body) of one request."""
    content = b"" if body is None else codec.encode(body)
    answer = await world.calm_http.request(method, url, body=content)
    said = codec.decode(dict, answer.body, what="the answer") if answer.body else None
    return answer.status, said


async def insist(world: World, method: str, url: str, body=None, lawful=(200, 201, 409)):
    """Ask until it is answered; every other answer must say that the disk is at fault."""
    while True:
        status, said = await ask(world, method, url, body)
        if status in lawful:
            return said
        assert (status, said["code"]) == (503, "storage_io"), (method, url, status, said)
        await asyncio.sleep(0.5)


async def ready(world: World) -> None:
    """Wait until all proplets are alive."""
    while True:
        status, page = await ask(world, "GET", f"{MANAGER}/proplets?status=active")
        if status == 200 and page["total"] == len(world.proplet_ids):
            return
        await asyncio.sleep(0.5)


@pytest.mark.parametrize("seed", range(3))
def test_no_task_is_lost_to_a_manager_whose_disk_fails(seed):
    """Whoever asks learns that it is the disk; what was accepted ends, and nothing runs beside it."""

    async def story(world: World):
        await asyncio.sleep(1)
        world.nodes["manager"].crash()
        await asyncio.sleep(1)
        disk = world.manager_store = BadDisk(world.manager_store, seed)
        world.nodes["manager"].start()
        await asyncio.sleep(1)
        await ready(world)
        disk.share = 0.3
        names = [f"t{number}" for number in range(12)]
        for name in names:
            await insist(
                world, "POST", f"{MANAGER}/tasks", {"id": name, "name": "x", "image_url": ECHO_IMAGE}
            )
            await insist(world, "POST", f"{MANAGER}/tasks/{name}/start")
        disk.share = 0.0
        assert disk.failed > 10
        for name in names:
            while True:
                task = (await ask(world, "GET", f"{MANAGER}/tasks/{name}"))[1]
                if task["state"] in ENDED:
                    break
                await asyncio.sleep(0.5)
            assert (task["state"], task["run"]) == (3, 1), task
        world.check_alive()

    run_world(seed, story, proplets=3)


@pytest.mark.parametrize("seed", range(3))
def test_no_update_is_lost_to_a_coordinator_whose_disk_fails(seed):
    """A round of three completes with three updates, each counted once."""

    async def story(world: World):
        await asyncio.sleep(1)
        world.nodes["coordinator"].crash()
        await asyncio.sleep(1)
        disk = world.coordinator_store = BadDisk(world.coordinator_store, seed)
        world.nodes["coordinator"].start()
        await asyncio.sleep(1)
        await ready(world)
        for name in world.proplet_ids:
            rows = [{"x": [0.1, 0.2, 0.3], "y": 1}]
            await ask(world, "POST", f"http://data-store:8083/datasets/{name}", {"data": rows})
        disk.share = 0.4
        body = {
            "round_id": "r1",
            "experiment_id": "e1",
            "model_ref": "fl/models/global_model_v0",
            "participants": world.proplet_ids,
            "hyperparams": {"epochs": 1, "lr": 0.01},
            "k_of_n": 3,
            "timeout_s": 600,
            "task_wasm_image": TRAINER_IMAGE,
        }
        await insist(world, "POST", f"{MANAGER}/fl/experiments", body, lawful=(200,))
        await asyncio.sleep(20)
        disk.share = 0.0
        while True:
            status, said = await ask(world, "GET", f"{COORDINATOR}/rounds/r1/complete")
            if status == 200 and said["state"] != "collecting" and said["state"] != "aggregating":
                break
            await asyncio.sleep(0.5)
        assert (said["state"], said["num_updates"]) == ("completed", 3), said
        assert disk.failed > 0
        world.check_alive()

    run_world(seed, story, proplets=3)
