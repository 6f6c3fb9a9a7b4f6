"""Measures the orchestrator: `make bench NAME=orchestration`, `ARGS=--quick` for a small run of all parts.

Everything runs on the cores of this machine: broker, manager, proplets, and the load, which is this program.
Every part prints a table; the last line is one JSON object. See README.md for what is measured and how.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import calls
import dispatch
import fleet
import lifecycles
import machine
import report
import restart
import uvloop
import worker
from system import System, begin, made, running, stopping

BROKERS = ("mosquitto", "embedded")
DURABILITY = "sqlite WAL, synchronous=FULL: one fsync per group commit; proplet spool: one fsync per group"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    rounds: int
    tasks: int
    job_tasks: int
    proplets: int
    slots: int
    worker_tasks: int
    paced: int
    paced_per_s: float
    burst: int
    light: int
    calls: int
    callers: int
    fleet: Mapping[str, int]
    window_s: float
    stored: int
    restarts: int


FULL = Size(
    rounds=3,
    tasks=3000,
    job_tasks=2000,
    proplets=4,
    slots=4,
    worker_tasks=1500,
    paced=2000,
    paced_per_s=100.0,
    burst=1000,
    light=dispatch.PROPLETS,
    calls=2000,
    callers=8,
    fleet={"mosquitto": 10_000, "embedded": 1_900},
    window_s=30.0,
    stored=100_000,
    restarts=5,
)
QUICK = Size(
    rounds=1,
    tasks=20,
    job_tasks=10,
    proplets=1,
    slots=2,
    worker_tasks=20,
    paced=10,
    paced_per_s=50.0,
    burst=20,
    light=5,
    calls=10,
    callers=2,
    fleet={"mosquitto": 20, "embedded": 20},
    window_s=1.0,
    stored=200,
    restarts=1,
)

Figures = dict[str, object]
Part = Callable[[Path, Size, tuple[str, ...]], Awaitable[Figures]]


async def measure_lifecycles(home: Path, size: Size, brokers: tuple[str, ...]) -> Figures:
    """Tasks per second, the brokers by turns."""
    rows: list[report.Row] = []
    jobs: list[report.Row] = []
    async with AsyncExitStack() as stack:
        systems = [
            await stack.enter_async_context(
                running(home / broker, broker, proplets=size.proplets, slots=size.slots)
            )
            for broker in brokers
        ]
        for system in systems:
            await lifecycles.measure(system, max(10, size.tasks // 10))
        for _ in range(size.rounds):
            rows += [await lifecycles.measure(system, size.tasks) for system in systems]
            jobs += [await lifecycles.measure_job(system, size.job_tasks) for system in systems]
    report.table(f"Task lifecycles, {size.proplets} proplets of {size.slots} slots, a request each", rows)
    report.table("Task lifecycles, created and started as one parallel job", jobs)
    return _by_broker(rows, brokers, {"tasks_per_s": "tasks_per_s"}) | _by_broker(
        jobs, brokers, {"job_tasks_per_s": "tasks_per_s"}
    )


async def measure_dispatch(home: Path, size: Size, brokers: tuple[str, ...]) -> Figures:
    """The way from a start request to its proplet."""
    steady: list[report.Row] = []
    bursts: list[report.Row] = []
    async with AsyncExitStack() as stack:
        systems = []
        for broker in brokers:
            system = made(home / broker, broker, 0)
            keys = system.enlist(size.light)
            await stack.enter_async_context(stopping(system))
            await begin(system)
            systems.append((system, keys))
        for _ in range(size.rounds):
            for system, keys in systems:
                paced, burst = await dispatch.measure(
                    system, keys, paced=size.paced, per_s=size.paced_per_s, burst=size.burst
                )
                steady.append(paced)
                bursts.append(burst)
    report.table("Dispatch to light proplets at a steady pace", steady)
    report.table("Dispatch to light proplets, many starts at once", bursts)
    return _by_broker(
        steady, brokers, {"dispatch_ms_p50": "p50_ms", "dispatch_ms_p99": "p99_ms"}
    ) | _by_broker(bursts, brokers, {"burst_ms_p99": "p99_ms", "burst_loop_lag_ms": "loop_lag_ms"})


async def measure_calls(home: Path, size: Size, brokers: tuple[str, ...]) -> Figures:
    """Warm calls of a latent task."""
    rows: list[report.Row] = []
    async with AsyncExitStack() as stack:
        systems = [
            await stack.enter_async_context(running(home / broker, broker, proplets=1)) for broker in brokers
        ]
        for _ in range(size.rounds):
            for system in systems:
                rows += await calls.measure(system, size.calls, size.callers)
    report.table("Warm invoke over MQTT, a real proplet", rows)
    alone = [row for row in rows if row["callers"] == 1]
    return _by_broker(alone, brokers, {"invoke_ms_p50": "p50_ms", "invoke_ms_p99": "p99_ms"})


async def measure_worker(home: Path, size: Size, brokers: tuple[str, ...]) -> Figures:
    """What a task costs its proplet and its sandboxes."""
    rows: list[report.Row] = []
    for slots in dict.fromkeys((1, size.slots)):
        system = made(home / f"slots-{slots}", brokers[0], 1)
        async with stopping(system):
            rows += await worker.measure(system, size.rounds, size.worker_tasks, slots)
    report.table("One real proplet, under a manager that costs next to nothing", rows)
    full = [row for row in rows if row["slots"] == size.slots]
    return _by_broker(full, brokers[:1], {"worker_task_cpu_ms": "worker_task_cpu_ms"})


async def measure_fleet(home: Path, size: Size, brokers: tuple[str, ...]) -> Figures:
    """What heartbeats cost."""
    rows: list[report.Row] = []
    for broker in brokers:
        system: System = made(home / broker, broker, 0)
        keys = system.enlist(size.fleet[broker])
        async with stopping(system):
            await begin(system)
            rows.append(await fleet.measure(system, keys, size.window_s))
    report.table("A heartbeating fleet (the embedded broker's bound is 2,000 connections)", rows)
    names = {"fleet_proplets": "proplets", "fleet_cpu_cores": "cores", "fleet_mb": "mb"}
    return _by_broker(rows, brokers, names)


async def measure_restart(home: Path, size: Size, brokers: tuple[str, ...]) -> Figures:
    """A manager that comes back."""
    system = made(home / brokers[0], brokers[0], 0)
    await restart.fill(system, size.stored)
    rows = await restart.measure(system, size.stored, size.restarts)
    report.table("Restart after SIGKILL", rows)
    return {"restart_s": report.middle(rows)["restart_s"], "stored_tasks": size.stored}


PARTS: Mapping[str, Part] = {
    "lifecycles": measure_lifecycles,
    "worker": measure_worker,
    "dispatch": measure_dispatch,
    "invoke": measure_calls,
    "fleet": measure_fleet,
    "restart": measure_restart,
}


def _by_broker(rows: list[report.Row], brokers: tuple[str, ...], names: Mapping[str, str]) -> Figures:
    """The median of each figure; the first broker's under its own name, others' with theirs before it."""
    found: Figures = {}
    for broker in brokers:
        middle = report.middle([row for row in rows if row["broker"] == broker])
        prefix = "" if broker == brokers[0] else f"{broker}_"
        found |= {prefix + name: round(middle[column], 3) for name, column in names.items()}
    return found


async def measure(size: Size, parts: list[str], brokers: tuple[str, ...]) -> Figures:
    """Every part asked for, each on systems of its own."""
    figures: Figures = {"broker": brokers[0], "durability": DURABILITY, "load_before": machine.load()}
    for name in parts:
        home = Path(tempfile.mkdtemp(prefix=f"propeller-bench-{name}-"))
        try:
            figures |= await PARTS[name](home, size, brokers)
        finally:
            shutil.rmtree(home)
    return figures | {"load_after": machine.load()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run of everything, in seconds")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"any of {','.join(PARTS)}")
    parser.add_argument(
        "--brokers", default=",".join(BROKERS), help="the first one's figures are the figures"
    )
    told = parser.parse_args()
    size = QUICK if told.quick else FULL
    figures = uvloop.run(measure(size, told.parts.split(","), tuple(told.brokers.split(","))))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
