"""How many tasks a second live through: created, started, run by a real proplet, their results stored.

Clients are HTTP connections that are kept alive, each with one request at a time. The clock runs from the
first request until no run is live any more; afterwards every task is read back and its result compared.
"""

import asyncio
import base64
import time
from typing import Any

import report
from peers import HttpConnection
from system import System
from wasmtime import wat2wasm

ANSWER = '(module (func (export "main") (result i32) (i32.const 42)))'
CONNECTIONS = 32
PAGE = 100
COMPLETED = 3
"""As the API shows it."""


def body(name: str = "answer") -> dict[str, Any]:
    """A task with a trivial module, as a client posts it."""
    return {"name": name, "file": base64.b64encode(wat2wasm(ANSWER)).decode()}


async def measure(system: System, count: int) -> report.Row:
    """One round of `count` tasks, each created and started by a request of its own."""
    connections = [await system.http() for _ in range(min(CONNECTIONS, count))]
    before = await _total(connections[0])
    numbers = iter(range(count))
    cpu_before, began_s = system.cpu_s(), time.perf_counter()
    await asyncio.gather(*(_client(connection, numbers) for connection in connections))
    sent_s = time.perf_counter() - began_s
    await until_idle(connections[0])
    took_s = time.perf_counter() - began_s
    spent = {role: after - cpu_before[role] for role, after in system.cpu_s().items()}
    await _check(connections[0], before, count)
    for connection in connections:
        connection.close()
    return row(system, count, took_s, sent_s, spent)


def row(system: System, count: int, took_s: float, sent_s: float, spent: dict[str, float]) -> report.Row:
    """The figures of one round."""
    return {
        "broker": system.broker,
        "tasks": count,
        "tasks_per_s": count / took_s,
        "requests_s": sent_s,
        "total_s": took_s,
        **{f"{role}_cpu_ms": cpu_s / count * 1000 for role, cpu_s in spent.items()},
    }


async def _client(connection: HttpConnection, numbers: "Any") -> None:
    task = body()
    for _ in numbers:
        made = await connection.json("POST", "/tasks", task, status=201)
        await connection.json("POST", f"/tasks/{made['id']}/start")


async def measure_job(system: System, count: int) -> report.Row:
    """One round of `count` tasks, created as one parallel job and started by one request."""
    connection = await system.http()
    before = await _total(connection)
    tasks = [body(f"answer-{number}") for number in range(count)]
    cpu_before, began_s = system.cpu_s(), time.perf_counter()
    job = {"name": "bench", "execution_mode": "parallel", "tasks": tasks}
    made = await connection.json("POST", "/jobs", job, status=201)
    await connection.json("POST", f"/jobs/{made['job_id']}/start")
    sent_s = time.perf_counter() - began_s
    await until_idle(connection)
    took_s = time.perf_counter() - began_s
    spent = {role: after - cpu_before[role] for role, after in system.cpu_s().items()}
    await _check(connection, before, count)
    connection.close()
    return row(system, count, took_s, sent_s, spent)


async def until_idle(connection: HttpConnection) -> None:
    """Wait until no run is live, and until what ended the last one is on disk and acknowledged.

    The manager decides on events in groups, each of which is on disk before the next: so an event that
    changes nothing, sent last, is answered when all before it is done.
    """
    while await gauge(connection, "propeller_manager_live_runs"):  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.05)
    newest = (await connection.json("GET", "/tasks?limit=1"))["tasks"][0]["id"]
    await connection.json("POST", f"/tasks/{newest}/stop")


async def gauge(connection: HttpConnection, name: str) -> float:
    """One value of the manager's metrics."""
    _, text = await connection.request("GET", "/metrics")
    line = next(line for line in text.decode().splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


async def _total(connection: HttpConnection) -> int:
    return int((await connection.json("GET", "/tasks?limit=1"))["total"])


async def _check(connection: HttpConnection, before: int, count: int) -> None:
    """Every task is there, completed, with its result; one that is not is shown with its history."""
    odd: list[dict[str, Any]] = []
    for offset in range(0, count, PAGE):
        page = await connection.json("GET", f"/tasks?limit={PAGE}&offset={offset}")
        if page["total"] != before + count:
            raise RuntimeError(f"{page['total']} tasks are stored; {before + count} were created")
        odd += [
            task
            for task in page["tasks"][: count - offset]
            if task["state"] != COMPLETED or task.get("results") not in {"42", 42}
        ]
    if odd:
        story = await connection.json("GET", f"/tasks/{odd[0]['id']}/events")
        raise RuntimeError(
            f"{count - len(odd)} of {count} tasks completed with their result; one that did not: {odd[0]}, "
            f"and its history: {story}"
        )
