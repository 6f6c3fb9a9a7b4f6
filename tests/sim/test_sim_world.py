"""A hundred worlds: real shells, virtual time, faults from a seed. A failing seed says how to replay it."""

import os

import pytest

from invariants import check_all
from propeller.simulation.world.story import ROUNDS, mixed_day
from propeller.simulation.world.weather import Climate
from propeller.simulation.world.world import World, run_world

SEEDS = int(os.environ.get("PROPELLER_SIM_SEEDS", "100"))
ONLY = os.environ.get("PROPELLER_SIM_SEED")
BLOCK = 10


async def whole_day(world: World) -> list[str]:
    """Live the day, check the invariants, and return the experiment's model hashes."""
    day = await mixed_day(world)
    await check_all(world, day.accepted)
    hashes = []
    for number in range(1, ROUNDS + 1):
        record = await world.coordinator_store.round(f"exp-{number}")
        assert record is not None, f"round exp-{number} never began"
        assert record.state == "completed", record
        hashes.append(record.model_hash)
    return hashes


@pytest.fixture(scope="module")
def calm_hashes() -> list[str]:
    """The models of a world without faults: what every other world must arrive at too."""
    return run_world(0, whole_day)


def test_a_world_replays_exactly():
    """The same seed gives the same models and the same moment of the end, faults included."""

    async def story(world: World):
        return await whole_day(world), world.clock.now().mono_s

    assert run_world(5, story, climate=Climate()) == run_world(5, story, climate=Climate())


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_every_promise_holds_in_bad_weather(first, calm_hashes):
    """Crashes, cuts, losses, repeats, delays: accepted tasks end, no update counts twice (R1, M1 to M5).

    With seeded trainers and k = n the models are those of the calm world, to the bit.
    """
    seeds = [int(ONLY)] if ONLY else range(first, first + BLOCK)
    for seed in seeds:
        try:
            assert run_world(seed, whole_day, climate=Climate()) == calm_hashes
        except BaseException:
            print(f"replay: PROPELLER_SIM_SEED={seed} .venv/bin/pytest {__file__}")
            raise
