"""Whole experiments over real shells in virtual time: drawn, evaluated, with participants that fail."""

import asyncio

import pytest
from manager_world import Api, in_world, with_data

from propeller.simulation.world.guests import TRAINER_IMAGE

EXPERIMENT = {
    "experiment_id": "exp",
    "model_ref": "fl/models/global_model_v0",
    "hyperparams": {"lr": 0.01},
    "timeout_s": 120,
    "task_wasm_image": TRAINER_IMAGE,
    "rounds": 2,
    "seed": 7,
}


async def over(api: Api, for_s: float = 600.0):
    """The experiment once it has ended."""
    for _ in range(int(for_s)):
        found = await api.good("GET", "/fl/experiments/exp")
        if found["state"] in {"completed", "failed", "stopped"}:
            return found
        await asyncio.sleep(1)
    raise AssertionError(f"never over: {found}")


def test_participants_are_drawn_among_those_with_the_labels():
    """Each round draws by the seed; whoever lacks the labels is never asked."""

    async def story(api: Api):
        names = [f"proplet-{number}" for number in range(1, 5)]
        await with_data(api, *names)
        for name in names[:3]:
            await api.good("PUT", f"/proplets/{name}/labels", {"site": "a"})
        selector = {"labels": {"site": "a"}, "clients": 2}
        await api.good("POST", "/fl/experiments", {**EXPERIMENT, "rounds": 4, "selector": selector})
        found = await over(api)
        assert (found["state"], found["model_version"]) == ("completed", 4), found
        asked = [tuple(one["participants"]) for one in found["history"]]
        assert all(len(one) == 2 and set(one) <= set(names[:3]) for one in asked)
        assert len(set(asked)) > 1
        rows = await api.good("GET", "/fl/experiments/exp/participants")
        assert [row["participant"] for row in rows["participants"]] == names[:3]

    in_world(story, proplets=4)


def test_a_round_waits_until_enough_are_connected():
    """`min_connected` of three, with two there, launches nothing until the third comes."""

    async def story(api: Api):
        await with_data(api, "proplet-1", "proplet-2", "proplet-3")
        api.world.nodes["proplet-3"].crash()
        await asyncio.sleep(20)
        selector = {"clients": 2, "min_connected": 3}
        await api.good(
            "POST", "/fl/experiments", {**EXPERIMENT, "rounds": 1, "round_id": "exp-1", "selector": selector}
        )
        await asyncio.sleep(60)
        found = await api.good("GET", "/fl/experiments/exp")
        assert (found["state"], found["history"][0]["state"]) == ("running", "registered")
        assert (await api.good("GET", "/tasks"))["total"] == 0
        api.world.nodes["proplet-3"].start()
        assert (await over(api))["state"] == "completed"

    in_world(story)


def test_every_model_is_evaluated_on_rows_that_nobody_trained_on():
    """Two rows of ten are held out on each device; the measurements are the experiment's."""

    async def story(api: Api):
        names = ["proplet-1", "proplet-2"]
        await with_data(api, *names)
        await api.good("POST", "/fl/experiments", {**EXPERIMENT, "participants": names, "evaluation": True})
        found = await over(api)
        assert (found["state"], list(found["metrics"])) == ("completed", ["loss"])
        kinds = {one["round_id"]: (one["mode"], one["total_samples"]) for one in found["history"]}
        assert kinds == {
            "exp-1": ("train", 16),
            "exp-1-eval": ("evaluate", 4),
            "exp-2": ("train", 16),
            "exp-2-eval": ("evaluate", 4),
        }
        tasks = (await api.good("GET", "/tasks?limit=100"))["tasks"]
        assert {(task["mode"], task["env"]["FL_DATA_PART"]) for task in tasks} == {
            ("train", "train"),
            ("infer", "test"),
        }
        assert {task["state"] for task in tasks} == {3}

    in_world(story, proplets=2)


def test_one_model_is_evaluated_by_itself():
    """An experiment of mode infer makes no model, and has its metrics."""

    async def story(api: Api):
        names = ["proplet-1", "proplet-2"]
        await with_data(api, *names)
        body = {**EXPERIMENT, "rounds": 1, "round_id": "look", "participants": names, "mode": "infer"}
        await api.good("POST", "/fl/experiments", body)
        found = await over(api)
        assert (found["state"], found["mode"], found["model_version"]) == ("completed", "infer", 0)
        assert found["history"][0]["metrics"].keys() == {"loss"}

    in_world(story, proplets=2)


@pytest.mark.parametrize("restart", [False, True])
def test_a_participant_that_failed_for_good_ends_the_round_early(restart):
    """The manager tells the coordinator, also after a restart of its own; nobody waits for the timeout."""

    async def story(api: Api):
        await with_data(api, "proplet-1", "proplet-2")
        if restart:
            # Whatever this manager would tell is never said.
            api.world.manager._losses.ended = lambda _change: None
        body = {
            **EXPERIMENT,
            "participants": ["proplet-1", "proplet-2", "proplet-3"],
            "rounds": 1,
            "round_id": "exp-1",
            "min_updates": 2,
            "timeout_s": 3000,
        }
        began_s = api.world.clock.now().mono_s
        await api.good("POST", "/fl/experiments", body)
        if restart:
            await asyncio.sleep(400)
            assert (await api.good("GET", "/fl/experiments/exp"))["state"] == "running"
            api.world.crash("manager", down_s=1.0)
            await asyncio.sleep(2)
        found = await over(api)
        assert (found["state"], found["history"][0]["num_updates"]) == ("completed", 2)
        assert list(found["history"][0]["lost"]) == ["proplet-3"]
        assert api.world.clock.now().mono_s - began_s < 1000

    in_world(story)


HANDLE = {
    "id": "job",
    "name": "train-together",
    "kind": "federated",
    "mode": "train",
    "image_url": TRAINER_IMAGE,
    "fl": {
        "total_rounds": 2,
        "clients_per_round": 2,
        "min_participants": 2,
        "round_timeout_sec": 60,
        "learning_rate": 0.01,
        "update_format": "json-f64",
    },
}


def test_a_start_that_the_coordinator_refuses_leaves_the_task_as_it_was():
    """An unknown strategy: the start says so; the task stands for no experiment, and starts once mended."""

    async def story(api: Api):
        await with_data(api, "proplet-1", "proplet-2", "proplet-3")
        await api.good("POST", "/tasks", {**HANDLE, "fl": {**HANDLE["fl"], "algorithm": "magic"}})
        status, error = await api.ask("POST", "/tasks/job/start")
        assert (status, "magic" in error["error"]) == (400, True), error
        task = await api.good("GET", "/tasks/job")
        assert (task["state"], task.get("reason", ""), task.get("experiment_id", "")) == (0, "", "")
        await api.good("PUT", "/tasks/job", HANDLE)
        await api.good("POST", "/tasks/job/start")
        assert (await api.ended("job", run=1))["experiment_id"] == "job"

    in_world(story)


def test_a_federated_task_is_a_handle_on_an_experiment():
    """Its state mirrors the experiment's; each start is another one; clients per round are enforced."""

    async def story(api: Api):
        await with_data(api, "proplet-1", "proplet-2", "proplet-3")
        made = await api.good("POST", "/tasks", HANDLE)
        assert (made["state"], made["fl"]["total_rounds"]) == (0, 2)
        for start, experiment_id in ((1, "job"), (2, "job.2")):
            await api.good("POST", "/tasks/job/start")
            assert (await api.ask("POST", "/tasks/job/start"))[0] == 409
            assert (await api.ask("DELETE", "/tasks/job"))[0] == 409
            task = await api.ended("job", run=start)
            assert (task["state"], task["experiment_id"]) == (3, experiment_id)
            assert task["results"]["model_ref"] == f"fl/models/global_model_v{2 * start}"
            found = await api.good("GET", f"/fl/experiments/{experiment_id}")
            assert [len(one["participants"]) for one in found["history"]] == [2, 2]
        listed = (await api.good("GET", "/tasks?limit=100"))["tasks"]
        assert [task["state"] for task in listed if task["id"] == "job"] == [3]
        assert (await api.good("GET", "/tasks/job/results"))["results"]["rounds"] == 2

    in_world(story)


def test_stopping_the_handle_stops_the_experiment():
    """And the tasks of the round under way; a handle that never began has nothing to stop."""

    async def story(api: Api):
        await with_data(api, "proplet-1", "proplet-2")
        api.world.nodes["proplet-2"].crash()
        await api.good("POST", "/tasks", HANDLE)
        await api.good("POST", "/tasks/job/stop")
        assert (await api.good("GET", "/tasks/job"))["state"] == 0
        await api.good("POST", "/tasks/job/start")
        await asyncio.sleep(5)
        assert (await api.good("GET", "/tasks/job"))["state"] == 2
        await api.good("POST", "/tasks/job/stop")
        task = await api.ended("job")
        assert (task["state"], task["reason"]) == (6, "stopped")
        assert (await api.good("GET", "/fl/experiments/job"))["state"] == "stopped"

    in_world(story, proplets=2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "standard"},
        {"env": {"ROUND_ID": "r-1"}},
        {"schedule": "* * * * *"},
        {"proplet_id": "proplet-1"},
        {"fl": {"job_id": "no id"}},
    ],
)
def test_a_handle_has_no_place_of_its_own(wrong):
    """What only a task that runs can have is refused."""

    async def story(api: Api):
        assert (await api.ask("POST", "/tasks", {**HANDLE, **wrong}))[0] == 400

    in_world(story, proplets=1)


def test_a_device_that_sleeps_across_rounds_delivers_when_it_wakes():
    """The others go on without it; its old update counts in the round that is open then (N8)."""

    async def story(api: Api):
        names = ["proplet-1", "proplet-2", "proplet-3"]
        await with_data(api, *names)
        body = {
            **EXPERIMENT,
            "participants": names,
            "rounds": 8,
            "k_of_n": 2,
            "strategy": {"name": "fedbuff"},
            "late": {"staleness_max": 8},
        }
        await api.good("POST", "/fl/experiments", body)
        api.world.crash("proplet-3", down_s=12.0)
        found = await over(api)
        assert (found["state"], found["model_version"]) == ("completed", 8), found
        rows = (await api.good("GET", "/fl/experiments/exp/participants"))["participants"]
        assert {row["participant"] for row in rows if row["sent"]} == set(names)
        late = []
        for one in found["history"]:
            detail = await api.good("GET", f"/fl/rounds/{one['round_id']}")
            late += [update for update in detail["updates"] if update["staleness"]]
        assert any(update["participant"] == "proplet-3" for update in late)
        await asyncio.sleep(120)
        tasks = (await api.good("GET", "/tasks?limit=100"))["tasks"]
        assert {task["state"] for task in tasks} <= {3, 6}, tasks

    in_world(story)
