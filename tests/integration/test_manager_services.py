"""Services through the manager's routes: started, scaled, changed, rolled back, called, and deleted."""

import asyncio
import json

from manager_world import Api, echo, in_world, loop, module, trap

from propeller.ports import Message
from propeller.simulation.world.guests import LOOP
from propeller.simulation.world.world import TOPICS
from propeller.wire.topics import FromProplet

BRISK = {"healthy_s": 2, "deadline_s": 60}


def web(replicas: int = 2, **fields) -> dict:
    """A service that works until it is stopped."""
    return loop("web", daemon=True, replicas=replicas, rollout=BRISK, **fields)


async def run(api: Api, body: dict) -> None:
    """Create and start a task."""
    await api.good("POST", "/tasks", body)
    await api.good("POST", f"/tasks/{body['id']}/start")


async def until(api: Api, **wanted):
    """The service once its `service` object shows these."""
    while True:
        task = await api.good("GET", "/tasks/web")
        if wanted.items() <= task.get("service", {}).items():
            return task
        await asyncio.sleep(0.25)


async def gone(api: Api) -> None:
    """Stopped and deleted, nothing is left of it."""
    await api.good("POST", "/tasks/web/stop")
    await api.ended("web")
    assert (await api.ask("DELETE", "/tasks/web"))[0] == 204
    assert (await api.ask("GET", "/tasks/web.replica-1"))[0] == 404


def test_it_is_shown_with_its_replicas_and_as_pending_while_none_runs():
    """Definition, state, one attempt a replica; no list shows replicas, and they cannot be changed."""

    async def story(api: Api):
        await run(api, web())
        assert (await api.good("GET", "/tasks/web"))["state"] == 0
        task = await until(api, ready=2)
        assert (task["state"], task["replicas"], task["rollout"]) == (2, 2, BRISK)
        assert task["service"] == {
            "wanted": 2, "ready": 2, "updated": 2, "revision": 1, "phase": "steady", "outcome": "", "why": "",
        }  # fmt: skip
        shown = [(one["task_id"], one["state"], one["revision"]) for one in task["attempts"]]
        assert shown == [("web.replica-1", "running", 1), ("web.replica-2", "running", 1)]
        assert len({one["proplet_id"] for one in task["attempts"]}) == 2
        page = await api.good("GET", "/tasks")
        assert [(one["id"], one["service"]["ready"]) for one in page["tasks"]] == [("web", 2)]
        assert (await api.ask("DELETE", "/tasks/web"))[0] == 409
        status, said = await api.ask("PUT", "/tasks/web.replica-1", {"priority": 3})
        assert (status, said["code"]) == (409, "part")
        await gone(api)

    in_world(story)


def test_it_is_scaled_by_its_route_and_by_its_definition():
    """Both say so in the definition; what is no service is not scaled."""

    async def story(api: Api):
        await run(api, web(1))
        await until(api, ready=1)
        assert (await api.good("POST", "/tasks/web/scale", {"replicas": 3}))["replicas"] == 3
        await until(api, ready=3)
        assert (await api.good("PUT", "/tasks/web", {"replicas": 2}))["service"]["wanted"] == 2
        await until(api, ready=2)
        status, _ = await api.ask("POST", "/tasks/web/scale", {"replicas": -1})
        assert status == 400
        await api.good("POST", "/tasks", echo("plain"))
        status, said = await api.ask("POST", "/tasks/plain/scale", {"replicas": 2})
        assert (status, said["code"]) == (400, "no_service")
        story = [one.get("reason") for one in (await api.good("GET", "/tasks/web/events"))["events"]]
        assert "scaled from 1 to 3: user" in story
        await gone(api)

    in_world(story)


def test_a_bad_module_is_rolled_back_and_a_good_one_comes_in():
    """By a change of the definition, which then says what came of it; undo and restart are routes."""

    async def story(api: Api):
        await run(api, web())
        await until(api, ready=2)
        first = (await api.good("GET", "/tasks/web"))["file"]
        await api.good("PUT", "/tasks/web", {"file": trap("x")["file"]})
        task = await until(api, outcome="rolled_back", phase="steady", ready=2)
        assert (task["file"], task["service"]["revision"]) == (first, 1)
        assert task["service"]["why"].startswith("web.replica-3 failed: unreachable executed")
        status, said = await api.ask("POST", "/tasks/web/rollout/undo")
        assert (status, said["code"]) == (409, "no_revision")
        await api.good("PUT", "/tasks/web", {"env": {"GREETING": "hello"}})
        await until(api, outcome="proven", revision=3, updated=2)
        await api.good("POST", "/tasks/web/rollout/undo")
        task = await until(api, outcome="proven", revision=4, updated=2)
        assert "env" not in task
        await api.good("POST", "/tasks/web/rollout/restart")
        await until(api, outcome="proven", revision=5, updated=2)
        await gone(api)

    in_world(story)


def test_a_manager_that_dies_in_mid_rollout_goes_on_with_it():
    """The good revision comes in, and a later start counts on."""

    async def story(api: Api):
        await run(api, web())
        await until(api, ready=2)
        await api.good("PUT", "/tasks/web", {"env": {"A": "b"}})
        await until(api, updated=1)
        api.world.crash("manager", down_s=5)
        await asyncio.sleep(10)
        await until(api, outcome="proven", updated=2, phase="steady")
        await api.good("POST", "/tasks/web/stop")
        await api.ended("web")
        await api.good("POST", "/tasks/web/start")
        task = await until(api, ready=2)
        assert (task["run"], task["service"]["revision"]) == (2, 3)
        await gone(api)

    in_world(story)


def test_calls_of_a_latent_service_go_to_all_replicas_and_its_rule_follows_them():
    """More calls in progress than the target make more replicas; without any, the window brings them down."""

    async def story(api: Api):
        scale = {"min": 1, "max": 3, "on": "queue", "target": 2, "window_s": 30}
        body = {"id": "web", "name": "web", "file": module(LOOP), "latent": True, "scale": scale}
        await run(api, {**body, "rollout": BRISK})
        await until(api, ready=1, wanted=1)
        assert (await api.ask("POST", "/tasks/web/scale", {"replicas": 4}))[0] == 400
        calls = [asyncio.create_task(api.ask("POST", "/tasks/web/invoke")) for _ in range(6)]
        await until(api, ready=3, wanted=3)
        pending = api.world.manager.invocations.pending
        more = [asyncio.create_task(api.ask("POST", "/tasks/web/invoke")) for _ in range(4)]
        await asyncio.sleep(1)
        assert [pending[name] for name in ("web.replica-1", "web.replica-2", "web.replica-3")] == [6, 2, 2]
        assert {(await call)[0] for call in [*calls, *more]} == {503}
        task = await until(api, wanted=1, ready=1)
        assert task["replicas"] == 1
        await gone(api)

    in_world(story)


def test_a_daemons_rule_follows_what_its_replicas_proplets_measure():
    """By the mean over replicas, within its bounds, whatever absurd figure one sends."""

    async def story(api: Api):
        scale = {"min": 1, "max": 3, "on": "cpu", "target": 50, "window_s": 20}
        await run(api, loop("web", daemon=True, scale=scale, rollout=BRISK))
        await until(api, ready=1)
        await measured(api, 80)
        task = await until(api, wanted=2, ready=2)
        assert task["reason"] == "scaled from 1 to 2: 80 % of a core per replica, for 50"
        await measured(api, 1e300)
        await until(api, wanted=3, ready=3)
        await measured(api, -5)
        await until(api, wanted=1, ready=1)
        await gone(api)

    in_world(story)


async def measured(api: Api, percent: float) -> None:
    """Every replica's proplet says so."""
    for one in (await api.good("GET", "/tasks/web"))["attempts"]:
        said = {"task_id": one["task_id"], "metrics": {"cpu_percent": percent}}
        topic = TOPICS.from_proplet(FromProplet.TASK_METRICS, one["proplet_id"])
        api.world.broker.publish("tester", Message(topic, json.dumps(said).encode()))


def test_a_plain_daemon_that_runs_does_not_become_a_service():
    """It is stopped first; then it may."""

    async def story(api: Api):
        await run(api, loop("web", daemon=True))
        await api.until("web", 2)
        status, said = await api.ask("PUT", "/tasks/web", {"replicas": 2})
        assert (status, said["code"]) == (409, "already_started")
        await api.good("POST", "/tasks/web/stop")
        await api.ended("web")
        await api.good("PUT", "/tasks/web", {"replicas": 2, "rollout": BRISK})
        await api.good("POST", "/tasks/web/start")
        await until(api, ready=2)
        await gone(api)

    in_world(story)
