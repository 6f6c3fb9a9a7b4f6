"""Experiments with strategies, end to end over memory: options, state between versions, extra tensors."""

import pytest
from coordinator_world import run

INFO = "http://registry/models/global_model/versions/{}/info"
STATE = "http://registry/models/global_model/versions/{}/state"


async def play(world, round_id, value, **more):
    """Both participants send `value`; the round's end."""
    for participant in ("p1", "p2"):
        status, answer = await world.submit(participant, value, round_id, base_model_uri="", **more)
        assert status == 200, answer
    return await world.settle(round_id)


async def model(world, version):
    """A version of the global model."""
    return (await world.services.ask("GET", f"http://registry/models/{version}"))[1]


def test_momentum_travels_with_the_model_versions():
    """FedAvgM with β = 0.5 by hand: Δ = 1 → v = 1, w = 1; Δ = 1 → v = 1.5, w = 2.5; over a restart too."""

    async def scenario(world):
        strategy = {"name": "fedavgm", "options": {"momentum": 0.5}}
        await world.register("", participants=["p1", "p2"], rounds=3, strategy=strategy)
        await play(world, "exp-1", 1.0)
        assert await model(world, 1) == {"b": 1, "w": [1, 1, 1]}
        _, state = await world.services.ask("GET", STATE.format(1))
        assert state == {"momentum/b": 1, "momentum/w": [1, 1, 1]}
        await world.kill()
        await world.start()
        await play(world, "exp-2", 2.0)
        assert await model(world, 2) == {"b": 2.5, "w": [2.5, 2.5, 2.5]}
        _, info = await world.services.ask("GET", INFO.format(2))
        assert info["strategy"] == {"name": "fedavgm", "version": 1, "options": {"momentum": 0.5}}

    run(scenario)


def test_another_strategy_starts_with_a_state_of_its_own():
    """From a version that FedAvgM made, FedAdam begins anew, and FedAvg keeps nothing."""

    async def scenario(world):
        await world.register("r1", participants=["p1", "p2"], strategy="fedavgm")
        await play(world, "r1", 1.0)
        for round_id, strategy, slots in (("r2", "fedadam", {"m/b", "m/w", "v/b", "v/w"}), ("r3", "", set())):
            await world.register(
                round_id,
                participants=["p1", "p2"],
                strategy=strategy,
                experiment_id=round_id,
                model_ref="fl/models/global_model_v1",
            )
            done = await play(world, round_id, 2.0)
            assert done["completed"], done
            _, state = await world.services.ask("GET", STATE.format(done["model_version"]))
            assert set(state) == slots

    run(scenario)


def test_scaffold_variates_travel_beside_the_model():
    """Updates must carry Δc from the first round on; versions carry c; both in the model's own document."""

    async def scenario(world):
        strategy = {"name": "scaffold", "options": {"clients": 4}}
        await world.register("", participants=["p1", "p2"], rounds=2, strategy=strategy)
        status, answer = await world.submit("p1", 1.0, "exp-1")
        assert (status, answer["code"]) == (400, "wrong_shape")
        tensors = {"w": [2.0] * 3, "b": 2.0, "scaffold.c/w": [1.0] * 3, "scaffold.c/b": 1.0}
        for number, round_id in ((1, "exp-1"), (2, "exp-2")):
            done = await play(world, round_id, 0.0, update=tensors)
            assert done["model_version"] == number, done
            made = await model(world, number)
            assert made["w"] == [2, 2, 2]
            assert made["scaffold.c/w"] == [0.5 * number] * 3

    run(scenario)


def test_fedprox_tells_trainers_of_later_rounds_its_mu():
    """The start message of round 2 carries it; the experiment shows it."""

    async def scenario(world):
        strategy = {"name": "fedprox", "options": {"mu": 0.25}}
        await world.register("", participants=["p1", "p2"], rounds=2, strategy=strategy)
        await play(world, "exp-1", 1.0)
        assert world.heard("m/d/c/c/fl/rounds/start")[0]["hyperparams"]["mu"] == 0.25
        _, shown = await world.ask("GET", "/experiments/exp")
        assert shown["strategy"] == {"name": "fedprox", "options": {"mu": 0.25}}
        assert shown["hyperparams"] == {"epochs": 1, "lr": 0.01, "batch_size": 16, "mu": 0.25}

    run(scenario)


def test_krum_leaves_a_liar_out():
    """Four honest participants and one who sends a million: the model is one of the honest ones."""

    async def scenario(world):
        who = [f"p{number}" for number in range(1, 6)]
        await world.register("r1", participants=who, strategy="krum", min_updates=5)
        for participant, value in zip(who, (1.0, 1.1, 0.9, 1e6, 1.05), strict=True):
            assert (await world.submit(participant, value))[0] == 200
        assert (await world.settle())["completed"]
        assert (await model(world, 1))["b"] == pytest.approx(1, abs=0.11)

    run(scenario)


@pytest.mark.parametrize(("min_updates", "wanted"), [(None, 5), (4, None)])
def test_a_round_may_not_close_with_fewer_than_its_strategy_needs(min_updates, wanted):
    """Krum with one fault needs five: the default follows, a smaller wish is refused."""

    async def scenario(world):
        who = [f"p{number}" for number in range(1, 7)]
        status, answer = await world.register(
            "r1", participants=who, strategy="krum", k_of_n=6, min_updates=min_updates
        )
        if wanted is None:
            assert (status, answer["code"]) == (400, "too_few_updates")
        else:
            assert (await world.ask("GET", "/experiments/exp"))[1]["min_updates"] == wanted

    run(scenario)
