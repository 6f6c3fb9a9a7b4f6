"""Where runs go and where they go next: conditions, preferences, cordons, drains, policies."""

import asyncio

import pytest
from manager_world import Api, echo, in_world, loop, trap


async def run(api: Api, body: dict) -> None:
    """Create and start a task."""
    await api.good("POST", "/tasks", body)
    await api.good("POST", f"/tasks/{body['id']}/start")


def test_a_constraint_on_labels_chooses_the_proplet():
    """It waits with a visible reason until an operator labels one."""

    async def story(api: Api):
        wanted = [{"attribute": "labels.site", "value": "north"}]
        await run(api, echo("t", constraints=wanted))
        waiting = await api.good("GET", "/tasks/t")
        assert (waiting["state"], waiting["reason"]) == (0, "no registered proplet meets labels.site = north")
        labelled = await api.good("PUT", "/proplets/proplet-2/labels", {"site": "north"})
        assert labelled["labels"] == {"site": "north"}
        assert (await api.ended("t"))["proplet_id"] == "proplet-2"
        for number in range(3):
            await run(api, echo(f"n{number}", constraints=wanted))
            assert (await api.ended(f"n{number}"))["proplet_id"] == "proplet-2"

    in_world(story)


def test_affinities_prefer_and_do_not_insist():
    """The preferred proplet while it has room, else another; negative weights repel."""

    async def story(api: Api):
        wants = [{"attribute": "id", "value": "proplet-3", "weight": 5}]
        await run(api, loop("a", affinities=wants))
        assert (await api.until("a", 2))["proplet_id"] == "proplet-3"
        await run(api, loop("b", affinities=wants))
        assert (await api.until("b", 2))["proplet_id"] != "proplet-3"
        repels = [{"attribute": "id", "operator": "in", "value": "proplet-1,proplet-2", "weight": -1}]
        for name in "ab":
            await api.good("POST", f"/tasks/{name}/stop")
            await api.ended(name)
        await run(api, echo("c", affinities=repels, placement="least_loaded"))
        assert (await api.ended("c"))["proplet_id"] == "proplet-3"

    in_world(story)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"constraints": [{"attribute": "id", "operator": "~"}]}, "unknown operator"),
        ({"affinities": [{"attribute": "id", "weight": 1e9}]}, "weight"),
        ({"placement": "best"}, "placement is 'best'"),
        ({"restart": {"attempts": -1}}, "restart.attempts"),
        ({"reschedule": {"jitter": 2}}, "reschedule.jitter"),
        ({"disconnect": {"lost_after_s": 0}}, "disconnect.lost_after_s"),
        ({"proplet_id": "proplet-1", "reschedule": {"attempts": 1}}, "cannot be rescheduled"),
    ],
)
def test_unlawful_wishes_are_refused(fields, says):
    """400, naming the field."""

    async def story(api: Api):
        status, error = await api.ask("POST", "/tasks", echo("t", **fields))
        assert status == 400
        assert says in error["error"]

    in_world(story, proplets=1)


def test_a_cordoned_proplet_gets_no_new_work_and_keeps_what_it_has():
    """Also after the manager was killed; uncordoned it takes what waits."""

    async def story(api: Api):
        await run(api, loop("a"))
        await api.until("a", 2)
        shown = await api.good("POST", "/proplets/proplet-1/cordon")
        assert (shown["cordoned"], shown.get("draining", False)) == (True, False)
        api.world.crash("manager", down_s=1.0)
        await asyncio.sleep(10)
        await run(api, echo("b"))
        await run(api, echo("c", proplet_id="proplet-1"))
        assert (await api.good("GET", "/tasks/a"))["state"] == 2
        await api.good("POST", "/tasks/a/stop")
        await api.ended("a")
        await asyncio.sleep(5)
        assert (await api.good("GET", "/tasks/b"))["reason"] == "all 1 live proplets are busy or cordoned"
        assert (await api.good("GET", "/tasks/c"))["reason"] == "proplet proplet-1 is cordoned"
        await api.good("POST", "/proplets/proplet-1/uncordon")
        assert (await api.ended("b"))["state"] == 3
        assert (await api.ended("c"))["state"] == 3

    in_world(story, proplets=1)


def test_draining_moves_what_can_move():
    """The run goes on elsewhere as a further attempt; pinned work stays and ends."""

    async def story(api: Api):
        await run(api, loop("pinned", proplet_id="proplet-1", limits={"wall_s": 60}))
        await api.until("pinned", 2)
        await run(api, loop("free", constraints=[{"attribute": "id", "value": "proplet-2"}]))
        await api.until("free", 2)
        await api.good("PUT", "/tasks/free", {"name": "free"})
        await api.good("POST", "/proplets/proplet-1/drain")
        assert (await api.good("GET", "/tasks/pinned"))["state"] == 2
        await run(api, loop("moved"))
        task = await api.until("moved", 2)
        home = task["proplet_id"]
        await api.good("POST", f"/proplets/{home}/drain")
        while True:
            task = await api.good("GET", "/tasks/moved")
            if task["state"] == 2 and len(task["attempts"]) == 2:
                break
            await asyncio.sleep(0.5)
        assert task["attempts"][0]["state"] == "stopped"
        assert task["attempts"][1]["proplet_id"] != home
        await api.good("POST", "/tasks/moved/stop")
        assert (await api.ended("moved"))["state"] == 6
        assert (await api.ended("pinned"))["attempts"][0]["proplet_id"] == "proplet-1"

    in_world(story, proplets=4)


def test_labels_and_cordons_of_what_is_not_there_are_404():
    """And labels out of bounds 400."""

    async def story(api: Api):
        for verb in ("cordon", "drain", "uncordon"):
            assert (await api.ask("POST", f"/proplets/none/{verb}"))[0] == 404
        assert (await api.ask("PUT", "/proplets/none/labels", {}))[0] == 404
        for body in ({"x": 1}, {"": "x"}, {"x": "y" * 64}, {str(n): "" for n in range(65)}, [1]):
            assert (await api.ask("PUT", "/proplets/proplet-1/labels", body))[0] == 400

    in_world(story, proplets=1)


def test_a_failing_guest_is_restarted_where_it_was_with_growing_pauses():
    """The same proplet each time; the pause doubles; the last failure ends the run."""

    async def story(api: Api):
        policy = {"attempts": 3, "delay_s": 10, "jitter": 0}
        await run(api, trap("t", restart=policy))
        await asyncio.sleep(8)
        waiting = await api.good("GET", "/tasks/t")
        assert waiting["state"] == 0
        assert "tries again in" in waiting["reason"]
        task = await api.ended("t")
        assert task["state"] == 4
        assert task["restart"] == {"attempts": 3, "delay_s": 10.0, "jitter": 0.0}
        assert [attempt["state"] for attempt in task["attempts"]] == ["failed"] * 4
        assert len({attempt["proplet_id"] for attempt in task["attempts"]}) == 1
        assert api.world.clock.now().mono_s > 10 + 20 + 40

    in_world(story)


def test_a_failing_guest_is_rescheduled_elsewhere():
    """After its restarts, on another proplet each time."""

    async def story(api: Api):
        again = {"attempts": 1, "delay_s": 1, "jitter": 0}
        await run(api, trap("t", restart=again, reschedule=again))
        task = await api.ended("t")
        places = [attempt["proplet_id"] for attempt in task["attempts"]]
        assert len(places) == 3
        assert places[0] == places[1] != places[2]

    in_world(story)


def test_a_vanished_proplet_is_replaced_when_and_if_its_task_says():
    """Sooner or later than the default, or not at all: then its attempt is waited for."""

    async def story(api: Api):
        await run(api, loop("soon", disconnect={"lost_after_s": 5}, limits={"wall_s": 300}))
        home = (await api.until("soon", 2))["proplet_id"]
        began = api.world.clock.now().mono_s
        api.world.broker.partition(home, 300.0)
        while True:
            if len((await api.good("GET", "/tasks/soon"))["attempts"]) > 1:
                break
            await asyncio.sleep(0.5)
        assert api.world.clock.now().mono_s - began < 3 * 5 + 5 + 10
        await run(api, loop("never", disconnect={"replace": False}, limits={"wall_s": 200}))
        home = (await api.until("never", 2))["proplet_id"]
        api.world.broker.partition(home, 100.0)
        await asyncio.sleep(120)
        assert len((await api.good("GET", "/tasks/never"))["attempts"]) == 1
        assert len((await api.ended("never"))["attempts"]) == 1

    in_world(story)
