"""Latent tasks, calls and logs through the manager's routes, in a calm world."""

import asyncio
import base64
import json

import pytest
from test_manager_api import Api, in_world

from propeller.ports import Message
from propeller.simulation.world.guests import ECHO_IMAGE, MAGIC
from propeller.simulation.world.world import MANAGER, TOPICS
from propeller.wire.topics import FromProplet


async def started(api: Api, **fields) -> str:
    """The id of a new task that was started."""
    _, task = await api.ask("POST", "/tasks", {"name": "main", "image_url": ECHO_IMAGE} | fields)
    assert await api.ask("POST", f"/tasks/{task['id']}/start") == (200, {"started": True})
    return task["id"]


async def serving(api: Api, **fields) -> str:
    """The id of a latent task that can be called."""
    task_id = await started(api, latent=True, **fields)
    state = 0
    while state != 2:
        await asyncio.sleep(0.2)
        state = (await api.ask("GET", f"/tasks/{task_id}"))[1]["state"]
    return task_id


def test_a_latent_task_is_called_and_stopped():
    """It runs for ever, answers calls with their own inputs, and after a stop says that it does not run.

    Defect 4.22 of the original.
    """

    async def story(api: Api):
        task_id = await serving(api, inputs=["own"])
        await asyncio.sleep(400)
        _, task = await api.ask("GET", f"/tasks/{task_id}")
        assert (task["state"], task["latent"]) == (2, True)
        status, answer = await api.ask("POST", f"/tasks/{task_id}/invoke", {"inputs": [1, "two"]})
        assert (status, answer["invoked"]) == (200, True)
        assert answer["results"].endswith(" 1 two")
        status, answer = await api.ask("POST", f"/tasks/{task_id}/invoke")
        assert status == 200
        assert answer["results"].endswith(" own")
        assert (await api.ask("POST", f"/tasks/{task_id}/stop"))[0] == 200
        assert (await api.ended(task_id))["state"] == 6
        status, answer = await api.ask("POST", f"/tasks/{task_id}/invoke")
        assert (status, answer["code"]) == (409, "not_running")

    in_world(story)


def test_many_calls_at_once_are_each_answered():
    """Answers find their own callers, in whatever order they come."""

    async def story(api: Api):
        task_id = await serving(api)
        calls = [api.ask("POST", f"/tasks/{task_id}/invoke", {"inputs": [n]}) for n in range(20)]
        answers = await asyncio.gather(*calls)
        assert [answer["results"].split()[-1] for _, answer in answers] == [str(n) for n in range(20)]

    in_world(story)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"inputs": "x"}, (400, "undecodable")),
        ({"env": {"A": "x" * 300_000}}, (413, "too_large")),
        ({"inputs": ["1"] * 2000}, (400, "bad_input")),
    ],
    ids=["no list", "huge env", "many inputs"],
)
def test_a_bad_call_says_what_is_wrong(body, expected):
    """The caller's mistake is the caller's status, whoever found it."""

    async def story(api: Api):
        task_id = await serving(api)
        status, answer = await api.ask("POST", f"/tasks/{task_id}/invoke", body)
        assert (status, answer["code"]) == expected

    in_world(story)


def test_what_cannot_be_called_says_why():
    """Unknown, not latent, not started, proplet gone: each its own status and code."""

    async def story(api: Api):
        status, answer = await api.ask("POST", "/tasks/nobody/invoke")
        assert status == 404
        _, plain = await api.ask("POST", "/tasks", {"name": "main", "image_url": ECHO_IMAGE})
        status, answer = await api.ask("POST", f"/tasks/{plain['id']}/invoke")
        assert (status, answer["code"]) == (400, "not_latent")
        _, idle = await api.ask("POST", "/tasks", {"name": "m", "image_url": ECHO_IMAGE, "latent": True})
        status, answer = await api.ask("POST", f"/tasks/{idle['id']}/invoke")
        assert (status, answer["code"]) == (409, "not_running")
        task_id = await serving(api)
        _, task = await api.ask("GET", f"/tasks/{task_id}")
        api.world.crash(task["attempts"][-1]["proplet_id"], down_s=1000.0)
        status, answer = await api.ask("POST", f"/tasks/{task_id}/invoke")
        assert (status, answer["code"]) in {(503, "proplet_offline"), (503, "timeout")}

    in_world(story)


def test_a_latent_task_that_is_no_module_fails():
    """What does not compile is found at the start, not at the first call."""

    async def story(api: Api):
        module = base64.b64encode(MAGIC + b"nothing of this world").decode()
        task_id = await started(api, latent=True, image_url=None, file=module)
        task = await api.ended(task_id)
        assert (task["state"], task["failure"]) == (4, "invalid_module")

    in_world(story)


def test_a_latent_task_is_neither_daemon_nor_round():
    """A contradiction is refused when it is made."""

    async def story(api: Api):
        body = {"name": "m", "image_url": ECHO_IMAGE, "latent": True, "env": {"ROUND_ID": "r"}}
        assert (await api.ask("POST", "/tasks", body))[0] == 400

    in_world(story)


def test_an_answer_counts_only_from_the_proplet_that_was_asked():
    """Another proplet that guesses the id of a call cannot answer it."""

    async def story(api: Api):
        task_id = await serving(api)
        manager = api.world.manager
        calling = asyncio.ensure_future(api.ask("POST", f"/tasks/{task_id}/invoke", {"inputs": ["x"]}))
        while not manager.invocations._waiting:  # noqa: ASYNC110 - until the request is on its way
            await asyncio.sleep(0)
        (call_id,) = manager.invocations._waiting
        forged = json.dumps({"task_id": task_id, "invocation_id": call_id, "results": "forged"}).encode()
        for topic in (
            TOPICS.from_proplet(FromProplet.INVOKE_RESULTS, "stranger"),
            TOPICS.from_proplet(FromProplet.INVOKE_RESULTS),
        ):
            await manager._listener(Message(topic, forged))
        _, answer = await calling
        assert answer["results"].endswith(" x")

    in_world(story)


async def text(api: Api, path: str) -> str:
    """A log as text."""
    answer = await api.world.calm_http.request("GET", MANAGER + path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    return answer.body.decode()


def test_what_a_guest_printed_is_kept_by_run():
    """The latest run's log by default, any run by its number, all with 0; a follower gets it to its end."""

    async def story(api: Api):
        task_id = await started(api)
        followed = await text(api, f"/tasks/{task_id}/logs?follow=true")
        await api.ended(task_id)
        assert followed.startswith("hello from proplet-")
        assert await text(api, f"/tasks/{task_id}/logs") == followed
        await api.ask("POST", f"/tasks/{task_id}/start")
        await api.ended(task_id)
        second = await text(api, f"/tasks/{task_id}/logs")
        assert second.startswith("hello from proplet-")
        assert await text(api, f"/tasks/{task_id}/logs?run=1") == followed
        assert await text(api, f"/tasks/{task_id}/logs?run=0") == followed + second
        assert await text(api, f"/tasks/{task_id}/logs?stream=stderr") == ""
        assert (await api.ask("GET", "/tasks/nobody/logs"))[0] == 404

    in_world(story)


def test_a_log_goes_with_its_task():
    """The first sweep after a task was deleted takes its log; another one of the same id begins with none."""

    async def story(api: Api):
        kept, dropped = [await started(api) for _ in range(2)]
        for task_id in (kept, dropped):
            await api.ended(task_id)
            assert await text(api, f"/tasks/{task_id}/logs?run=0")
        await api.ask("DELETE", f"/tasks/{dropped}")
        assert (await api.ask("POST", "/retention/sweep"))[1]["deleted"]["logs"] == 1
        await api.ask("POST", "/tasks", {"id": dropped, "name": "another"})
        assert await text(api, f"/tasks/{dropped}/logs?run=0") == ""
        assert await text(api, f"/tasks/{kept}/logs?run=0")

    in_world(story)


def test_a_log_counts_only_from_the_attempts_own_proplet():
    """A stranger's chunk, one for another attempt and one on the shared topic change nothing."""

    async def story(api: Api):
        task_id = await serving(api)
        manager = api.world.manager
        _, task = await api.ask("GET", f"/tasks/{task_id}")
        owner = task["attempts"][-1]["proplet_id"]
        chunk = {"task_id": task_id, "run": 1, "attempt": 1, "seq": 0, "text": "said"}
        for sender, changed in ((None, {}), ("stranger", {}), (owner, {"attempt": 2}), (owner, {"run": 7})):
            payload = json.dumps(chunk | changed).encode()
            await manager._listener(Message(TOPICS.from_proplet(FromProplet.LOGS, sender), payload))
        assert await text(api, f"/tasks/{task_id}/logs") == ""
        topic = TOPICS.from_proplet(FromProplet.LOGS, owner)
        await manager._listener(Message(topic, json.dumps(chunk).encode()))
        missing = chunk | {"text": " more", "dropped_bytes": 12}
        await manager._listener(Message(topic, json.dumps(missing).encode()))
        assert await text(api, f"/tasks/{task_id}/logs") == "said\n[… 12 bytes are missing …]\n more"

    in_world(story)
