"""What users do in a world: tasks of every kind, an experiment, a round by hand. It asks as a client asks.

A client that gets no answer asks again, as real ones do; what was answered is kept, so that the promises
can be checked against it.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from propeller.errors import Bug, PeerUnavailable
from propeller.ports import Response
from propeller.simulation.world.guests import ECHO_IMAGE, LOOP, TRAINER, TRAINER_IMAGE, TRAP
from propeller.simulation.world.world import COORDINATOR, DATA_STORE, MANAGER, World

CALM_DOWN_S = 4 * 3600.0
"""Virtual time after which everything must have ended."""
ROUNDS = 3
_RETRY_S = 1.0
_AGAIN = {429, 500, 502, 503, 507}
_FIRST_S = 1.0


@dataclass(slots=True)
class Day:
    """What was accepted, and how each accepted task must end."""

    accepted: dict[str, str] = field(default_factory=dict)
    """Task id → what it is: echo, trap, loop, stopped, manual."""
    answers: list[tuple[str, int]] = field(default_factory=list)
    experiment_id: str = ""


Handle = Callable[[], Awaitable[None]]


class Client:
    """Asks with patience: again when there is no answer or a server-side one."""

    def __init__(self, world: World, day: Day) -> None:
        self._world = world
        self._day = day

    async def ask(self, method: str, url: str, body: Any = None) -> Response:
        """One request until it is answered for good."""
        content = b"" if body is None else msgspec.json.encode(body)
        while True:
            try:
                answer = await self._world.http.request(method, url, body=content)
            except PeerUnavailable:
                await asyncio.sleep(_RETRY_S)
                continue
            if answer.status not in _AGAIN:
                self._day.answers.append((f"{method} {url}", answer.status))
                return answer
            if answer.status == 500:  # noqa: PLR2004 - no input and no fault may cause one
                raise Bug(f"{method} {url} answered 500: {answer.body!r}")
            await asyncio.sleep(_RETRY_S)


async def mixed_day(world: World) -> Day:
    """Data and models are laid in, then everything happens at once, and then the world calms down."""
    day = Day()
    client = Client(world, day)
    random = Random(f"{world.seed}/story")  # noqa: S311 - it must replay
    await _prepare(world, client)
    async with asyncio.TaskGroup() as group:
        group.create_task(_experiment(world, client, day, random))
        group.create_task(_manual_round(client, day, world.proplet_ids[0]))
        for kind in ("echo", "echo", "trap", "loop", "stopped", "echo"):
            group.create_task(_task(client, day, kind, world, random))
    await _calm(world)
    return day


async def _prepare(world: World, client: Client) -> None:
    await asyncio.sleep(_FIRST_S)
    for number, name in enumerate(world.proplet_ids):
        rows = [
            {"x": [at / 7.0, (at * number) % 5 / 5.0, at % 3 / 3.0], "y": at % 2} for at in range(4 + number)
        ]
        await client.ask("POST", f"{DATA_STORE}/datasets/{name}", {"data": rows})
    while True:
        answer = await client.ask("GET", f"{MANAGER}/proplets")
        if msgspec.json.decode(answer.body)["total"] >= len(world.proplet_ids):
            return
        await asyncio.sleep(_RETRY_S)


async def _experiment(world: World, client: Client, day: Day, random: Random) -> None:
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
    answer = await client.ask("POST", f"{MANAGER}/fl/experiments", body)
    if answer.status != 200:  # noqa: PLR2004 - HTTP's number
        raise Bug(f"the experiment was refused: {answer.status} {answer.body!r}")
    day.experiment_id = "exp"


async def _task(client: Client, day: Day, kind: str, world: World, random: Random) -> None:
    await asyncio.sleep(random.uniform(0.0, 30.0))
    number = len(day.accepted)
    body: dict[str, Any] = {"name": "main", "id": f"task-{kind}-{number}", "metadata": {"kind": kind}}
    body |= _module(kind)
    if random.random() < 0.5:  # noqa: PLR2004 - a coin
        body["proplet_id"] = random.choice(world.proplet_ids)
    task_id = body["id"]
    day.accepted[task_id] = kind
    answer = await client.ask("POST", f"{MANAGER}/tasks", body)
    if answer.status not in {201, 409}:  # 409: an answer was lost, and the task is there
        raise Bug(f"a task was refused: {answer.status} {answer.body!r}")
    await client.ask("POST", f"{MANAGER}/tasks/{task_id}/start")
    if kind == "stopped":
        await asyncio.sleep(random.uniform(0.0, 20.0))
        await client.ask("POST", f"{MANAGER}/tasks/{task_id}/stop")


def _module(kind: str) -> Mapping[str, Any]:
    if kind == "echo":
        return {"image_url": ECHO_IMAGE}
    content = TRAP if kind == "trap" else LOOP
    return {"file": base64.b64encode(content).decode(), "limits": {"wall_s": 60}}


async def _manual_round(client: Client, day: Day, proplet_id: str) -> None:
    await asyncio.sleep(10.0)
    body = {
        "id": "by-hand",
        "name": "train",
        "proplet_id": proplet_id,
        "file": base64.b64encode(TRAINER).decode(),
        "env": {"ROUND_ID": "manual-1", "MODEL_URI": "fl/models/global_model_v0"},
    }
    day.accepted["by-hand"] = "manual"
    await client.ask("POST", f"{MANAGER}/tasks", body)
    await client.ask("POST", f"{MANAGER}/tasks/by-hand/start")


async def _calm(world: World) -> None:
    """Wait until every run and round has ended; raises `Bug` with what is left if that takes too long."""
    while world.clock.now().mono_s < CALM_DOWN_S:
        await asyncio.sleep(5.0)
        world.check_alive()
        if await _ended(world):
            return
    left = [run for run, _ in world.manager_store.runs.values() if run.live]
    raise Bug(f"world {world.seed} never comes to rest: {left!r}")


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
