"""Rounds whose updates come in every format, small models and large ones, by file and within JSON."""

import base64
import json

import numpy as np
import pytest
from coordinator_world import BASE, TOPICS, run
from test_coordinator_large import FILE, lived, made, model, register

from propeller.fl.formats import pack
from propeller.fl.tensors import Tensors, from_json, to_safetensors
from propeller.fl.update_format import parse_format

SMALL, _ = from_json(BASE, "the base")


def packed(tensors, form, base=SMALL, round_id="r1", participant="p1"):
    """An update as its sender packs it."""
    if form == "safetensors":
        return to_safetensors(tensors)
    done = pack(tensors, base, parse_format(form), round_id=round_id, participant=participant)
    return b"".join(done.pieces)


def small(value):
    """A model of BASE's shape."""
    return Tensors({"b": np.array(value), "w": np.full(3, value)})


async def send(world, participant, content, form, round_id="r1", **headers):
    """Status and answer of an update sent as a file of that format."""
    said = {
        "x-round-id": round_id,
        "x-proplet-id": participant,
        "x-num-samples": "10",
        "x-update-format": form,
        **headers,
    }
    answer = await world.services.raw("POST", "http://coordinator/update", content, **FILE, **said)
    return answer.status, json.loads(answer.body)


def test_one_round_of_every_format():
    """Six participants, six formats: the model is their mean, and each weighs what it sent."""
    forms = ["safetensors", "f32-delta", "f16-delta", "int8-delta", "topk-delta:1"]

    async def scenario(world):
        people = [f"p{number}" for number in range(6)]
        await world.register(participants=people)
        assert (await world.submit("p0", 1.0))[0] == 200
        sizes = {}
        for participant, form in zip(people[1:], forms, strict=True):
            content = packed(small(1.0), form, participant=participant)
            sizes[participant] = len(content)
            assert await send(world, participant, content, form) == (200, {"status": "accepted"})
        done = await world.settle()
        assert done["completed"], done
        _, made_ = await world.services.ask("GET", f"http://registry/models/{done['model_version']}")
        assert made_["w"] == pytest.approx([1, 1, 1], abs=1e-6)
        _, shown = await world.ask("GET", "/rounds/r1")
        assert {one["participant"]: one["bytes"] for one in shown["updates"][1:]} == sizes

    run(scenario)


def test_a_large_model_takes_differences(tmp_path):
    """The coordinator holds no large base in memory: it copies it once, and adds the differences on disk."""

    async def scenario(world):
        await register(world, "", rounds=2)
        for number, value in ((1, 1.0), (2, 3.0)):
            base = await made(world, number - 1)
            for participant, form in (("p1", "f32-delta"), ("p2", "int8-delta")):
                content = packed(model(value), form, base, f"exp-{number}", participant)
                status, answer = await send(world, participant, content, form, f"exp-{number}")
                assert status == 200, answer
            done = await world.settle(f"exp-{number}")
            assert done["model_version"] == number, done
            got = await made(world, number)
            np.testing.assert_allclose(got["w"], model(value)["w"], atol=2 / 127)

    lived(scenario, tmp_path)


def test_the_same_file_counts_once_before_and_after_the_end():
    """Sent again, during the round or after it, it is a repetition; another one is refused."""

    async def scenario(world):
        await world.register(participants=["p1"])
        content = packed(small(0.5), "int8-delta")
        assert await send(world, "p1", content, "int8-delta") == (200, {"status": "accepted"})
        await world.settle()
        assert await send(world, "p1", content, "int8-delta") == (
            200,
            {"status": "accepted", "duplicate": True},
        )
        status, answer = await send(world, "p1", packed(small(0.7), "f16-delta"), "f16-delta")
        assert (status, answer["code"]) == (409, "already_submitted")

    run(scenario)


def test_within_json_by_http_and_by_mqtt():
    """`update_b64` with its `format` says the same as the file, on either way."""

    async def scenario(world):
        await world.register(participants=["p1", "p2"])

        def body(participant):
            content = packed(small(2.0), "f16-delta", participant=participant)
            return {
                "round_id": "r1",
                "proplet_id": participant,
                "num_samples": 5,
                "format": "f16-delta",
                "update_b64": base64.b64encode(content).decode(),
            }

        assert (await world.ask("POST", "/update", body("p1")))[0] == 200
        await world.say(TOPICS.round_update("r1", "p2"), body("p2"))
        done = await world.settle()
        assert (done["completed"], done["num_updates"]) == (True, 2)

    run(scenario)


def test_refusals():
    """Files of another format or model, and words that fit none, are refused; nothing is left on disk."""

    async def scenario(world):
        await world.register(participants=["p1"])
        good = packed(small(1.0), "int8-delta")
        nan = Tensors({"b": np.array(np.nan, "f4"), "w": np.zeros(3, "f4")})
        cases = [
            (good, "f16-delta", "bad_tensor"),
            (good, "bf16", "bad_update_format"),
            (good, "json-f64", "bad_update_format"),
            (good[:-1], "int8-delta", "bad_tensor"),
            (packed(model(1), "f16-delta", model(0)), "f16-delta", "bad_tensor"),
            (to_safetensors(nan), "f32-delta", "not_finite"),
        ]
        for content, form, reason in cases:
            status, answer = await send(world, "p1", content, form)
            assert (status >= 400, answer["code"]) == (True, reason), (form, answer)
        for more, reason in (
            ({"format": "int8-delta"}, "bad_update_format"),
            ({"update_b64": "AAAA"}, "bad_update_format"),
            ({"update_b64": "?", "format": "int8-delta"}, "bad_tensor"),
        ):
            status, answer = await world.submit("p1", **more)
            assert (status, answer["code"]) == (400, reason)
        assert [digest async for digest in _kept(world.blobs)] == []

    run(scenario)


async def _kept(blobs):
    for digest in list(blobs._contents):
        yield digest
