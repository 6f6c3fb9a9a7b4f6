"""The proplets of `up`, as `up` sees them: one nursery process that is told what to run, and stopped.

What it is told holds no secrets: keys are in the private `config.toml`.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from propeller.roles.identity import Services
from propeller.telemetry.logs import Level, logger

RESTART_S = 1.0
STOP_S = 4.0
"""More than the nursery gives its proplets to say goodbye."""


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """What one proplet process is told."""

    config: str
    section: str
    directory: str
    cache: str
    log: str
    level: Level
    heartbeat_s: float
    slots: int
    services: Services
    allowed_origins: list[str]
    insecure_registries: list[str]
    registry_auth: str


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the nursery is told. `parent` is the process that it must not outlive."""

    parent: int
    children: list[Child]


@contextlib.asynccontextmanager
async def children(told: Sequence[Child], log: Path) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """A process for each of `told`, for the life of the context; `log` takes what the nursery itself says."""
    if not told:
        yield []
        return
    task = asyncio.create_task(_keep(Told(parent=os.getpid(), children=list(told)), log), name="proplets")
    try:
        yield [task]
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _keep(told: Told, log: Path) -> None:
    """Run the nursery, and again should it ever end."""
    while True:
        status = await _run_once(told, log)
        logger().error("the proplets' nursery ended; starting it again", status=status)
        await asyncio.sleep(RESTART_S)


async def _run_once(told: Told, log: Path) -> int:
    with await asyncio.to_thread(_open_log, log) as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "propeller.roles.nursery"),
            stdin=asyncio.subprocess.PIPE,
            stdout=file,
            stderr=file,
            # Ctrl-C in a terminal reaches the whole foreground group; the parent alone passes the word on.
            start_new_session=True,
            env=_environment(),
        )
    try:
        await process.communicate(msgspec.json.encode(told))
    except asyncio.CancelledError:
        await _stop(process)
        raise
    return process.returncode or 0


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _open_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def _environment() -> dict[str, str]:
    """Our environment without settings that would name another identity or place."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PROPLET_", "MANAGER_"))
    }
