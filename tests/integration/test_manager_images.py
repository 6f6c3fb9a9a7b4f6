"""What a tag means is decided once a run, by the manager."""

import asyncio

from manager_world import Api, echo, in_world

from propeller.simulation.world.guests import ECHO, ECHO_IMAGE, TRAP


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
