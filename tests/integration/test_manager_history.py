"""What the manager keeps of the past: events, measurements, results for dependents; and the SDF document."""

import asyncio
import json

import pytest
from manager_world import Api, echo, in_world, loop, trap

from propeller.ports import Message
from propeller.simulation.world.world import TOPICS
from propeller.wire.topics import FromManager, FromProplet


async def publish(api: Api, topic: str, body) -> None:
    """Publish as somebody on the broker of the world."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    api.world.broker.publish("tester", Message(topic, payload))
    await asyncio.sleep(3)


def test_a_tasks_history_tells_its_story():
    """Creation, assignment, start and end, each with when, where and why; pages like all others."""

    async def story(api: Api):
        await api.good("POST", "/tasks", echo("t"))
        await api.good("POST", "/tasks/t/start")
        await api.ended("t")
        page = await api.good("GET", "/tasks/t/events")
        assert (page["offset"], page["limit"], page["total"]) == (0, 100, len(page["events"]))
        states = [event.get("state", event["event"]) for event in page["events"]]
        assert states[0] == "created"
        assert [state for at, state in enumerate(states) if state not in states[:at]] == [
            "created",
            "waiting",  # for what its tag means
            "assigned",
            "running",
            "completed",
        ]
        assert all(event["cause"] for event in page["events"]), "every event has a cause"
        assert page["events"][-1]["proplet_id"].startswith("proplet-")
        times = [event["time"] for event in page["events"]]
        assert times == sorted(times)
        page = await api.good("GET", "/tasks/t/events?offset=1&limit=1")
        assert [event["state"] for event in page["events"]] == ["waiting"]
        assert (await api.ask("GET", "/tasks/none/events"))[0] == 404

    in_world(story)


def test_dependents_get_the_results_of_the_dependencies_that_completed():
    """In the start message, by task id; a task without dependencies gets none."""

    async def story(api: Api):
        starts = []
        watcher = api.world.broker.decide
        api.world.broker.decide = lambda delivery: starts.append(delivery.message) or watcher(delivery)
        tasks = [
            echo("a"),
            trap("b"),
            echo("c", depends_on=["a"]),
            echo("x", depends_on=["a", "b"], run_if="failure"),
        ]
        await api.good("POST", "/workflows", {"tasks": tasks})
        for name in "ab":
            await api.good("POST", f"/tasks/{name}/start")
        await api.ended("x")
        await api.ended("c")
        said = (await api.good("GET", "/tasks/a/results"))["results"]
        prefix = TOPICS.from_manager(FromManager.START)
        sent = {}
        for message in starts:
            if message.topic.startswith(prefix):
                body = json.loads(message.payload)
                sent[body["id"]] = body
        assert "parent_results" not in sent["a"]
        assert sent["c"]["parent_results"] == {"a": said}
        assert sent["x"]["parent_results"] == {"a": said}

    in_world(story)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("2026-03-01T12:00:00+01:00", "2026-03-01T11:00:00.000000Z"),
        (
            {"secs_since_epoch": 1_772_362_800, "nanos_since_epoch": 500_000_000},
            "2026-03-01T11:00:00.500000Z",
        ),
        (1_772_362_800_000, "2026-03-01T11:00:00.000000Z"),
        (123_456, None),
        ("yesterday", None),
        ({"secs_since_epoch": "x"}, None),
        (None, None),
    ],
)
def test_measurements_of_proplets_are_kept_with_their_moment(said, shown):
    """All three ways to write a moment are understood; device uptime means now (defect 4.11)."""

    async def story(api: Api):
        await publish(api, TOPICS.from_proplet(FromProplet.CREATE), {"proplet_id": "old"})
        await publish(api, TOPICS.from_proplet(FromProplet.ALIVE), {"proplet_id": "old", "status": "alive"})
        body = {
            "proplet_id": "old",
            "namespace": "default",
            "timestamp": said,
            "cpu_metrics": {"user_seconds": 1.5, "percent": 7},
            "memory_metrics": {"rss_bytes": 4096, "heap_free_bytes": 12},
        }
        await publish(api, TOPICS.from_proplet(FromProplet.METRICS), body)
        page = await api.good("GET", "/proplets/old/metrics")
        assert page["total"] == 1
        (kept,) = page["metrics"]
        assert kept["cpu_metrics"] == {"user_seconds": 1.5, "system_seconds": 0.0, "percent": 7.0}
        assert kept["memory_metrics"]["rss_bytes"] == 4096
        assert kept["memory_metrics"]["heap_free_bytes"] == 12
        assert kept["timestamp"] == shown or (shown is None and kept["timestamp"].startswith("2023-11-14T"))

    in_world(story, proplets=1)


def test_measurements_count_only_from_whom_they_are_of():
    """A stranger, a proplet of the other lane and a task that it does not hold leave no trace (M6)."""

    async def story(api: Api):
        await api.good("POST", "/tasks", loop("t", proplet_id="proplet-1"))
        await api.good("POST", "/tasks/t/start")
        await api.until("t", 2)
        own = (await api.good("GET", "/tasks/t/metrics"))["total"]
        hosts = (await api.good("GET", "/proplets/proplet-1/metrics"))["total"]
        sample = {"task_id": "t", "metrics": {"cpu_percent": 3, "memory_bytes": 10}, "aggregated": None}
        topic = TOPICS.from_proplet(FromProplet.TASK_METRICS, "proplet-1")
        await publish(api, topic, sample)
        assert (await api.good("GET", "/tasks/t/metrics"))["total"] >= own + 1
        before = (await api.good("GET", "/tasks/t/metrics"))["total"]
        await publish(api, TOPICS.from_proplet(FromProplet.TASK_METRICS, "proplet-2"), sample)
        await publish(
            api, TOPICS.from_proplet(FromProplet.TASK_METRICS), sample | {"proplet_id": "proplet-1"}
        )
        await publish(api, TOPICS.from_proplet(FromProplet.METRICS), {"proplet_id": "nobody"})
        await publish(api, topic, b"[1]")
        # A thousand of these would be a gigabyte on disk.
        await publish(api, topic, sample | {"timestamp": "x" * 100_000})
        page = await api.good("GET", "/tasks/t/metrics?limit=1")
        assert page["total"] == before
        assert page["metrics"][0]["metrics"]["memory_bytes"] == 10
        assert hosts == (await api.good("GET", "/proplets/proplet-1/metrics"))["total"] or hosts
        assert (await api.ask("GET", "/proplets/nobody/metrics"))[0] == 404
        assert (await api.ask("GET", "/tasks/none/metrics"))[0] == 404

    in_world(story)


def test_the_sdf_document_describes_what_a_proplet_is():
    """The original's members; references point to what is there."""

    async def story(api: Api):
        document = await api.good("GET", "/proplets/proplet-1/sdf")
        assert document["info"]["title"].endswith("(proplet-1)")
        assert document["info"]["version"] == "1.0"
        thing = document["sdfThing"]["Proplet"]
        assert set(thing["sdfProperty"]) == {"id", "name", "alive", "task_count", "metadata"}
        assert thing["sdfData"]["TaskDispatch"]["required"] == ["id", "name"]
        for part in (*thing["sdfAction"].values(), *thing["sdfEvent"].values()):
            (reference,) = [inner["sdfRef"] for inner in part.values()]
            assert reference.rpartition("/")[2] in thing["sdfData"]
        assert (await api.ask("GET", "/proplets/none/sdf"))[0] == 404

    in_world(story, proplets=1)
