"""Lives through worlds by their seeds and says of each which promise it broke, if any.

One seed is one day in bad weather. It keeps every promise when the invariants hold and the models are those
of the day without faults, to the bit.
"""

import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context

from propeller.errors import Bug
from propeller.simulation.world.chronicle import Chronicle
from propeller.simulation.world.invariants import check_all
from propeller.simulation.world.story import ROUNDS, mixed_day
from propeller.simulation.world.weather import CALM, Climate
from propeller.simulation.world.witness import Broken, require
from propeller.simulation.world.world import World, run_world

_CHUNK = 5
"""Seeds that a process takes at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lived:
    """What became of one seed. `invariant` is empty if all was kept; `seconds` are the processor's."""

    seed: int
    seconds: float
    invariant: str = ""
    told: str = ""

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return not self.invariant


async def whole_day(world: World) -> tuple[str, ...]:
    """Live a day, check the invariants, and return the hashes of the experiment's models."""
    day = await mixed_day(world)
    await check_all(world, day)
    hashes = []
    for number in range(1, ROUNDS + 1):
        record = await world.coordinator_store.round(f"exp-{number}")
        require(record is not None and record.state == "completed", "every round completes", record)
        hashes.append(record.model_hash if record is not None else "")
    return tuple(hashes)


@cache
def calm_models() -> tuple[str, ...]:
    """The models of a day without faults: what every other day must come to."""
    return run_world(0, whole_day, climate=CALM, chronicle=Chronicle(), lonely=True)


def live(seed: int, chronicle: Chronicle | None = None) -> Lived:
    """Live through the day of a seed; whatever goes wrong is in the verdict."""
    began_s = time.process_time()
    kept = chronicle or Chronicle()
    invariant = told = ""
    try:
        expected = calm_models()
        models = run_world(seed, whole_day, climate=Climate(), chronicle=kept, lonely=True)
        require(models == expected, "the models are those of a calm day", (models, expected))
        require(not kept.bugs, "no role meets a mistake of ours", "; ".join(map(str, kept.bugs)))
    except Exception as group:  # noqa: BLE001 - a seed's verdict is whatever became of it
        invariant, told = _judged(group)
    return Lived(seed=seed, seconds=time.process_time() - began_s, invariant=invariant, told=told)


def _judged(error: BaseException) -> tuple[str, str]:
    """Which promise an error means to have been broken, and what it says."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, Broken):
        return error.invariant, error.message
    invariant = "nobody dies by itself" if isinstance(error, Bug) else "no error is left unhandled"
    return invariant, "".join(traceback.format_exception(error))


def live_all(seeds: Sequence[int], *, processes: int) -> Iterator[Lived]:
    """The verdicts of many seeds, in their order, as they come; `processes` of 1 stays in this one."""
    if processes <= 1 or len(seeds) <= 1:
        yield from map(live, seeds)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(live, seeds, chunksize=_CHUNK)
