"""A day of a world: data are laid in, everything happens at once, and then the world calms down."""

import asyncio
from random import Random

import msgspec

from propeller.simulation.world import errands
from propeller.simulation.world.day import RETRY_S, Client, Day
from propeller.simulation.world.guests import LOOP, TRAINER, TRAINER_IMAGE, TRAP, rows_of
from propeller.simulation.world.training import TRAINING
from propeller.simulation.world.witness import Broken
from propeller.simulation.world.world import COORDINATOR, DATA_STORE, MANAGER, World

CALM_DOWN_S = 4 * 3600.0
"""Virtual time after which everything must have ended."""
ROUNDS = 3
_ERRANDS = 4
"""How many of the errands a day has, beside training and a few plain tasks."""
_FIRST_S = 1.0


async def mixed_day(world: World) -> Day:
    """A training experiment, a round by hand, plain tasks, some of the errands and another experiment."""
    client = Client(world, Day())
    random = Random(f"{world.seed}/story")  # noqa: S311 - it must replay
    chosen = random.sample(errands.ERRANDS, _ERRANDS)
    try:
        async with asyncio.timeout(CALM_DOWN_S):
            await _prepare(world, client)
            async with asyncio.TaskGroup() as group:
                group.create_task(_experiment(world, client, random))
                group.create_task(_manual_round(client, world.proplet_ids[0]))
                for kind in ("echo", "trap", "loop"):
                    group.create_task(_task(client, kind, world, random))
                for errand in (*chosen, random.choice(TRAINING)):
                    group.create_task(_errand(errand, client, world))
    except TimeoutError as error:
        raise Broken("every day ends", _left(world)) from error
    await _calm(world)
    return client.day


async def _errand(errand: errands.Errand, client: Client, world: World) -> None:
    random = Random(f"{world.seed}/{errand.__name__}")  # noqa: S311 - it must replay
    await asyncio.sleep(random.uniform(0.0, 40.0))
    await errand(client, world, random)


async def _prepare(world: World, client: Client) -> None:
    await asyncio.sleep(_FIRST_S)
    for number, name in enumerate(world.proplet_ids):
        if name != world.broker_only:
            await client.ask("POST", f"{DATA_STORE}/datasets/{name}", {"data": rows_of(number)})
    while True:
        answer = await client.ask("GET", f"{MANAGER}/proplets")
        if msgspec.json.decode(answer.body)["total"] >= len(world.proplet_ids):
            return
        await asyncio.sleep(RETRY_S)


async def _experiment(world: World, client: Client, random: Random) -> None:
    await asyncio.sleep(random.uniform(0.0, 5.0))
    body = {
        "experiment_id": "exp",
        "model_ref": "fl/models/global_model_v0",
        "participants": world.proplet_ids,
        "hyperparams": {"lr": 0.01},
        "timeout_s": 1200,
        "task_wasm_image": TRAINER_IMAGE,
        "rounds": ROUNDS,
        "seed": 7,
    }
    await client.demand("POST", "/fl/experiments", body)
    client.day.experiment_id = "exp"


async def _task(client: Client, kind: str, world: World, random: Random) -> None:
    await asyncio.sleep(random.uniform(0.0, 30.0))
    fields = {} if kind == "echo" else errands.module({"trap": TRAP, "loop": LOOP}[kind])
    if random.random() < 0.5:  # noqa: PLR2004 - a coin
        fields["proplet_id"] = random.choice(world.proplet_ids)
    body = errands.task(f"task-{kind}", metadata={"kind": kind}, **fields)
    await client.create(kind, body)
    await client.start(body["id"])


async def _manual_round(client: Client, proplet_id: str) -> None:
    await asyncio.sleep(10.0)
    env = {"ROUND_ID": "manual-1", "MODEL_URI": "fl/models/global_model_v0"}
    body = errands.task("by-hand", **errands.module(TRAINER), proplet_id=proplet_id, env=env)
    await client.create("manual", body)
    await client.start("by-hand")


async def _calm(world: World) -> None:
    """Wait until every run and round has ended; raises `Bug` with what is left if that takes too long."""
    while world.clock.now().mono_s < CALM_DOWN_S:
        await asyncio.sleep(5.0)
        world.check_alive()
        if await _ended(world):
            return
    raise Broken("every day ends", _left(world))


def _left(world: World) -> str:
    live = [run for run, _ in world.manager_store.runs.values() if run.live]
    return f"world {world.seed} never comes to rest: {live!r}"


async def _ended(world: World) -> bool:
    if world.clock.now().mono_s < world.weather.climate.storm_s or not all(
        n.up for n in world.nodes.values()
    ):
        return False
    if any(run.live for run, _ in world.manager_store.runs.values()):
        return False
    if await world.manager_store.open_launches():
        return False
    answer = await world.calm_http.request("GET", f"{COORDINATOR}/experiments/exp")
    return answer.status == 200 and msgspec.json.decode(answer.body)["state"] != "running"  # noqa: PLR2004
