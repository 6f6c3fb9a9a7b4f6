"""A system of one's own: `propeller up` as a child with its own directory and ports. It ends with us."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from random import Random

from propeller.client import Endpoints
from propeller.core.ids import new_id
from propeller.errors import EnvironmentError_
from propeller.roles import provision
from propeller.roles.layout import DataDir, Running

READY_S = 45.0
STOP_S = 6.0
_POLL_S = 0.02


@contextlib.asynccontextmanager
async def own_system(
    data: DataDir, proplets: int, seed: int, *, identities: int = 0, more: Sequence[str] = ()
) -> AsyncIterator[Running]:
    """A whole system, ready, for the life of the context.

    `identities` are for proplets that come from elsewhere; `more` are arguments of `up`.
    Ids come from `seed`, so that the same demo gives the same models anywhere; keys are secret all the same.
    Raises `EnvironmentError_` with the last line that `up` said if it does not get ready.
    """
    data.make()
    random = Random(seed)  # noqa: S311 - names are no secrets
    wanted = provision.Wanted(proplets=max(proplets, identities))
    provision.ensure(data.config, data.broker, wanted, new_id=lambda: new_id(random))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "propeller", "up", "--data-dir", str(data.root), "--proplets", str(proplets)),
        *("--free-ports", "--parent", str(os.getpid()), *more),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield await _ready(data, process)
    finally:
        await _stop(process)


def endpoints(running: Running) -> Endpoints:
    """Where a client finds the services of a running system."""
    return Endpoints(
        manager=running.urls["manager"],
        coordinator=running.urls["coordinator"],
        aggregator=running.urls["aggregator"],
        model_registry=running.urls["model-registry"],
        data_store=running.urls["data-store"],
    )


async def _ready(data: DataDir, process: asyncio.subprocess.Process) -> Running:
    try:
        async with asyncio.timeout(READY_S):
            while (running := data.running()) is None or running.pid != process.pid:
                if process.returncode is not None:
                    raise EnvironmentError_(f"the system ended: {await _last_line(process)}")
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise EnvironmentError_(
            f"the system was not ready within {READY_S:g} s; its logs are in {data.logs} (with --keep)"
        ) from None
    return running


async def _last_line(process: asyncio.subprocess.Process) -> str:
    said = await process.stderr.read() if process.stderr else b""
    return said.decode(errors="replace").strip().rpartition("\n")[2] or f"exit status {process.returncode}"


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()
