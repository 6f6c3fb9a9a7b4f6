"""Versions that are deleted, by hand and by the policy, and those that nothing can delete."""

import asyncio

import pytest
from manager_world import in_world, with_data

from federation_world import StoppedClock
from propeller.core.retention import Keep, Retention
from propeller.errors import Conflict
from propeller.federation.model_registry import app as model_registry
from propeller.federation.model_registry.keeping import Holds
from propeller.federation.offload import inline
from propeller.fl.versions import Proposal
from propeller.http.memory import MemoryHttp
from propeller.ports import Instant
from propeller.simulation.world.guests import TRAINER_IMAGE
from propeller.simulation.world.world import REGISTRY
from propeller.storage.model_memory import MemoryModelStore
from propeller.wire import codec


async def versions(count):
    """A store with a chain of so many versions of the model m."""
    store = MemoryModelStore()
    for number in range(count):
        proposal = Proposal(name="m", sha256=f"{number}" * 64, parent=number - 1 if number else None)
        await store.add(proposal, b"", created_at_s=0.0)
    return store


class LaterClock(StoppedClock):
    """Moves when told."""

    def __init__(self):
        self.mono_s = 0.0

    def now(self):
        """The moment that was set."""
        return Instant(self.mono_s, 1e9 + self.mono_s)


class Registry:
    """A model registry with a policy that keeps one version, and a coordinator that it cannot reach."""

    def __init__(self, store, coordinator_url=""):
        self.clock, self.http = LaterClock(), MemoryHttp()
        retention = Retention(models=Keep(last=1, max_age_s=1.0), every_s=0.0)
        keeping, holds, sweeper = model_registry.keeper(
            store, self.clock, self.http, coordinator_url=coordinator_url, publish_to="", retention=retention
        )
        self.http.register(
            "http://registry",
            model_registry.build(
                store=store, clock=self.clock, offload=inline, keeping=keeping, holds=holds, sweeper=sweeper
            ),
        )

    async def ask(self, method, path):
        """Status and body."""
        answer = await self.http.request(method, "http://registry" + path)
        return answer.status, codec.decode(dict, answer.body, what="the answer") if answer.body else None


async def test_a_version_is_deleted_by_hand_and_says_so_for_ever():
    """204; then 404 with the time, its info stays, and its number is not given again."""
    store = await versions(3)
    registry = Registry(store)
    status, said = await registry.ask("DELETE", "/models/m/versions/0")
    assert (status, said["code"]) == (409, "version_in_use"), "after a start everything counts as held"
    registry.clock.mono_s = 100.0
    assert (await registry.ask("DELETE", "/models/m/versions/0"))[0] == 204
    status, said = await registry.ask("GET", "/models/m/versions/0")
    assert (status, said["code"]) == (404, "version_deleted")
    assert "deleted_at" in (await registry.ask("GET", "/models/m/versions/0/info"))[1]
    assert (await registry.ask("GET", "/models/m/versions"))[1]["versions"] == [1, 2]
    status, said = await registry.ask("DELETE", "/models/m/versions/latest")
    assert (status, "latest version" in said["error"]) == (409, True)
    assert (await registry.ask("DELETE", "/models/m/versions/9"))[0] == 404


async def test_who_is_about_to_use_a_version_holds_it():
    """A held version is not deleted; one that is just being deleted cannot be held."""
    registry = Registry(await versions(3))
    registry.clock.mono_s = 100.0
    assert (await registry.ask("POST", "/models/m/versions/0/hold"))[0] == 200
    assert (await registry.ask("DELETE", "/models/m/versions/0"))[0] == 409
    assert (await registry.ask("POST", "/retention/sweep"))[1]["deleted"] == {"models": 1, "files": 0}
    registry.clock.mono_s = 200.0
    assert (await registry.ask("GET", "/retention"))[1]["surplus"] == {"models": 1}
    assert (await registry.ask("POST", "/retention/sweep"))[1]["deleted"]["models"] == 1
    assert (await registry.ask("POST", "/models/m/versions/0/hold"))[0] == 404
    holds = Holds(registry.clock)
    registry.clock.mono_s = 300.0
    assert holds.begin(("m", 1))
    with pytest.raises(Conflict, match="being deleted"):
        holds.hold(("m", 1))


async def test_without_the_coordinators_word_nothing_is_deleted():
    """503 by hand and by the policy: not knowing who needs a version is no reason to delete it."""
    store = await versions(3)
    registry = Registry(store, coordinator_url="http://coordinator")
    registry.clock.mono_s = 100.0
    assert (await registry.ask("DELETE", "/models/m/versions/0"))[0] == 503
    assert (await registry.ask("POST", "/retention/sweep"))[0] == 503
    assert await store.versions("m") == (0, 1, 2)


def test_what_an_experiment_in_progress_needs_stays_until_its_end():
    """Its first model is refused by name while it is paused, and goes once it was stopped."""

    async def story(api):
        await asyncio.sleep(100)  # the registry's own start no longer protects anything
        await with_data(api, *api.world.proplet_ids)
        body = {
            "experiment_id": "exp", "model_ref": "fl/models/global_model_v0", "rounds": 5,
            "participants": api.world.proplet_ids, "task_wasm_image": TRAINER_IMAGE, "timeout_s": 60,
        }  # fmt: skip
        await api.good("POST", "/fl/experiments", body)
        await asyncio.sleep(3)
        await api.good("POST", "/fl/experiments/exp/pause")
        await asyncio.sleep(70)

        async def delete():
            url = f"{REGISTRY}/models/global_model/versions/0"
            return (await api.world.calm_http.request("DELETE", url)).status

        assert await delete() == 409
        await api.good("POST", "/fl/experiments/exp/stop")
        await asyncio.sleep(70)
        known = (await api.good("GET", "/fl/experiments/exp"))["model_version"]
        assert (await delete(), known > 0) == (204, True)
        again = {**body, "experiment_id": "again"}
        status, said = await api.ask("POST", "/fl/experiments", again)
        assert (status, said["code"]) == (400, "missing_model")

    in_world(story)
