"""Five hundred worlds: real shells, virtual time, faults from a seed. A failing one says how to replay it."""

import os

import pytest

from propeller.simulation.world.chronicle import Chronicle
from propeller.simulation.world.seeds import live_all, whole_day
from propeller.simulation.world.weather import Climate
from propeller.simulation.world.world import World, run_world

SEEDS = int(os.environ.get("PROPELLER_SIM_SEEDS", "500"))
BLOCK = 100


def test_a_world_replays_exactly():
    """The same seed gives the same models, the same moment of the end and the same story, faults included."""

    async def story(world: World):
        return await whole_day(world), world.clock.now().mono_s

    told = [Chronicle(full=True), Chronicle(full=True)]
    ends = [run_world(5, story, climate=Climate(), chronicle=one, lonely=True) for one in told]
    assert ends[0] == ends[1]
    assert list(map(str, told[0].lines)) == list(map(str, told[1].lines))


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_every_promise_holds_in_bad_weather(first):
    """Crashes, cuts, losses, repeats, delays: accepted tasks end, no update counts twice (R1, R2, M1 to M5).

    With seeded trainers and k = n the models are those of the calm world, to the bit.
    """
    seeds = range(first, min(first + BLOCK, SEEDS))
    broken = [verdict for verdict in live_all(seeds, processes=2) if not verdict.kept]
    assert not broken, "\n".join(
        f"propeller sim replay {one.seed}  # {one.invariant}\n{one.told}" for one in broken
    )
