"""What a fleet costs manager and broker that only says that it is there: processor time and memory.

The proplets are light: a connection, an identity and a subscription of its own each, a heartbeat every ten
seconds. Everybody is registered and alive before and after the window in which processor time is counted.
"""

import asyncio
import time
from collections.abc import Mapping

import light
import machine
import report
from system import System


async def measure(system: System, keys: Mapping[str, str], window_s: float) -> report.Row:
    """The figures of a fleet of all these keys."""
    began_s = time.perf_counter()
    fleet = await light.join_all(system.topics, system.mqtt_port, keys, lambda _task_id: None, at_once=100)
    await system.until_alive(len(keys))
    joined_s = time.perf_counter() - began_s
    await asyncio.sleep(min(light.HEARTBEAT_S, window_s))
    before, began_s = system.cpu_s(), time.perf_counter()
    await asyncio.sleep(window_s)
    took_s = time.perf_counter() - began_s
    spent = {role: (after - before[role]) / took_s for role, after in system.cpu_s().items()}
    await system.until_alive(len(keys))
    memory = {role: machine.pss_mb(system.pids(role)) for role in ("manager", "broker")}
    for one in fleet:
        one.leave()
    return {
        "broker": system.broker,
        "proplets": len(keys),
        "joined_s": joined_s,
        "heartbeats_per_s": len(keys) / light.HEARTBEAT_S,
        "manager_cores": spent["manager"],
        "broker_cores": spent["broker"],
        "cores": spent["manager"] + spent["broker"],
        "manager_mb": memory["manager"],
        "broker_mb": memory["broker"],
        "mb": memory["manager"] + memory["broker"],
    }
