"""Updates that come after their round has closed: dropped, or folded into a later one (F11)."""

import asyncio

import numpy as np
import pytest
from coordinator_world import run, update
from test_coordinator_experiments import STARTED, reborn, shown
from test_coordinator_large import lived, made, register
from test_coordinator_large import model as large
from test_coordinator_large import send as send_file

from propeller.fl.formats import pack
from propeller.fl.update_format import Format

FEDBUFF = {
    "rounds": 3,
    "participants": ["p1", "p2", "p3"],
    "k_of_n": 2,
    "timeout_s": 60,
    "strategy": {"name": "fedbuff"},
    "late": {"staleness_max": 2},
}


async def send(world, participant, value, round_id, version):
    """One update trained from `version`, whose every parameter is `value`."""
    uri = f"fl/models/global_model_v{version}"
    return await world.ask("POST", "/update", update(participant, value, round_id, base_model_uri=uri))


async def model(world, version):
    """The parameters of a version."""
    answer = await world.services.ask("GET", f"http://registry/models/{version}")
    return [*answer[1]["w"], answer[1]["b"]]


async def begun(world, **more):
    """The asynchronous experiment; p1 and p2 have filled its first buffer."""
    status, answer = await world.register("exp-1", **{**FEDBUFF, **more})
    assert status == 201, answer
    for name in ("p1", "p2"):
        assert (await send(world, name, 1.0, "exp-1", 0))[0] == 200
    await asyncio.sleep(1)


def test_a_late_update_counts_in_the_open_round_and_less():
    """As FedBuff's paper has it: w + 1/K · Σ (1 + τ)^-½ · Δ, the late Δ taken from its own base."""

    async def scenario(world):
        await begun(world)
        assert await model(world, 1) == pytest.approx([1.0] * 4)
        asked = [said for said in world.heard(STARTED) if said["round_id"] == "exp-2"]
        assert asked[0]["participants"] == ["p1", "p2"]
        assert asked[0]["late"] == {"staleness_max": 2}
        await reborn(world)
        assert await send(world, "p3", 0.5, "exp-1", 0) == (200, {"status": "accepted"})
        assert await send(world, "p3", 0.5, "exp-1", 0) == (200, {"status": "accepted", "duplicate": True})
        assert (await send(world, "p3", 0.7, "exp-1", 0))[1]["code"] == "already_submitted"
        assert (await send(world, "p1", 3.0, "exp-2", 1))[0] == 200
        await asyncio.sleep(1)
        expected = 1.0 + (1 / 2) * (0.5 * (1 + 1) ** -0.5 + (3.0 - 1.0))
        assert await model(world, 2) == pytest.approx([expected] * 4)
        updates = (await world.ask("GET", "/rounds/exp-2"))[1]["updates"]
        assert [(one["participant"], one["origin"], one["staleness"]) for one in updates] == [
            ("p1", "", 0),
            ("p3", "exp-1", 1),
        ]
        assert await send(world, "p3", 0.5, "exp-1", 0) == (200, {"status": "accepted", "duplicate": True})
        third = [said for said in world.heard(STARTED) if said["round_id"] == "exp-3"]
        assert third[0]["participants"] == ["p1", "p3"]

    run(scenario)


def test_a_mean_with_late_updates_weighs_them_by_their_staleness():
    """FedAvg with `late`: samples count 1/sqrt(1 + staleness)."""

    async def scenario(world):
        await begun(world, strategy="fedavg")
        await send(world, "p3", 0.5, "exp-1", 0)
        await send(world, "p1", 3.0, "exp-2", 1)
        await asyncio.sleep(1)
        mean = np.average([3.0, 1.0 + 0.5], weights=[10, 10 / np.sqrt(2)])
        assert await model(world, 2) == pytest.approx([mean] * 4)

    run(scenario)


def test_who_is_too_stale_is_asked_anew_and_its_old_update_is_refused():
    """After more versions than `staleness_max`; the manager is told to stop its old task."""

    async def scenario(world):
        await begun(world, rounds=5, late={"staleness_max": 1})
        for number in (2, 3):
            for name in ("p1", "p2"):
                assert (await send(world, name, 1.0, f"exp-{number}", number - 1))[0] == 200
            await asyncio.sleep(1)
        asked = [said for said in world.heard(STARTED) if said["round_id"] == "exp-3"]
        assert asked[0]["participants"] == ["p1", "p2", "p3"]
        assert world.heard("m/d/c/c/fl/rounds/exp-2/complete")[0]["stragglers"] == {"p3": "exp-1"}
        status, answer = await send(world, "p3", 0.5, "exp-1", 0)
        assert (status, answer["code"]) == (409, "round_closed")

    run(scenario)


def test_between_rounds_a_late_sender_is_told_to_come_again():
    """While the closed set is aggregated, and while the experiment is paused: 503, not a refusal."""

    async def scenario(world):
        aggregator = world.http._apps["http://aggregator:80"]
        world.http.unregister("http://aggregator")
        await begun(world)
        assert (await send(world, "p3", 0.5, "exp-1", 0))[0] == 503
        await world.ask("POST", "/experiments/exp/pause")
        world.http.register("http://aggregator", aggregator)
        await asyncio.sleep(20)
        assert (await shown(world))["phase"] == "between"
        assert (await send(world, "p3", 0.5, "exp-1", 0))[0] == 503
        await world.ask("POST", "/experiments/exp/resume")
        await asyncio.sleep(1)
        assert (await send(world, "p3", 0.5, "exp-1", 0))[0] == 200

    run(scenario)


def test_a_lost_late_participant_is_not_waited_for():
    """What the manager says of a closed round concerns the one that carries its update."""

    async def scenario(world):
        await begun(world, k_of_n=2, min_updates=2)
        await send(world, "p1", 1.0, "exp-2", 1)
        for round_id, name in (("exp-2", "p2"), ("exp-1", "p3")):
            await world.ask("POST", f"/rounds/{round_id}/lost", {"participants": {name: "trap"}})
        found = await world.settle("exp-2", 1)
        assert (found["state"], found["reason"]) == ("failed", "too_few_updates")

    run(scenario)


def test_without_the_policy_late_updates_are_dropped():
    """409 `round_closed`, as ever; the model is that of the updates in time (F11)."""

    async def scenario(world):
        await begun(world, strategy="fedavg", late={"policy": "drop"})
        status, answer = await send(world, "p3", 9.0, "exp-1", 0)
        assert (status, answer["code"]) == (409, "round_closed")
        assert await model(world, 1) == pytest.approx([1.0] * 4)

    run(scenario)


@pytest.mark.parametrize(
    "wrong",
    [
        {"late": {"policy": "drop"}},
        {"late": {"staleness_max": 0}},
        {"late": {"staleness_max": 99}},
        {"participants": [], "k_of_n": None, "selector": {"clients": 2}},
    ],
)
def test_unlawful_asynchrony_is_refused(wrong):
    """FedBuff without late updates, a bound that is none, participants that nobody knows."""

    async def scenario(world):
        status, answer = await world.register("exp-1", **{**FEDBUFF, **wrong})
        assert status == 400, answer

    run(scenario)


@pytest.mark.parametrize("packed", [False, True])
def test_a_large_late_file_is_moved_onto_the_open_rounds_base(tmp_path, packed):
    """A file for a round that has closed counts in the next: w + (1 + τ)^-½ · Δ, Δ taken from its own base.

    Whole or as a difference, over a death in between; a repetition changes nothing, and one file is kept.
    """

    async def scenario(world):
        more = {**FEDBUFF, "participants": ["p1", "p2"], "k_of_n": 1, "rounds": 2}
        await register(world, "exp-1", **more)
        assert (await send_file(world, "p1", large(4), "exp-1"))[0] == 200
        await asyncio.sleep(1)
        await reborn(world)
        content, form = large(2), "safetensors"
        if packed:
            pieces = pack(large(2), large(0), Format("f32-delta"), round_id="exp-1", participant="p2").pieces
            content, form = b"".join(pieces), "f32-delta"
        said = {"x_update_format": form, "x_base_model_uri": "fl/models/big_v0"}
        for answer in ({"status": "accepted"}, {"status": "accepted", "duplicate": True}):
            assert await send_file(world, "p2", content, "exp-1", **said) == (200, answer)
            await asyncio.sleep(1)
        found = await made(world, 2)
        assert found["w"] == pytest.approx(4 + 2 / np.sqrt(2), rel=1e-6)
        (shown_,) = (await world.ask("GET", "/rounds/exp-2"))[1]["updates"]
        assert (shown_["participant"], shown_["origin"], shown_["staleness"]) == ("p2", "exp-1", 1)
        assert len(await world.blobs.digests()) == 2, "the two that count"

    lived(scenario, tmp_path)
