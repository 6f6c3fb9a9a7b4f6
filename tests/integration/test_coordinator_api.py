import asyncio

import cbor2
import pytest
from coordinator_world import BASE, SECRET, run, update

from propeller.fl.token import make_token


def test_round_runs_from_registration_to_model():
    """The published steps: register, three updates, completed with the weighted mean as version 1."""

    async def scenario(world):
        status, answer = await world.register(k_of_n=3, timeout_s=60)
        assert (status, answer) == (
            201,
            {"experiment_id": "exp", "round_id": "r1", "status": "configured", "model_version": 0},
        )
        for participant, value, samples in (("p2", 2.0, 10), ("p1", 1.0, 30), ("p3", 4.0, 20)):
            assert await world.submit(participant, value, samples=samples) == (200, {"status": "accepted"})
        done = await world.settle()
        expected = {
            "round_id": "r1",
            "completed": True,
            "state": "completed",
            "reason": "",
            "num_updates": 3,
            "k_of_n": 3,
            "model_version": 1,
        }
        assert done == {**expected, "status": expected}
        mean = (1.0 * 30 + 2.0 * 10 + 4.0 * 20) / 60
        _, model = await world.services.ask("GET", "http://registry/models/1")
        assert model == {"b": pytest.approx(mean), "w": [pytest.approx(mean)] * 3}
        _, info = await world.services.ask("GET", "http://registry/models/global_model/versions/1/info")
        assert (info["parent"], info["round_id"], info["participants"]) == (0, "r1", ["p1", "p2", "p3"])
        assert info["strategy"] == {"name": "fedavg", "version": 1, "options": {}}
        assert info["metrics"]["loss"] == pytest.approx(mean)
        status, shown = await world.ask("GET", "/rounds/r1")
        assert (shown["total_samples"], shown["model_hash"], shown["state"]) == (
            60,
            info["sha256"],
            "completed",
        )
        assert [one["samples"] for one in shown["updates"]] == [30, 10, 20]
        assert shown["bytes"] == sum(one["bytes"] for one in shown["updates"]) > 0
        assert (await world.ask("GET", "/rounds/next"))[1] == {
            "next_round_available": True,
            "last_completed_round": "r1",
            "new_model_version": 1,
            "model_uri": "fl/models/global_model_v1",
            "status": "ready",
        }

    run(scenario)


def test_health_and_empty_lists():
    """A fresh coordinator is healthy and has nothing."""

    async def scenario(world):
        status, health = await world.ask("GET", "/health")
        assert (status, health["status"]) == (200, "ok")
        assert (await world.ask("GET", "/rounds"))[1] == {"offset": 0, "limit": 100, "total": 0, "rounds": []}
        assert (await world.ask("GET", "/experiments"))[1]["experiments"] == []
        assert (await world.ask("GET", "/rounds/next"))[1] == {
            "next_round_available": False,
            "message": "No completed rounds found",
        }
        for path in ("/rounds/r1", "/rounds/r1/complete", "/task?round_id=r1", "/experiments/exp"):
            status, answer = await world.ask("GET", path)
            assert (status, answer["code"].startswith("unknown")) == (404, True), path
        assert (await world.ask("GET", "/task"))[0] == 400

    run(scenario)


def test_task_tells_the_experiments_own_hyperparameters():
    """`GET /task` answers what was registered, not constants (defect 4.17)."""

    async def scenario(world):
        await world.register(hyperparams={"epochs": 7})
        status, answer = await world.ask("GET", "/task?round_id=r1&proplet_id=p1")
        assert status == 200
        assert answer == {
            "task": {
                "round_id": "r1",
                "model_ref": "fl/models/global_model_v0",
                "config": {"proplet_id": "p1"},
                "hyperparams": {"epochs": 7},
            }
        }

    run(scenario)


def test_equal_request_is_idempotent_and_another_is_a_conflict():
    """The same round id with an equal body changes nothing; with another body it is refused, also later.

    Defect 4.17 of the original.
    """

    async def scenario(world):
        first = await world.register()
        assert await world.register(rounds=None, strategy=None) == (200, first[1])
        status, answer = await world.register(timeout_s=5)
        assert (status, answer["code"]) == (409, "round_id_taken")
        for participant in ("p1", "p2", "p3"):
            await world.submit(participant)
        await world.settle()
        assert await world.register() == (200, first[1])
        assert (await world.register(timeout_s=5))[0] == 409

    run(scenario)


BAD_EXPERIMENTS = [
    ({"round_id": ""}, "missing_round_id"),
    ({"round_id": "../x"}, "bad_id"),
    ({"round_id": "next"}, "bad_id"),
    ({"participants": []}, "bad_participants"),
    ({"participants": ["p1", "p1"]}, "bad_participants"),
    ({"participants": ["a b"]}, "bad_id"),
    ({"participants": 3}, "undecodable"),
    ({"k_of_n": 4}, "bad_k_of_n"),
    ({"k_of_n": -1}, "undecodable"),
    ({"k_of_n": True}, "undecodable"),
    ({"timeout_s": -1}, "bad_timeout"),
    ({"timeout_s": 1e300}, "bad_timeout"),
    ({"min_updates": 4}, "bad_min_updates"),
    ({"rounds": 0}, "bad_rounds"),
    ({"rounds": 10**6}, "bad_rounds"),
    ({"rounds": 2, "task_wasm_image": ""}, "missing_image"),
    ({"seed": 2**63}, "bad_seed"),
    ({"task_wasm_image": "x" * 3000}, "bad_image"),
    ({"model_ref": "fl/models/global_model_v7"}, "missing_model"),
    ({"model_ref": "fl/models/other_v0"}, "missing_model"),
    ({"model_ref": "nonsense"}, "bad_model_ref"),
    ({"strategy": "magic"}, "unknown_strategy"),
    ({"strategy": "krum"}, "too_few_updates"),
    ({"strategy": {"name": "fedprox", "options": {"mu": 0.5}}, "hyperparams": {"mu": 1}}, "bad_options"),
    ({"strategy": {"name": "fedavg", "options": {"mu": 1}}}, "bad_options"),
    ({"hyperparams": {"x": "y" * 70_000}}, "too_large"),
]


def test_bad_experiment_is_refused_with_a_reason():
    """Nothing is registered, and the answer says which field is wrong."""

    async def scenario(world):
        for more, code in BAD_EXPERIMENTS:
            status, answer = await world.register(**more)
            assert (status, answer["code"]) == (400, code), more
        assert (await world.ask("GET", "/rounds"))[1]["total"] == 0

    run(scenario)


def test_registry_out_of_reach_is_said_and_can_be_tried_again():
    """503 while the registry is away; the same request succeeds afterwards."""

    async def scenario(world):
        app = world.http._apps["http://registry:80"]
        world.http.unregister("http://registry")
        assert (await world.register())[0] == 503
        world.http.register("http://registry", app)
        assert (await world.register())[0] == 201

    run(scenario)


REFUSALS = [
    ({"update": {"w": [1, 2], "b": 0}}, 400, "wrong_shape"),
    ({"update": {"w": [1, 2, 3]}}, 400, "wrong_shape"),
    ({"update": {"w": [1, 2, 3], "b": 0, "c": 1}}, 400, "wrong_shape"),
    ({"update": {"w": [1, [2], 3], "b": 0}}, 400, "bad_tensor"),
    ({"update": {"w": [1, None, 3], "b": 0}}, 400, "bad_tensor"),
    ({"update": {"w": [True, 2, 3], "b": 0}}, 400, "bad_tensor"),
    ({"update": {"w": [1e30, 2, 3], "b": 0}}, 400, "too_large"),
    ({"update": {}}, 400, "empty_update"),
    ({"update": None}, 400, "empty_update"),
    ({"update": None, "metrics": None}, 400, "bad_tensor"),
    ({"num_samples": 0}, 400, "bad_samples"),
    ({"num_samples": -5}, 400, "bad_samples"),
    ({"num_samples": 1.5}, 400, "bad_samples"),
    ({"num_samples": True}, 400, "bad_samples"),
    ({"num_samples": 10**12}, 400, "bad_samples"),
    ({"num_samples": None}, 400, "bad_samples"),
    ({"metrics": [1]}, 400, "bad_metrics"),
    ({"base_model_uri": "fl/models/global_model_v9"}, 400, "wrong_base"),
    ({"base_hash": "0" * 64}, 400, "wrong_base"),
    ({"proplet_id": "stranger"}, 403, "not_a_participant"),
    ({"proplet_id": ""}, 400, "missing_proplet_id"),
    ({"round_id": ""}, 400, "missing_round_id"),
    ({"round_id": "unknown"}, 404, "unknown_round"),
]


def test_bad_update_is_refused_while_the_round_proceeds():
    """4xx with a stable code, counted in the round; a good update of the same participant still counts.

    Defect 4.18 of the original.
    """

    async def scenario(world):
        for number, (more, status, code) in enumerate(REFUSALS):
            round_id = f"r{number}"
            await world.register(round_id, participants=["p1"])
            refused, answer = await world.ask("POST", "/update", {**update("p1", round_id=round_id), **more})
            assert (refused, answer["code"]) == (status, code), more
            counted = {} if "round_id" in more else {code: 1}
            shown = (await world.ask("GET", f"/rounds/{round_id}"))[1]
            assert (shown["num_updates"], shown["state"]) == (0, "collecting"), more
            assert shown["refused"] == counted, more
            assert (await world.submit("p1", round_id=round_id))[0] == 200
            assert (await world.settle(round_id, 1.0))["completed"]
            assert (await world.ask("GET", f"/rounds/{round_id}"))[1]["refused"] == counted, more

    run(scenario)


def test_nan_in_cbor_is_refused():
    """JSON cannot say NaN; CBOR can, and it goes no further."""

    async def scenario(world):
        await world.register()
        for bad in (float("nan"), float("inf"), -float("inf")):
            body = cbor2.dumps({**update("p1"), "update": {"w": [1.0, bad, 2.0], "b": 0.0}})
            answer = await world.services.raw(
                "POST", "http://coordinator/update_cbor", body, **{"content-type": "application/cbor"}
            )
            assert (answer.status, b"not_finite" in answer.body) == (400, True)

    run(scenario)


def test_cbor_and_json_are_the_same_update():
    """Nested CBOR maps work, and the same content by both paths counts once."""

    async def scenario(world):
        await world.register()
        body = update("p1", metrics={"loss": 0.5, "nested": {"deep": [1, 2]}})
        answer = await world.services.raw(
            "POST",
            "http://coordinator/update_cbor",
            cbor2.dumps(body),
            **{"content-type": "application/cbor"},
        )
        assert (answer.status, answer.body) == (200, b'{"status":"accepted"}')
        assert await world.ask("POST", "/update", body) == (200, {"status": "accepted", "duplicate": True})
        shown = (await world.ask("GET", "/rounds/r1"))[1]
        assert (shown["num_updates"], shown["updates"][0]["metrics"]) == (1, {"loss": 0.5})
        wrong = await world.services.raw("POST", "http://coordinator/update_cbor", b"\xff\x00")
        assert wrong.status == 400

    run(scenario)


def test_participant_counts_once():
    """The same content again is accepted as a duplicate, other content and late updates are conflicts.

    Defect 4.17 of the original.
    """

    async def scenario(world):
        await world.register(participants=["p1", "p2"], k_of_n=1)
        await world.register("r2", participants=["p1", "p2"])
        assert (await world.submit("p1", round_id="r2"))[0] == 200
        assert await world.submit("p1", round_id="r2") == (200, {"status": "accepted", "duplicate": True})
        status, answer = await world.submit("p1", 3.0, round_id="r2")
        assert (status, answer["code"]) == (409, "already_submitted")
        assert (await world.submit("p1"))[0] == 200
        for _ in range(2):
            status, answer = await world.submit("p2")
            assert (status, answer["code"]) == (409, "round_closed")
            assert await world.submit("p1") == (200, {"status": "accepted", "duplicate": True})
            assert (await world.submit("p1", 9.0))[1]["code"] == "already_submitted"
            assert (await world.submit("p9"))[1]["code"] == "not_a_participant"
            assert (await world.settle())["num_updates"] == 1

    run(scenario)


def test_concurrent_copies_of_one_update_count_once():
    """Twenty at the same moment: one accepted, the others duplicates."""

    async def scenario(world):
        await world.register()
        answers = await asyncio.gather(*(world.submit("p1") for _ in range(20)))
        assert sorted(str(body.get("duplicate")) for _, body in answers) == ["None"] + ["True"] * 19
        assert {status for status, _ in answers} == {200}

    run(scenario)


def test_token_is_checked_when_present_and_required_when_told():
    """A wrong token is refused always, a missing one only where tokens are required (defect 4.18)."""

    async def lenient(world):
        await world.register()
        wrong = {"x-update-token": "0" * 64}
        status, answer = await world.submit("p1", headers=wrong)
        assert (status, answer["code"]) == (403, "bad_token")
        right = {"x-update-token": make_token(SECRET, "r1", "p1")}
        assert (await world.submit("p2", headers=right))[1]["code"] == "bad_token"
        assert (await world.submit("p1", headers=right))[0] == 200
        assert (await world.submit("p2"))[0] == 200
        in_body = make_token(SECRET, "r1", "p3")
        assert (await world.submit("p3", update_token=in_body))[0] == 200

    async def strict(world):
        await world.register()
        assert (await world.submit("p1"))[0] == 403
        assert (await world.submit("p1", headers={"x-update-token": make_token(SECRET, "r1", "p1")}))[
            0
        ] == 200

    run(lenient)
    run(strict, require_update_token=True)


def test_timeout_aggregates_what_came_or_fails():
    """A single round takes one update as enough at its timeout; with none it fails and says so."""

    async def scenario(world):
        await world.register(timeout_s=20)
        await world.register("r2", timeout_s=20)
        await world.submit("p1", 5.0)
        done = await world.settle(for_s=30)
        assert (done["completed"], done["num_updates"], done["model_version"]) == (True, 1, 1)
        empty = await world.settle("r2")
        assert (empty["completed"], empty["state"], empty["reason"]) == (False, "failed", "too_few_updates")
        assert (await world.ask("GET", "/experiments/exp"))[1]["state"] == "failed"
        end = world.heard("m/d/c/c/fl/rounds/r2/complete")[0]
        assert (end["state"], end["reason"]) == ("failed", "too_few_updates")
        assert not any(one["round_id"] == "r2" for one in world.heard("m/d/c/c/fl/rounds/next"))

    run(scenario)


def test_same_updates_give_the_same_model_in_any_order():
    """The stored model's hash does not depend on which update came first."""

    def after(order):
        async def scenario(world):
            await world.register()
            for participant in order:
                await world.submit(participant, {"p1": 0.1, "p2": 0.7, "p3": 1 / 3}[participant], samples=7)
            await world.settle()
            return (await world.ask("GET", "/rounds/r1"))[1]["model_hash"]

        return run(scenario)

    assert len({after(order) for order in (["p1", "p2", "p3"], ["p3", "p1", "p2"], ["p2", "p3", "p1"])}) == 1


def test_round_from_an_older_version_makes_the_next_one():
    """Two rounds from version 0 give versions 1 and 2, both children of 0 (defect 4.17)."""

    async def scenario(world):
        for round_id, value in (("r1", 1.0), ("r2", 2.0)):
            await world.register(round_id, participants=["p1"])
            await world.submit("p1", value, round_id=round_id)
            await world.settle(round_id)
        assert [(await world.settle(one))["model_version"] for one in ("r1", "r2")] == [1, 2]
        _, info = await world.services.ask("GET", "http://registry/models/global_model/versions/2/info")
        assert info["parent"] == 0

    run(scenario)


def test_round_over_a_named_model():
    """Shapes, names and dimensions are the model's own; its versions are counted apart."""

    async def scenario(world):
        model = {"layer/0.weight": [[1.0, 2.0], [3.0, 4.0]], "scale": 1.0}
        await world.services.ask(
            "POST", "http://registry/models", {"name": "hospital", "version": 3, "model": model}
        )
        await world.register(participants=["p1"], model_ref="fl/models/hospital_v3")
        sent = {"layer/0.weight": [[0, 0], [0, 0.5]], "scale": 2, "version": 3}
        status, _ = await world.submit("p1", base_model_uri="fl/models/hospital_v3", update=sent)
        assert status == 200
        assert (await world.settle())["model_version"] == 4
        assert world.heard("m/d/c/c/fl/rounds/next")[0]["model_uri"] == "fl/models/hospital_v4"

    run(scenario)


def test_lists_are_pages_newest_first():
    """Offset and limit work and are bounded."""

    async def scenario(world):
        for number in range(3):
            await world.register(f"r{number}", experiment_id=f"e{number}")
        _, page = await world.ask("GET", "/rounds?offset=1&limit=1")
        assert (page["total"], [one["round_id"] for one in page["rounds"]]) == (3, ["r1"])
        _, page = await world.ask("GET", "/rounds?experiment_id=e2")
        assert [one["round_id"] for one in page["rounds"]] == ["r2"]
        _, page = await world.ask("GET", "/experiments?limit=2")
        assert [one["experiment_id"] for one in page["experiments"]] == ["e2", "e1"]
        assert (await world.ask("GET", "/rounds?limit=0"))[0] == 400
        assert (await world.ask("GET", "/rounds?offset=-1"))[0] == 400
        for path in ("/experiments", "/rounds"):
            # More than a database counts.
            assert (await world.ask("GET", f"{path}?offset={10**27}"))[0] == 400
        assert (await world.ask("GET", "/rounds?experiment_id=nobodys"))[0] == 404

    run(scenario)


def test_base_model_of_the_tests_is_the_seed():
    """The worlds' base is what a fresh registry holds."""

    async def scenario(world):
        return (await world.services.ask("GET", "http://registry/models/0"))[1]

    assert run(scenario) == BASE
