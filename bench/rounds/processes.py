"""Processes of a system under measurement: who belongs to it, its memory, its processor time. Linux only."""

import os
from pathlib import Path


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(status.parent.name))
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        left += children.get(found[-1], [])
    return found


def memory_mb(pid: int) -> float:
    """The sum of PSS over a family of processes, in 10⁶ bytes."""
    total = 0
    for one in family(pid):
        try:
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total * 1024 / 1e6


def cpu_ms(pid: int) -> dict[str, float]:
    """Processor time since their start: of the services' process, the agents, and everything below those."""
    tick_ms = 1000 / os.sysconf("SC_CLK_TCK")
    found = {"services": 0.0, "agents": 0.0, "sandboxes": 0.0}
    for one in family(pid):
        head, _, tail = Path(f"/proc/{one}/stat").read_text().rpartition(")")
        fields = tail.split()
        command = Path(f"/proc/{one}/cmdline").read_bytes().decode().replace("\0", " ")
        kind = "services" if one == pid else "sandboxes" if "runtime" in command + head else "agents"
        found[kind] += (int(fields[11]) + int(fields[12])) * tick_ms
    return found
