"""Experiments at the coordinator: pauses, failed rounds, evaluation, draws, and what is told about them."""

import asyncio

import pytest
from coordinator_world import SECRET, run, update

from propeller import limits
from propeller.federation.aggregator import app as aggregator
from propeller.federation.offload import inline
from propeller.fl.token import make_token

STARTED = "m/d/c/c/fl/rounds/start"
MODELS = "http://registry/models/global_model/versions"


async def step(world, round_id, version, participants=("p1", "p2"), value=1.0):
    """Everyone's update for a round that starts from `version`."""
    for participant in participants:
        status, answer = await world.submit(
            participant,
            value,
            round_id,
            base_model_uri=f"fl/models/global_model_v{version}",
        )
        assert status == 200, answer
    await asyncio.sleep(1)


async def measure(world, round_id, version, participants=("p1", "p2"), accuracy=0.5, **more):
    """Everyone's metrics for an evaluation."""
    for participant in participants:
        body = update(participant, round_id=round_id, base_model_uri=f"fl/models/global_model_v{version}")
        del body["update"]
        status, answer = await world.ask(
            "POST", "/update", {**body, "metrics": {"accuracy": accuracy, **more}}
        )
        assert status == 200, answer
    await asyncio.sleep(1)


async def experiment(world, **more):
    """Register an experiment of three rounds of two participants."""
    fields = {"rounds": 3, "participants": ["p1", "p2"], "timeout_s": 60, **more}
    return await world.register("exp-1", **fields)


async def shown(world):
    """The experiment as the coordinator shows it."""
    return (await world.ask("GET", "/experiments/exp"))[1]


async def reborn(world):
    """Kill the coordinator and start another on its store."""
    await world.kill()
    await world.start()


def test_a_paused_experiment_waits_over_a_restart_until_it_is_resumed():
    """The round under way ends; the next one is asked for only after `resume`."""

    async def scenario(world):
        await experiment(world)
        assert (await world.ask("POST", "/experiments/exp/pause"))[1]["state"] == "paused"
        await step(world, "exp-1", 0)
        await reborn(world)
        found = await shown(world)
        assert (found["state"], found["phase"], found["model_version"]) == ("paused", "between", 1)
        assert world.heard(STARTED) == []
        assert (await world.ask("POST", "/experiments/exp/resume"))[1]["state"] == "running"
        await asyncio.sleep(1)
        assert [said["round_id"] for said in world.heard(STARTED)][:1] == ["exp-2"]
        await step(world, "exp-2", 1)
        await world.ask("POST", "/experiments/exp/stop")
        status, answer = await world.ask("POST", "/experiments/exp/resume")
        assert (status, answer["code"]) == (409, "experiment_over")

    run(scenario)


def test_a_failed_round_is_outlived_and_its_reason_kept():
    """The next round starts from the same model; the experiment fails after too many in a row."""

    async def scenario(world):
        await experiment(world, rounds=5, round_failures_max=1)
        await asyncio.sleep(61)
        assert (await world.settle("exp-1", 0))["reason"] == "too_few_updates"
        await step(world, "exp-2", 0)
        assert (await shown(world))["model_version"] == 1
        await asyncio.sleep(2 * limits.ROUND_LAUNCH_S + 2)
        found = await shown(world)
        assert (found["state"], found["reason"], found["round"]) == ("failed", "not_launched", 4)

    run(scenario)


def test_the_new_model_is_evaluated_before_the_next_round():
    """An evaluation carries metrics and no update; they are weighted, kept per device, and decide the end."""

    async def scenario(world):
        stop = {"metric": "accuracy", "target": 0.9}
        await experiment(world, evaluation={"every": 1}, stop=stop)
        await step(world, "exp-1", 0)
        [asked] = [said for said in world.heard(STARTED) if said["round_id"] == "exp-1-eval"][:1]
        assert (asked["mode"], asked["data_part"]) == ("infer", "test")
        assert asked["model_uri"] == "fl/models/global_model_v1"
        whole = update("p1", round_id="exp-1-eval", base_model_uri="fl/models/global_model_v1")
        for wrong in (whole, {**whole, "update": None, "metrics": {"note": "none"}}):
            status, answer = await world.ask("POST", "/update", wrong)
            assert (status, answer["code"]) == (400, "not_an_evaluation"), answer
        await measure(world, "exp-1-eval", 1, accuracy=0.5)
        round_ = (await world.ask("GET", "/rounds/exp-1-eval"))[1]
        assert (round_["mode"], round_["metrics"], round_["model_version"]) == (
            "evaluate",
            {"accuracy": 0.5},
            None,
        )
        assert [one["metrics"] for one in round_["updates"]] == [{"accuracy": 0.5}] * 2
        assert round_["refused"] == {"not_an_evaluation": 2}
        assert {one["participant"] for one in round_["refusals"]} == {"p1"}
        await step(world, "exp-2", 1)
        await reborn(world)
        await measure(world, "exp-2-eval", 2, accuracy=0.95)
        found = await shown(world)
        assert (found["state"], found["reason"]) == ("completed", "accuracy reached 0.95")
        assert (found["best"], found["best_version"], found["metrics"]) == (0.95, 2, {"accuracy": 0.95})
        assert (await world.ask("GET", "/rounds/next"))[1]["last_completed_round"] == "exp-2"

    run(scenario)


def test_the_best_model_is_the_best_evaluated_one_by_the_metric_that_the_experiment_stops_by():
    """Not the one whose updates looked best; what was measured outlives a registry and a coordinator away."""

    async def info(world, version):
        return (await world.services.ask("GET", f"{MODELS}/{version}/info"))[1]

    async def scenario(world):
        stop = {"metric": "error", "direction": "min", "patience": 3}
        await experiment(world, evaluation=True, stop=stop)
        await step(world, "exp-1", 0, value=0.9)
        await measure(world, "exp-1-eval", 1, accuracy=0.7, error=0.3)
        assert (await info(world, 1))["objective"] == {"metric": "error", "direction": "min"}
        await step(world, "exp-2", 1, value=0.1)
        world.http.unregister("http://registry")
        await measure(world, "exp-2-eval", 2, accuracy=0.8, error=0.6)
        assert (await world.ask("GET", "/rounds/exp-2-eval"))[1]["state"] == "aggregating"
        await reborn(world)
        world.services.start_registry()
        assert (await world.settle("exp-2-eval", 20))["completed"]
        best = await info(world, "best")
        assert (best["version"], best["evaluation"]["round_id"]) == (1, "exp-1-eval")
        assert (best["evaluation"]["metrics"], best["evaluation"]["samples"]) == (
            {"accuracy": 0.7, "error": 0.3},
            20,
        )
        assert (await info(world, 2))["evaluation"]["metrics"]["error"] == 0.6
        assert (await shown(world))["best_version"] == 1

    run(scenario)


def test_a_model_that_is_looked_at_once_has_its_evaluation_too():
    """An experiment of mode infer; and where the registry keeps none, the measurement stands all the same."""

    async def scenario(world):
        await world.register("look-1", participants=["p1"], mode="infer")
        await measure(world, "look-1", 0, ["p1"])
        found = (await world.services.ask("GET", f"{MODELS}/best/info"))[1]
        assert (found["version"], found["evaluation"]["round_id"]) == (0, "look-1")
        await world.register("look-2", participants=["p1"], mode="infer", experiment_id="again")
        world.http.register("http://registry", aggregator.build(offload=inline))  # knows no models
        await measure(world, "look-2", 0, ["p1"], accuracy=0.25)
        done = (await world.ask("GET", "/rounds/look-2"))[1]
        assert (done["state"], done["metrics"]) == ("completed", {"accuracy": 0.25})

    run(scenario)


def test_metrics_alone_are_no_update_where_a_model_is_trained():
    """The round proceeds."""

    async def scenario(world):
        await world.register(participants=["p1"])
        body = update("p1")
        del body["update"]
        status, answer = await world.ask("POST", "/update", body)
        assert (status, answer["code"]) == (400, "empty_update")

    run(scenario)


def test_participants_are_drawn_by_the_manager_and_may_be_lost():
    """Nobody takes part before; a lost one ends the round early, with the reason in its record."""

    async def scenario(world):
        status, answer = await experiment(world, participants=[], selector={"clients": 3, "k_of_n": 3})
        assert status == 201, answer
        [asked] = world.heard(STARTED)[:1]
        assert (asked["round_id"], asked["selector"], asked["participants"]) == (
            "exp-1",
            {"clients": 3, "k_of_n": 3},
            [],
        )
        drawn = {"participants": ["p1", "p2", "p3"], "k_of_n": 3}
        for _ in range(2):
            assert (await world.ask("POST", "/rounds/exp-1/participants", drawn))[0] == 200
        status, _ = await world.ask("POST", "/rounds/exp-1/participants", {"participants": ["p4"]})
        assert status == 409
        await reborn(world)
        await step(world, "exp-1", 0, ["p1"])
        lost = {"participants": {"p2": "trap: unreachable", "p9": "who?"}}
        status, said = await world.ask("POST", "/rounds/exp-1/lost", lost)
        assert (status, said["state"], said["reason"]) == (200, "failed", "too_few_updates")
        record = (await world.ask("GET", "/rounds/exp-1"))[1]
        assert record["lost"] == {"p2": "trap: unreachable"}
        assert (await world.ask("POST", "/rounds/exp-1/lost", lost))[0] == 200
        assert (await world.ask("POST", "/rounds/none/lost", lost))[0] == 404

    run(scenario)


def test_rounds_and_participants_are_told_in_numbers():
    """Bytes, seconds, samples and metrics per round and per participant; hashes in each round's record."""

    async def scenario(world):
        await experiment(world, rounds=2, k_of_n=1)
        await world.submit("p1", 1.0, "exp-1", samples=7, trainer_hash="a" * 64)
        await asyncio.sleep(1)
        await step(world, "exp-2", 1, ["p2"])
        metrics = (await world.ask("GET", "/experiments/exp/metrics"))[1]["rows"]
        assert [(row["round_id"], row["samples"], row["model_version"]) for row in metrics] == [
            ("exp-1", 7, 1),
            ("exp-2", 10, 2),
        ]
        assert all(row["bytes"] > 0 and row["metrics"] == {"loss": 1.0} for row in metrics)
        rows = (await world.ask("GET", "/experiments/exp/participants"))[1]["participants"]
        assert [(row["participant"], row["asked"], row["sent"], row["samples"]) for row in rows] == [
            ("p1", 2, 1, 7),
            ("p2", 2, 1, 10),
        ]
        record = (await world.ask("GET", "/rounds/exp-1"))[1]
        assert record["trainer_hashes"] == ["a" * 64]
        assert len(record["base_hash"]) == len(record["config_hash"]) == 64

    run(scenario)


def test_the_last_rounds_update_replayed_counts_nowhere():
    """As it was: a repetition. Under the next round's id: another base, or another round's token (F6)."""

    async def scenario(world):
        await experiment(world)
        await step(world, "exp-1", 0)
        old = update("p1", round_id="exp-1")
        assert await world.ask("POST", "/update", old) == (200, {"status": "accepted", "duplicate": True})
        status, answer = await world.ask("POST", "/update", {**old, "round_id": "exp-2"})
        assert (status, answer["code"]) == (400, "wrong_base")
        hidden = {**old, "round_id": "exp-2", "base_model_uri": "", "metrics": None}
        token = make_token(SECRET, "exp-1", "p1")
        status, answer = await world.ask("POST", "/update", {**hidden, "update_token": token})
        assert (status, answer["code"]) == (403, "bad_token")
        found = (await world.ask("GET", "/rounds/exp-2"))[1]
        assert (found["num_updates"], found["refused"]) == (0, {"wrong_base": 1, "bad_token": 1})

    run(scenario)


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"privacy": {"epsilon": 1}}, 400, "not_offered"),
        ({"selector": {"clients": 1}, "strategy": {"name": "krum", "options": {"faulty": 1}}}, 201, None),
        ({"selector": {"fraction": 2}}, 400, "bad_selector"),
        ({"selector": {"labels": {"site": "a"}, "clients": 1}}, 400, "bad_input"),
        ({"stop": {"metric": "acc"}}, 400, "bad_stop"),
        ({"stop": {"metric": "acc", "direction": "up", "target": 1}}, 400, None),
        ({"mode": "infer", "rounds": 3}, 400, "bad_mode"),
        ({"update_format": "f8-delta"}, 400, "bad_update_format"),
        ({"task_wasm_image": "", "evaluation": True}, 400, "missing_image"),
    ],
)
def test_wishes_that_cannot_be_granted_are_refused(more, status, code):
    """With a stable code and nothing registered."""

    async def scenario(world):
        found, answer = await experiment(world, **more)
        assert (found, answer.get("code")) == (status, code) if code else found == status, answer
        if status != 201:
            assert (await world.ask("GET", "/experiments"))[1]["total"] == 0

    run(scenario)
