"""How long a warm call of a latent task takes: HTTP, the manager, MQTT, a proplet, its Wasm, and back."""

import asyncio
import time
from collections.abc import Iterator

import report
from lifecycles import body
from peers import HttpConnection
from system import System


async def measure(system: System, count: int, parallel: int) -> list[report.Row]:
    """One row of calls one after the other, one of `parallel` callers."""
    connection = await system.http()
    made = await connection.json("POST", "/tasks", {**body("main"), "latent": True}, status=201)
    path = f"/tasks/{made['id']}"
    await connection.json("POST", f"{path}/start")
    while (await connection.json("GET", path))["state"] != 2:  # noqa: ASYNC110, PLR2004 - Running, elsewhere
        await asyncio.sleep(0.02)
    await _calls(system, path, max(10, count // 10), 1)
    rows = [await _calls(system, path, count, callers) for callers in (1, parallel)]
    await connection.json("POST", f"{path}/stop")
    connection.close()
    return rows


async def _calls(system: System, path: str, count: int, parallel: int) -> report.Row:
    connections = [await system.http() for _ in range(parallel)]
    seconds: list[float] = []
    numbers = iter(range(count))
    cpu_before, began_s = system.cpu_s(), time.perf_counter()
    await asyncio.gather(*(_caller(connection, path, numbers, seconds) for connection in connections))
    took_s = time.perf_counter() - began_s
    spent = {role: after - cpu_before[role] for role, after in system.cpu_s().items()}
    for connection in connections:
        connection.close()
    return {
        "broker": system.broker,
        "callers": parallel,
        "calls": count,
        "calls_per_s": count / took_s,
        **report.spread_ms(seconds),
        **{f"{role}_cpu_ms": cpu_s / count * 1000 for role, cpu_s in spent.items()},
    }


async def _caller(
    connection: HttpConnection, path: str, numbers: "Iterator[int]", seconds: list[float]
) -> None:
    for _ in numbers:
        began_s = time.perf_counter()
        answer = await connection.json("POST", f"{path}/invoke", {})
        seconds.append(time.perf_counter() - began_s)
        if answer["results"] not in {"42", 42}:
            raise RuntimeError(f"the call answered {answer}")
