"""Tells the coordinator which participants of a round will not send, so that nobody waits for them.

Level-triggered: the stored runs of a round's tasks say who is lost. A round is looked at when one of its runs
ends, and every open one at the start; what could not be told is told again. It decides nothing about rounds.
"""

import asyncio

from propeller.core.events import SaveRun
from propeller.core.run import RunState
from propeller.errors import CallerError, NotFound, PropellerError
from propeller.fl.launch import Launch
from propeller.manager.coordinator import CoordinatorClient
from propeller.stores.manager import ManagerStore
from propeller.telemetry.logs import about, logger

_RETRY_S = 2.0
_LOST = frozenset({RunState.FAILED, RunState.INTERRUPTED, RunState.SKIPPED})


class Losses:
    """Give `ended` every saved run; `run` it beside."""

    def __init__(self, *, store: ManagerStore, coordinator: CoordinatorClient | None) -> None:
        self._store = store
        self._coordinator = coordinator
        self._due: dict[str, None] = {}
        self._wake = asyncio.Event()

    def ended(self, change: SaveRun) -> None:
        """A run was saved; one that is lost to its round has the round looked at."""
        if change.round_id and change.run.state in _LOST:
            self._due[change.round_id] = None
            self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        if self._coordinator is None:
            return
        self._due |= dict.fromkeys(launch.round_id for launch in await self._store.open_launches())
        while True:
            self._wake.clear()
            for round_id in list(self._due):
                if await self._told(round_id, self._coordinator):
                    self._due.pop(round_id, None)
            if self._due:
                await asyncio.sleep(_RETRY_S)
            else:
                await self._wake.wait()

    async def _told(self, round_id: str, coordinator: CoordinatorClient) -> bool:
        """Whether the coordinator knows of every loss that the store shows."""
        with about(round_id=round_id):
            try:
                launch = await self._store.launch(round_id)
                reasons = {} if launch is None else await self._reasons(launch)
                if reasons:
                    await coordinator.lost(round_id, reasons)
            except CallerError as error:
                logger().warning("losses refused", error=error.message, code=error.reason)
            except PropellerError as error:
                logger().warning("losses not told yet", error=error.message, code=error.reason)
                return False
        return True

    async def _reasons(self, launch: Launch) -> dict[str, str]:
        found = {}
        for participant, task_id in launch.tasks.items():
            try:
                run = (await self._store.task(task_id)).run
            except NotFound:
                found[participant] = "its task was deleted"
                continue
            if run is not None and run.state in _LOST:
                found[participant] = run.reason or str(run.state)
        return found
