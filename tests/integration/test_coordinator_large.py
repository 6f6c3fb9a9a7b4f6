"""Rounds of models over a megabyte: files in, folded by reference, poured into the registry."""

import json

import numpy as np
import pytest
from coordinator_world import SECRET, run

from propeller.federation.aggregator import app as aggregator
from propeller.federation.aggregator.by_reference import Reach
from propeller.federation.offload import inline
from propeller.fl.tensors import Tensors, content_hash, from_safetensors, to_safetensors
from propeller.fl.token import make_token

SIZE = 300_000
FILE = {"content-type": "application/vnd.safetensors"}
ASKED = {"accept": "application/vnd.safetensors"}
BIG = "http://registry/models/big/versions"


def model(value, dtype="f4"):
    """A model whose every parameter is `value`."""
    return Tensors({"w": np.full(SIZE, value, dtype), "b": np.array([value], dtype)})


def lived(scenario, tmp_path, **settings):
    """Run `scenario` with a large model in the registry and an aggregator that fetches over (memory) HTTP."""

    async def main(world):
        reach = Reach(origins=("http://coordinator", "http://registry"), http=world.http, scratch=tmp_path)
        world.http.register("http://aggregator", aggregator.build(offload=inline, reach=reach, threads=2))
        await world.services.raw("POST", "http://registry/models?name=big", to_safetensors(model(0)), **FILE)
        return await scenario(world)

    run(main, own_url="http://coordinator", **{"token_secret": SECRET, **settings})


async def register(world, round_id="r1", **more):
    """A round of the large model."""
    body = {"model_ref": "fl/models/big_v0", "participants": ["p1", "p2"], **more}
    status, answer = await world.register(round_id, **body)
    assert status == 201, answer


async def send(world, participant, tensors, round_id="r1", samples=10, **headers):
    """Status and answer of an update sent as a file."""
    said = {
        "x-round-id": round_id,
        "x-proplet-id": participant,
        "x-num-samples": str(samples),
        "x-metrics": '{"loss": 0.5}',
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    content = tensors if isinstance(tensors, bytes) else to_safetensors(tensors)
    answer = await world.services.raw("POST", "http://coordinator/update", content, **FILE, **said)
    return answer.status, json.loads(answer.body)


async def made(world, version):
    """A version of the large model."""
    answer = await world.services.raw("GET", f"{BIG}/{version}", **ASKED)
    return from_safetensors(answer.body, "x")


def test_files_become_the_next_version(tmp_path):
    """The weighted mean in the model's own dtype, with its links; JSON and a file in one round."""

    async def scenario(world):
        await register(world)
        assert await send(world, "p1", model(1), samples=30) == (200, {"status": "accepted"})
        tensors = {name: array.tolist() for name, array in model(5).items()}
        status, answer = await world.submit("p2", update=tensors, base_model_uri="", samples=10)
        assert status == 200, answer
        done = await world.settle()
        assert done["model_version"] == 1, done
        assert await made(world, 1) == model(2)
        _, info = await world.services.ask("GET", f"{BIG}/1/info")
        assert (info["parent"], info["round_id"], info["participants"]) == (0, "r1", ["p1", "p2"])
        assert info["sha256"] == content_hash(model(2))
        _, shown = await world.ask("GET", "/rounds/r1")
        assert shown["model_hash"] == info["sha256"]
        assert shown["metrics"]["loss"] == pytest.approx((30 * 0.5 + 10 * 1) / 40)

    lived(scenario, tmp_path)


def test_momentum_travels_as_a_file(tmp_path):
    """Three rounds of FedAvgM, β = ½: 1, 2.5, 3.25 when every client always sends 1 more than nothing."""

    async def scenario(world):
        strategy = {"name": "fedavgm", "options": {"momentum": 0.5}}
        await register(world, "", rounds=2, strategy=strategy)
        for number, value in ((1, 1.0), (2, 2.0)):
            for participant in ("p1", "p2"):
                assert (await send(world, participant, model(value), f"exp-{number}"))[0] == 200
            assert (await world.settle(f"exp-{number}"))["model_version"] == number
        assert await made(world, 2) == model(2.5)
        state = await world.services.raw("GET", f"{BIG}/2/state", **ASKED)
        assert from_safetensors(state.body, "x")["momentum/w"][0] == 1.5

    lived(scenario, tmp_path)


def test_repetitions_and_refusals_of_files(tmp_path):
    """By every rule that JSON updates have; what is refused leaves no file."""

    async def scenario(world):
        await register(world)
        nan = model(1)["w"].copy()
        nan[7] = np.nan
        cases = [
            ("p1", (3).to_bytes(8, "little") + b"no!", {}, 400, "bad_tensor"),
            ("p1", Tensors({"w": nan, "b": np.ones(1, "f4")}), {}, 400, "not_finite"),
            ("p1", model(1, "f8"), {}, 400, "wrong_shape"),
            ("p1", Tensors({"w": model(1)["w"]}), {}, 400, "wrong_shape"),
            ("p1", model(1), {"samples": 0}, 400, "bad_samples"),
            ("p1", model(1), {"x_base_hash": "0" * 64}, 400, "wrong_base"),
            ("p1", model(1), {"x_metrics": "[]"}, 400, "undecodable"),
            ("p9", model(1), {}, 403, "not_a_participant"),
            ("p1", model(1), {"x_update_token": "0" * 64}, 403, "bad_token"),
            ("p1", model(1), {"round_id": "r9"}, 404, "unknown_round"),
        ]
        for participant, tensors, more, status, code in cases:
            found = await send(world, participant, tensors, **more)
            assert (found[0], found[1]["code"]) == (status, code), (code, found)
        assert await world.blobs.digests() == []
        assert (await send(world, "p1", model(1)))[1] == {"status": "accepted"}
        assert (await send(world, "p1", model(1)))[1] == {"status": "accepted", "duplicate": True}
        assert (await send(world, "p1", model(2)))[1]["code"] == "already_submitted"
        token = make_token(SECRET, "r1", "p2")
        assert (await send(world, "p2", model(3), x_update_token=token))[0] == 200
        assert (await world.settle())["completed"]
        assert len(await world.blobs.digests()) == 2
        assert (await send(world, "p1", model(1)))[1] == {"status": "accepted", "duplicate": True}
        assert (await send(world, "p1", model(2)))[1]["code"] == "already_submitted"
        assert len(await world.blobs.digests()) == 2

    lived(scenario, tmp_path)


def test_files_of_updates_are_for_the_aggregator_alone(tmp_path):
    """Without the token that the coordinator made for this very file it is not served."""

    async def scenario(world):
        await register(world)
        await send(world, "p1", model(1))
        [digest] = await world.blobs.digests()
        for token in ("", make_token(SECRET, "blob", "0" * 64)):
            status, answer = await world.ask("GET", f"/blobs/{digest}?token={token}")
            assert (status, answer["code"]) == (403, "bad_token")

    lived(scenario, tmp_path)


def test_small_models_keep_their_dtype(tmp_path):
    """Below a megabyte too: a float32 model stays one, whatever path its updates took."""

    async def scenario(world):
        small = Tensors({"w": np.zeros(3, "f4")})
        await world.services.raw("POST", "http://registry/models?name=small", to_safetensors(small), **FILE)
        await register(world, model_ref="fl/models/small_v0")
        assert (await send(world, "p1", Tensors({"w": np.ones(3, "f4")})))[0] == 200
        status, answer = await world.submit("p2", update={"w": [2, 2, 2]}, base_model_uri="")
        assert status == 200, answer
        assert (await world.settle())["model_version"] == 1
        answer = await world.services.raw("GET", "http://registry/models/small/versions/1", **ASKED)
        assert from_safetensors(answer.body, "x") == Tensors({"w": np.full(3, 1.5, "f4")})

    lived(scenario, tmp_path)
