"""What a tag means is decided once a run, by the manager; who cannot pull gets modules from it."""

import asyncio
import base64
import hashlib
import json

from manager_world import Api, echo, in_world, loop

from propeller.bus.memory import MemoryBus
from propeller.ports import BusSession, Message
from propeller.simulation.world.guests import ECHO, ECHO_IMAGE, LOOP, TRAP
from propeller.simulation.world.world import MANAGER, TOPICS


def test_a_run_keeps_what_its_tag_meant_and_the_next_one_has_what_it_means_then():
    """The digest is recorded; a tag that moves changes no run under way."""

    async def story(api: Api):
        await api.good("POST", "/tasks", echo("t"))
        await api.good("POST", "/tasks/t/start")
        first = await api.ended("t")
        api.world.images.tags[ECHO_IMAGE] = TRAP
        await api.good("POST", "/tasks/t/start")
        second = await api.ended("t", run=2)
        assert (first["state"], second["state"]) == (3, 4)
        assert first["image_digest"] != second["image_digest"]

    in_world(story, proplets=1)


def test_a_run_waits_while_the_registry_is_away():
    """With a visible reason, on nobody's slot; it goes on by itself, also after a restart of the manager."""

    async def story(api: Api):
        api.world.images.away = True
        await api.good("POST", "/tasks", echo("t"))
        await api.good("POST", "/tasks/t/start")
        await asyncio.sleep(12)
        waiting = await api.good("GET", "/tasks/t")
        assert (waiting["state"], waiting.get("attempts", [])) == (0, [])
        assert "cannot be reached" in waiting["reason"]
        api.world.crash("manager", down_s=1)
        await asyncio.sleep(3)
        api.world.images.away = False
        assert (await api.ended("t"))["state"] == 3

    in_world(story, proplets=1)


def test_an_image_that_is_not_there_fails_the_run():
    """At once, with the registry's word."""

    async def story(api: Api):
        await api.good("POST", "/tasks", echo("t", image_url="registry:5000/none:latest"))
        await api.good("POST", "/tasks/t/start")
        failed = await api.ended("t")
        assert (failed["state"], failed["failure"]) == (4, "image")
        assert "is not there" in failed["error"]
        assert ECHO not in failed["error"].encode()

    in_world(story, proplets=1)


async def wished(api: Api, *names: str) -> list[dict]:
    """What is said on the chunk topic after somebody asked for these."""
    said: list[dict] = []

    async def hear(message: Message) -> None:
        said.append(json.loads(message.payload))

    spy = MemoryBus(api.world.broker, "spy", random=api.world._random("spy"))
    listening = asyncio.create_task(spy.run(BusSession(subscriptions=(TOPICS.image_chunks(),)), hear))
    await asyncio.sleep(1)
    for name in names:
        payload = json.dumps({"app_name": name}).encode()
        api.world.broker.publish("proplet-1", Message(TOPICS.image_wishes(), payload))
    await asyncio.sleep(5)
    listening.cancel()
    return said


def joined(said: list[dict]) -> bytes:
    """The module that the chunks make."""
    assert [one["chunk_idx"] for one in said] == list(range(said[0]["total_chunks"]))
    return b"".join(base64.b64decode(one["data"]) for one in said)


def test_who_reaches_only_the_broker_gets_modules_in_chunks():
    """Of live runs, by any name that a start message gives them; many wishes for one are one answer."""

    async def story(api: Api):
        large = LOOP + bytes(1_200_000)
        api.world.images.tags[ECHO_IMAGE] = large
        await api.good("POST", "/tasks", echo("a", proplet_id="proplet-1", priority=100))
        await api.good("POST", "/tasks", loop("b"))
        for name in "ab":
            await api.good("POST", f"/tasks/{name}/start")
        waiting = [{"attribute": "id", "value": "nobody"}]
        await api.good("POST", "/tasks", echo("c", constraints=waiting))
        await api.good("POST", "/tasks/c/start")
        await asyncio.sleep(1)
        pinned = f"{ECHO_IMAGE}@{(await api.good('GET', '/tasks/c'))['image_digest']}"
        for name in (ECHO_IMAGE, pinned):
            said = await wished(api, name, name, name)
            assert (len(said), joined(said)) == (3, large)
        inline = f"{MANAGER}/blobs/{hashlib.sha256(LOOP).hexdigest()}"
        assert joined(await wished(api, inline)) == LOOP

    in_world(story)


def test_what_no_live_task_needs_is_refused_with_a_reason():
    """The manager fetches nothing that merely somebody on the channel wishes for."""

    async def story(api: Api):
        (said,) = await wished(api, "registry:5000/trainer:latest")
        assert (said["app_name"], said["failure"]) == ("registry:5000/trainer:latest", "unknown_image")
        assert "data" not in said
        api.world.broker.publish("x", Message(TOPICS.image_wishes(), b"{"))
        assert await wished(api, "") == []

    in_world(story, proplets=1)
