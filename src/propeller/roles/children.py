"""The proplets of `up`: a process each, started again if it ends, and never left behind.

A child is told everything in one argument, without secrets: its keys are in the private `config.toml`.
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
from propeller.telemetry.logs import logger

RESTART_S = 1.0
RESTART_S_MAX = 30.0
STOP_S = 3.0
"""A proplet that was asked to end has this long to say goodbye."""
STEADY_S = 60.0
"""Having run for this long, a child's next pause is the short one again."""


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """What one proplet process is told. `parent` is the process that it must not outlive."""

    config: str
    section: str
    directory: str
    cache: str
    log: str
    level: str
    parent: int
    heartbeat_s: float
    slots: int
    services: Services
    allowed_origins: list[str]
    insecure_registries: list[str]
    data: str = ""


@contextlib.asynccontextmanager
async def children(told: Sequence[Child]) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """A process for each of `told`, for the life of the context; they are stopped together."""
    tasks = [asyncio.create_task(_keep(one), name=one.section) for one in told]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _keep(child: Child) -> None:
    """Start `child`, and again whenever it ends, with growing pauses."""
    pause_s, loop = RESTART_S, asyncio.get_running_loop()
    while True:
        started_s = loop.time()
        status = await _run_once(child)
        if loop.time() - started_s > STEADY_S:
            pause_s = RESTART_S
        logger().error(
            "proplet ended; starting it again", section=child.section, status=status, pause_s=pause_s
        )
        await asyncio.sleep(pause_s)
        pause_s = min(RESTART_S_MAX, pause_s * 2)


async def _run_once(child: Child) -> int:
    with await asyncio.to_thread(_open_log, Path(child.log)) as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "propeller.roles.child", msgspec.json.encode(child).decode()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C in a terminal reaches the whole foreground group; the parent alone passes the word on.
            start_new_session=True,
            env=_environment(),
        )
    try:
        return await process.wait()
    except asyncio.CancelledError:
        await _stop(process)
        raise


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
