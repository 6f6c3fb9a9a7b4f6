"""What users of a world do beside training: one coroutine for each thing that can be asked of the manager.

Each sees its errand through to the end, so that the world can come to rest: what runs until it is stopped is
stopped, who was taken out of use is taken back. Each names its tasks after itself.
"""

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import msgspec

from propeller.core.task import TERMINAL, Task
from propeller.errors import PeerUnavailable
from propeller.simulation.world.day import RETRY_S, Client
from propeller.simulation.world.guests import ECHO_IMAGE, FLAKY, LOOP, NO_MODULE, SERVICE, TRAP
from propeller.simulation.world.witness import require
from propeller.simulation.world.world import COORDINATOR, MANAGER, REGISTRY, World

SPECIAL = "proplet-2"
"""The proplet that gets the label which `special` asks for."""
_NO_MODULE_SHA256 = hashlib.sha256(NO_MODULE).hexdigest()
_CALLS = 3
_TRIES = 40
_TIDY_S = 150.0
"""Sweeps go on so long after the storm."""

Errand = Callable[[Client, World, Random], Awaitable[None]]


def module(content: bytes, *, wall_s: float = 60) -> dict[str, Any]:
    """The fields of a task whose module is inline."""
    return {"file": base64.b64encode(content).decode(), "limits": {"wall_s": wall_s}}


def task(task_id: str, **fields: Any) -> dict[str, Any]:
    """The body of a task that says hello, unless its fields give it another module."""
    own = {} if "file" in fields else {"image_url": ECHO_IMAGE}
    return {"id": task_id, "name": "main", **own, **fields}


async def _created_and_started(client: Client, kind: str, body: dict[str, Any]) -> None:
    await client.create(kind, body)
    await client.start(body["id"])


async def _ended(client: Client, task_id: str) -> None:
    while await client.state(task_id) not in TERMINAL:  # noqa: ASYNC110 - a client can only ask
        await asyncio.sleep(RETRY_S)


async def restarts(client: Client, _world: World, random: Random) -> None:
    """A guest that fails often, on the proplet where it began."""
    retry = {"attempts": random.randint(1, 5), "delay_s": 1}
    await _created_and_started(client, "flaky", task("restarted", **module(FLAKY), restart=retry))


async def moves_on_failure(client: Client, _world: World, random: Random) -> None:
    """A guest that fails often and goes elsewhere when it has failed once too often."""
    body = task(
        "moved",
        **module(FLAKY),
        restart={"attempts": 1, "delay_s": 0.5},
        reschedule={"attempts": random.randint(0, 3), "delay_s": 0.5},
    )
    await _created_and_started(client, "flaky", body)


async def moves_on_loss(client: Client, _world: World, random: Random) -> None:
    """Work that is given up soon after its proplet went silent, or waits for it however long that takes."""
    gone = {"lost_after_s": random.choice((3, 8, 20)), "replace": random.random() < 0.5}  # noqa: PLR2004 - a coin
    body = task("lost", disconnect=gone, reschedule={"attempts": 4, "delay_s": 1}, placement="least_loaded")
    await _created_and_started(client, "movable", body)


async def is_choosy(client: Client, _world: World, random: Random) -> None:
    """Work for the one proplet that has a label, and work that would rather not go there."""
    await client.demand("PUT", f"/proplets/{SPECIAL}/labels", {"gpu": "yes"}, lawful=(200, 404))
    wanted = {"attribute": "labels.gpu", "operator": "=", "value": "yes"}
    await _created_and_started(client, "special", task("special", constraints=[wanted]))
    avoided = {**wanted, "weight": random.choice((-1, 1))}
    await _created_and_started(client, "movable", task("prefers", affinities=[avoided]))


async def queues(client: Client, world: World, random: Random) -> None:
    """More than one proplet can do at once, with different priorities."""
    home = random.choice(world.proplet_ids)
    for number in range(4):
        body = task(f"queued-{number}", proplet_id=home, priority=random.randint(1, 100))
        await _created_and_started(client, "echo", body)


async def flows(client: Client, _world: World, random: Random) -> None:
    """A diamond whose parts fail or not, with a task for the failure."""
    guests = [random.choice((ECHO_IMAGE, TRAP, FLAKY)) for _ in range(3)]
    chosen = [module(one) if isinstance(one, bytes) else {} for one in guests]
    tasks = [
        task("flow-a", **chosen[0]),
        task("flow-b", **chosen[1], depends_on=["flow-a"]),
        task("flow-c", **chosen[2], depends_on=["flow-a"], restart={"attempts": 1, "delay_s": 1}),
        task("flow-d", depends_on=["flow-b", "flow-c"]),
        task("flow-e", depends_on=["flow-b", "flow-c"], run_if="failure"),
    ]
    client.day.accepted |= {one["id"]: "flow" for one in tasks}
    await client.demand("POST", "/workflows", {"tasks": tasks}, lawful=(201, 409))
    await client.start("flow-a")
    await _ended(client, "flow-e")


async def jobs(client: Client, _world: World, random: Random) -> None:
    """A job, perhaps with a part that fails, perhaps stopped and started once more."""
    mode = random.choice(("parallel", "sequential", "configurable"))
    guests: list[dict[str, Any]] = [{}, random.choice(({}, module(TRAP), module(LOOP, wall_s=20))), {}]
    tasks = [task(f"job-{at}", **guest) for at, guest in enumerate(guests)]
    tasks[2]["depends_on"] = ["job-0"]
    client.day.accepted |= {one["id"]: "flow" for one in tasks}
    body = {"name": "job", "tasks": tasks, "execution_mode": mode}
    job_id = await _job_id(client, body)
    await client.demand("POST", f"/jobs/{job_id}/start", lawful=(200, 409))
    if random.random() < 0.5:  # noqa: PLR2004 - a coin
        await asyncio.sleep(random.uniform(0.0, 10.0))
        await client.demand("POST", f"/jobs/{job_id}/stop")
        await asyncio.sleep(random.uniform(0.0, 20.0))
        await client.demand("POST", f"/jobs/{job_id}/start", lawful=(200, 409))


async def _job_id(client: Client, body: dict[str, Any]) -> str:
    """The id of the new job; if the answer to its creation was lost, its tasks know it."""
    answer = await client.demand("POST", "/jobs", body, lawful=(201, 409))
    if answer.status == 201:  # noqa: PLR2004 - HTTP's number
        return str(msgspec.json.decode(answer.body)["job_id"])
    shown = await client.demand("GET", f"/tasks/{body['tasks'][0]['id']}")
    return str(msgspec.json.decode(shown.body)["job_id"])


async def is_scheduled(client: Client, world: World, _random: Random) -> None:
    """A task for every minute, until the storm is over."""
    body = task("scheduled", schedule="* * * * *", is_recurring=True)
    await client.create("scheduled", body)
    await asyncio.sleep(max(0.0, world.weather.climate.storm_s + 70.0 - world.clock.now().mono_s))
    await client.demand("PUT", "/tasks/scheduled", {"schedule": ""})


async def calls(client: Client, _world: World, random: Random) -> None:
    """A latent task that is called some times, and stopped."""
    await _created_and_started(client, "latent", task("latent", latent=True))
    for number in range(_CALLS):
        await _called(client, f"{number} {random.randint(0, 999)}")
    await client.demand("POST", "/tasks/latent/stop")


async def _called(client: Client, asked: str) -> None:
    """One call, asked again while the task is not ready; a task that has ended is left alone."""
    for _ in range(_TRIES):
        if await client.state("latent") in TERMINAL:
            return
        body = msgspec.json.encode({"inputs": [asked]})
        try:
            answer = await client.once("POST", f"{MANAGER}/tasks/latent/invoke", body)
        except PeerUnavailable:
            await asyncio.sleep(RETRY_S)
            continue
        if answer.status == 200:  # noqa: PLR2004 - HTTP's number
            client.day.called.append((asked, msgspec.json.decode(answer.body)["results"]))
            return
        await asyncio.sleep(RETRY_S)


async def drains(client: Client, world: World, random: Random) -> None:
    """A proplet is taken out of use, emptied or not, while there is work, and taken back."""
    name, verb = random.choice(world.proplet_ids), random.choice(("drain", "cordon"))
    await client.demand("POST", f"/proplets/{name}/{verb}", lawful=(200, 404))
    for number in range(2):
        await _created_and_started(client, "movable", task(f"meanwhile-{number}"))
    await asyncio.sleep(random.uniform(5.0, 40.0))
    await client.demand("POST", f"/proplets/{name}/uncordon", lawful=(200, 404))


async def is_reborn(client: Client, _world: World, _random: Random) -> None:
    """A task is deleted once it has ended, and its id given to another."""
    for _ in range(2):
        await _created_and_started(client, "movable", task("reborn"))
        await _ended(client, "reborn")
        await _deleted(client, "reborn")
    await _created_and_started(client, "movable", task("reborn"))


async def _deleted(client: Client, task_id: str) -> None:
    """Deleted, whatever started it meanwhile."""
    while True:
        answer = await client.demand("DELETE", f"/tasks/{task_id}", lawful=(204, 404, 409))
        if answer.status != 409:  # noqa: PLR2004 - it runs (again)
            return
        await asyncio.sleep(RETRY_S)


async def broadcasts(client: Client, _world: World, random: Random) -> None:
    """One task on every proplet that is there, perhaps where it fails now and then, perhaps stopped."""
    content, restart = random.choice(((None, {}), (FLAKY, {"attempts": 2, "delay_s": 1}), (LOOP, {})))
    fields = {"restart": restart, **(module(content, wall_s=30) if content else {})}
    await _created_and_started(client, "broadcast", task("everywhere", broadcast=True, **fields))
    if random.random() < 0.3:  # noqa: PLR2004 - a coin
        await asyncio.sleep(random.uniform(0.0, 10.0))
        await client.demand("POST", "/tasks/everywhere/stop")


async def serves(client: Client, world: World, random: Random) -> None:
    """A daemon that ends again and again begins again, until it is stopped some time after the storm."""
    home = {"proplet_id": random.choice(world.proplet_ids)} if random.random() < 0.3 else {}  # noqa: PLR2004
    await _created_and_started(client, "daemon", task("daemon", **module(SERVICE), daemon=True, **home))
    await asyncio.sleep(max(0.0, world.weather.climate.storm_s + 30.0 - world.clock.now().mono_s))
    ended = await client.state("daemon") in TERMINAL
    require(not ended, "a daemon runs until it is stopped", "it ended by itself")
    await client.demand("POST", "/tasks/daemon/stop")


async def rolls_out(client: Client, world: World, random: Random) -> None:
    """A service is scaled, given a bad module and a good definition; in the end that is what serves.

    Half of the time its replicas take slots, and there is one fewer of them for each that is exchanged.
    """
    latent = random.random() < 0.5  # noqa: PLR2004 - a coin
    most = 3 if latent else 1
    policy = {"surge": int(latent), "healthy_s": 2, "deadline_s": random.choice((20, 60))}
    body = task("web", **module(LOOP), latent=latent, daemon=not latent, replicas=1, rollout=policy)
    await _created_and_started(client, "service", body)
    for change in random.sample(({"file": module(NO_MODULE)["file"]}, {"env": {"A": "b"}}, {}, {}), 4):
        await asyncio.sleep(random.uniform(0.0, 15.0))
        await _redefined(client, change or {"replicas": random.randint(1, most)})
    if random.random() < 0.3:  # noqa: PLR2004 - a coin
        how = random.choice(("undo", "restart"))
        await client.demand("POST", f"/tasks/web/rollout/{how}", lawful=(200, 409))
    await asyncio.sleep(max(0.0, world.weather.climate.storm_s + 30.0 - world.clock.now().mono_s))
    await _redefined(client, {"env": {"LAST": "one"}, "replicas": random.randint(1, most)})
    await _serves_calmly(client, world)
    await client.demand("POST", "/tasks/web/stop")


async def _redefined(client: Client, change: dict[str, Any]) -> None:
    """The service's definition changed, whatever else changes it at the same moment."""
    while True:
        answer = await client.demand("PUT", "/tasks/web", change, lawful=(200, 409))
        if answer.status == 200:  # noqa: PLR2004 - HTTP's number
            return
        await asyncio.sleep(RETRY_S)


async def _serves_calmly(client: Client, world: World) -> None:
    """Wait until as many replicas are live as wanted, and all run: of the definition asked for last."""
    while True:
        shown = msgspec.json.decode((await client.demand("GET", "/tasks/web")).body)
        service = shown.get("service", {"phase": "", "ready": 0, "wanted": -1})
        live = _live_replicas(world)
        if service["phase"] == "rolling_back" or service.get("outcome") == "rolled_back":
            await _redefined(client, {"env": {"LAST": "one"}})  # there was no room for it in time
        elif service["phase"] == "steady" and service["ready"] == service["wanted"] == len(live):
            break
        await asyncio.sleep(RETRY_S)
    right = all(dict(one.env) == {"LAST": "one"} and one.file_sha256 != _NO_MODULE_SHA256 for one in live)
    require(right, "replicas are of the definition that was proven", (live, service))


def _live_replicas(world: World) -> list[Task]:
    store = world.manager_store
    live = [store.tasks_by_id[run.task_id] for run, _ in store.runs.values() if run.live]
    return [one for one in live if one.part_of == "web"]


async def tidies(client: Client, world: World, random: Random) -> None:
    """Every role deletes all that it may, again and again, while everything goes on.

    It begins once training knows its first model: a model that nobody has named yet may go.
    """
    for path in ("/rounds/manual-1", "/experiments/exp"):
        while await _status(client, "GET", COORDINATOR + path) != 200:  # noqa: ASYNC110, PLR2004 - it can only ask
            await asyncio.sleep(RETRY_S)
    while world.clock.now().mono_s < world.weather.climate.storm_s + _TIDY_S:
        for origin in (REGISTRY, COORDINATOR, MANAGER):
            await _status(client, "POST", f"{origin}/retention/sweep")
        await asyncio.sleep(random.uniform(1.0, 15.0))
    status = await _status(client, "POST", f"{REGISTRY}/retention/sweep")
    require(status == 200, "a sweep works when all is calm", status)  # noqa: PLR2004 - HTTP's number


async def _status(client: Client, method: str, url: str) -> int:
    try:
        return (await client.once(method, url)).status
    except PeerUnavailable:
        return 0


async def is_stopped(client: Client, world: World, random: Random) -> None:
    """A guest that would never end is stopped, wherever it is by then."""
    fields = {"proplet_id": random.choice(world.proplet_ids)} if random.random() < 0.5 else {}  # noqa: PLR2004
    await _created_and_started(client, "stopped", task("stopped", **module(LOOP), **fields))
    await asyncio.sleep(random.uniform(0.0, 20.0))
    await client.demand("POST", "/tasks/stopped/stop")


ERRANDS: tuple[Errand, ...] = (
    restarts,
    moves_on_failure,
    moves_on_loss,
    is_choosy,
    queues,
    flows,
    jobs,
    is_scheduled,
    calls,
    drains,
    is_reborn,
    is_stopped,
    serves,
    rolls_out,
    broadcasts,
    tidies,
)
"""All of them; a day has some."""
