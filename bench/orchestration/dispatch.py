"""How long a start takes to reach a proplet, at 100 proplets: from the request until the message is there.

In between the run and its assignment are on disk. The proplets are light (see `light`); tasks exist before.
Starts come at a steady pace that does not wait for answers, and then, apart, a thousand at once.
"""

import asyncio
import time
from collections.abc import Mapping

import light
import report
from lifecycles import body, gauge, until_idle
from peers import HttpConnection
from system import System

PROPLETS = 100
CONNECTIONS = 32


class Latencies:
    """When each task's start was asked for, and when it arrived."""

    def __init__(self) -> None:
        self._asked_s: dict[str, float] = {}
        self.seconds: list[float] = []

    def ask(self, task_id: str) -> None:
        """The request goes out now."""
        self._asked_s[task_id] = time.perf_counter()

    def arrive(self, task_id: str) -> None:
        """The start message is there; a repetition does not count."""
        asked_s = self._asked_s.pop(task_id, None)
        if asked_s is not None:
            self.seconds.append(time.perf_counter() - asked_s)


async def measure(
    system: System, keys: Mapping[str, str], *, paced: int, per_s: float, burst: int
) -> tuple[report.Row, report.Row]:
    """The row of the steady pace and that of the burst."""
    latencies = Latencies()
    fleet = await light.join_all(system.topics, system.mqtt_port, keys, latencies.arrive)
    await system.until_alive(len(keys))
    connections = [await system.http() for _ in range(CONNECTIONS)]
    try:
        await _paced(connections, latencies, min(paced, 20), per_s)  # the first ones warm up
        latencies.seconds.clear()
        steady = await _paced(connections, latencies, paced, per_s)
        latencies.seconds.clear()
        at_once = await _burst(connections, latencies, burst)
    finally:
        for one in (*fleet, *connections):
            one.leave() if isinstance(one, light.LightProplet) else one.close()
    named = {"broker": system.broker, "proplets": len(keys)}
    return {**named, "per_s": per_s, **steady}, {**named, "at_once": burst, **at_once}


async def _paced(
    connections: list[HttpConnection], latencies: Latencies, count: int, per_s: float
) -> report.Row:
    tasks = await _tasks(connections, count)
    free: asyncio.Queue[HttpConnection] = asyncio.Queue()
    for connection in connections:
        free.put_nowait(connection)
    began_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, task_id in enumerate(tasks):
            await asyncio.sleep(max(0.0, began_s + number / per_s - time.perf_counter()))
            group.create_task(_start(free, latencies, task_id))
    await until_idle(connections[0])
    _check(latencies, count)
    return {"starts": count, **report.spread_ms(latencies.seconds)}


async def _burst(connections: list[HttpConnection], latencies: Latencies, count: int) -> report.Row:
    tasks = iter(await _tasks(connections, count))

    async def client(connection: HttpConnection) -> None:
        for task_id in tasks:
            latencies.ask(task_id)
            await connection.json("POST", f"/tasks/{task_id}/start")

    began_s = time.perf_counter()
    await asyncio.gather(*(client(connection) for connection in connections))
    await until_idle(connections[0])
    took_s = time.perf_counter() - began_s
    _check(latencies, count)
    lag_s = await gauge(connections[0], "propeller_event_loop_lag_seconds")
    return {**report.spread_ms(latencies.seconds), "took_s": took_s, "loop_lag_ms": lag_s * 1000}


async def _start(free: "asyncio.Queue[HttpConnection]", latencies: Latencies, task_id: str) -> None:
    latencies.ask(task_id)  # waiting for a connection counts: the user waits too
    connection = await free.get()
    await connection.json("POST", f"/tasks/{task_id}/start")
    free.put_nowait(connection)


async def _tasks(connections: list[HttpConnection], count: int) -> list[str]:
    """Tasks that can be started."""
    numbers = iter(range(count))
    made: list[str] = []

    async def client(connection: HttpConnection) -> None:
        for _ in numbers:
            task = await connection.json("POST", "/tasks", body(), status=201)
            made.append(task["id"])

    await asyncio.gather(*(client(connection) for connection in connections))
    return made


def _check(latencies: Latencies, count: int) -> None:
    if len(latencies.seconds) != count:
        raise RuntimeError(f"{len(latencies.seconds)} of {count} starts arrived")
