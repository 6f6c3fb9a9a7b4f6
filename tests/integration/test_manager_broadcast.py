"""Broadcasts through the manager's routes: one task, every proplet, one answer from each."""

import asyncio

from manager_world import Api, echo, in_world, loop, trap

PROPLETS = ["proplet-1", "proplet-2", "proplet-3"]


async def run(api: Api, body: dict) -> None:
    """Create and start a task."""
    await api.good("POST", "/tasks", body)
    await api.good("POST", f"/tasks/{body['id']}/start")


def test_every_proplet_answers_under_its_own_name():
    """One task, one run, one attempt and one result for each proplet; no list shows the members."""

    async def story(api: Api):
        await run(api, echo("t", broadcast=True, inputs=["x"]))
        task = await api.ended("t")
        assert (task["state"], task["broadcast"], task["run"]) == (3, True, 1)
        assert task["results"] == {name: f"hello from {name} x" for name in PROPLETS}
        assert [one["proplet_id"] for one in task["attempts"]] == PROPLETS
        assert (await api.good("GET", "/tasks"))["total"] == 1
        member = await api.good("GET", "/tasks/t.proplet-2")
        assert (member["state"], member["results"]) == (3, "hello from proplet-2 x")

    in_world(story)


def test_who_fails_is_named_and_the_others_results_stay():
    """A broadcast fails if one member did; the results say who, and what the others came to."""

    async def story(api: Api):
        await api.good("PUT", "/proplets/proplet-3/labels", {"odd": "yes"})
        await run(api, trap("t", broadcast=True, constraints=[{"attribute": "labels.odd", "value": "yes"}]))
        task = await api.ended("t")
        assert (task["state"], task["failure"], task["error"]) == (4, "members", "proplet-3: trap")
        assert task["results"]["proplet-3"]["failure"] == "trap"
        assert list(task["results"]) == ["proplet-3"]

    in_world(story)


def test_a_stop_stops_every_member():
    """Whatever runs or waits of it ends; the broadcast is interrupted once all have."""

    async def story(api: Api):
        await run(api, loop("busy", proplet_id="proplet-2"))
        await api.until("busy", 2)
        await run(api, loop("t", broadcast=True))
        while True:
            attempts = (await api.good("GET", "/tasks/t"))["attempts"]
            states = {one["proplet_id"]: one["state"] for one in attempts}
            if states == {"proplet-1": "running", "proplet-2": "waiting", "proplet-3": "running"}:
                break
            await asyncio.sleep(0.25)
        assert (await api.ask("POST", "/tasks/t/start"))[0] == 409
        assert (await api.ask("DELETE", "/tasks/t"))[0] == 409
        await api.good("POST", "/tasks/t/stop")
        task = await api.ended("t")
        assert (task["state"], task["error"]) == (6, "stopped by user")
        assert {part["failure"] for part in task["results"].values()} <= {"stopped", "failed"}
        await api.good("POST", "/tasks/busy/stop")
        await api.ended("busy")

    in_world(story)


def test_it_can_be_started_again_and_deleted_with_its_members():
    """Every start is a run on those who are there then; deleting it leaves nothing behind."""

    async def story(api: Api):
        await run(api, echo("t", broadcast=True))
        await api.ended("t")
        await api.good("POST", "/proplets/proplet-1/cordon")
        await api.good("POST", "/tasks/t/start")
        task = await api.ended("t", run=2)
        assert sorted(task["results"]) == PROPLETS[1:]
        assert [one["proplet_id"] for one in task["attempts"]] == PROPLETS[1:]
        assert (await api.ask("DELETE", "/tasks/t"))[0] == 204
        assert (await api.ask("GET", "/tasks/t.proplet-2"))[0] == 404

    in_world(story)


def test_a_member_is_asked_for_through_its_broadcast():
    """Members can be looked at and stopped, not changed, started or deleted; their ids are taken."""

    async def story(api: Api):
        await run(api, loop("t", broadcast=True))
        for method, path in (("POST", "/start"), ("DELETE", ""), ("PUT", "")):
            status, said = await api.ask(
                method, f"/tasks/t.proplet-1{path}", {"name": "x"} if path == "" else None
            )
            assert (status, said["code"]) == (409, "part")
        assert (await api.ask("POST", "/tasks", echo("t.proplet-1")))[0] == 409
        await api.good("POST", "/tasks/t.proplet-1/stop")
        await api.until("t.proplet-1", 6)
        assert (await api.good("GET", "/tasks/t"))["state"] == 2
        await api.good("POST", "/tasks/t/stop")
        await api.ended("t")

    in_world(story)


def test_without_a_proplet_it_is_not_begun():
    """There is nobody whose answer it could wait for: the start says to come again."""

    async def story(api: Api):
        await api.good("POST", "/tasks", echo("t", broadcast=True))
        status, said = await api.ask("POST", "/tasks/t/start")
        assert (status, said["code"]) == (503, "no_proplet")

    in_world(story, proplets=0)


def test_a_broadcast_is_a_step_of_a_workflow():
    """What depends on it starts once every proplet has answered, and can be given all answers."""

    async def story(api: Api):
        tasks = [echo("all", broadcast=True), echo("then", depends_on=["all"])]
        await api.good("POST", "/workflows", {"tasks": tasks})
        await api.good("POST", "/tasks/all/start")
        assert (await api.ended("then"))["state"] == 3
        assert sorted((await api.good("GET", "/tasks/all"))["results"]) == PROPLETS

    in_world(story)


def test_a_broadcast_outlives_the_manager():
    """A manager that is killed in the middle goes on counting where the last one was."""

    async def story(api: Api):
        await run(api, loop("t", broadcast=True, limits={"wall_s": 20}))
        await api.until("t", 2)
        await asyncio.sleep(3)
        api.world.crash("manager", down_s=5)
        await asyncio.sleep(10)
        task = await api.ended("t")
        assert (task["state"], sorted(task["results"])) == (4, PROPLETS)
        assert {part["failure"] for part in task["results"].values()} == {"timeout"}

    in_world(story)
