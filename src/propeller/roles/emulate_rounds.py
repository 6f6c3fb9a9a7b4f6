"""The rounds of a fleet's experiment: who takes part, what they start from, what came of it.

Each round is an experiment of one, asked for over HTTP when enough devices are ready, so that its
participants can be others each time. It must not know how devices are made.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from random import Random
from statistics import median
from time import monotonic
from typing import Final

import msgspec
from rich.console import Console

from propeller.client import AsyncClient
from propeller.emulation.fleet import Device, Fleet
from propeller.emulation.status import Counters, counters
from propeller.errors import NotFound, PeerUnavailable
from propeller.fl.model_ref import ModelRef
from propeller.roles import digits, images
from propeller.roles.emulate_wishes import Wishes
from propeller.roles.layout import Running
from propeller.roles.trainers import mlp
from propeller.roles.web import http_client
from propeller.wire.experiments import ExperimentBody, RoundDetail
from propeller.wire.models import StoreModel

MODEL: Final = "digits"
IMAGE: Final = "emulate/mlp:latest"
POLL_S: Final = 0.05
READY_POLL_S: Final = 0.2
DYING_S: Final = 0.3
"""How far into a round devices lose their power."""
ENOUGH_S: Final = 60.0
"""A round that has no participants after this cannot start."""
_GRACE_S: Final = 30.0


class RoundSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One round. `seconds` by the coordinator's clock; `update_s` is when the median update came."""

    number: int
    state: str
    reason: str
    participants: int
    updates: int
    accuracy: float
    loss: float
    seconds: float
    update_s: float
    bytes: int
    refused: dict[str, int]
    model: str
    """SHA-256 of the model that the round made."""


class Rounds:
    """The rounds of one run.

    `died` and `returned` count devices that lost power and came back; `counted` is what they had counted.
    """

    def __init__(
        self,
        client: AsyncClient,
        fleet: Fleet,
        ids: Sequence[str],
        wishes: Wishes,
        running: Running,
        show: Console,
    ) -> None:
        self._ids = ids
        self.died = 0
        self.returned = 0
        self.counted = Counters()
        self._client, self._fleet, self._wishes, self._running, self._show = (
            client,
            fleet,
            wishes,
            running,
            show,
        )
        self._random = Random(wishes.seed)  # noqa: S311 - who takes part is no secret
        self._split = digits.load(wishes.devices, wishes.seed, alpha=wishes.alpha or None)
        self._version = 0
        self._image = ""
        self._last = (0.0, 0.0)

    async def prepare(self) -> None:
        """Trainer, data sets and the first model in their places."""
        self._image = f"{self._running.urls['registry'].removeprefix('http://')}/{IMAGE}"
        async with http_client() as http:
            await images.push(http, self._image, mlp(), title="mlp.wasm")
        for proplet_id, part in zip(self._ids, self._split.parts, strict=True):
            await self._client.datasets.post(proplet_id, part.rows())
        model = digits.untrained(self._wishes.seed)
        self._version = (await self._client.models.post(StoreModel(model=model, name=MODEL))).version or 0
        self._last = digits.judged(model, self._split.held_out)

    async def alive(self) -> set[str]:
        """The ids of our devices that the manager hears from."""
        page = await self._client.proplets.list(limit=1000, status="active")
        return {one.id for one in page.proplets} & set(self._ids)

    async def ready(self) -> None:
        """Wait until the manager hears everybody that started, or the slowest board's time has passed."""
        devices = self._fleet.devices.values()
        off = {one.plan.identity.id for one in devices if not one.machine.running}
        if devices and len(off) == len(devices):
            why = next(iter(self._fleet.failures.values()), "")
            raise PeerUnavailable(f"no device started of {len(devices)}; one says: {why}", code="no_devices")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(one.ready_s_max for one in self._wishes.fleet())):
                # The manager tells nobody who is alive; one has to ask.
                while not set(self._ids) - off <= await self.alive():  # noqa: ASYNC110
                    await asyncio.sleep(READY_POLL_S)

    async def run(self) -> list[RoundSeen]:
        """All rounds, one after the other."""
        seen: list[RoundSeen] = []
        for number in range(1, self._wishes.rounds + 1):
            began_s = monotonic()
            seen.append(await self._one(number))
            one = seen[-1]
            self._show.print(
                f"round {number}: {one.reason or one.state}, {one.updates} updates, "
                f"accuracy {one.accuracy:.3f}, {one.seconds:.2f} s"
            )
            await asyncio.sleep(max(0.0, self._wishes.interval_s - (monotonic() - began_s)))
        return seen

    async def _one(self, number: int) -> RoundSeen:
        participants = await self._participants()
        doomed = self._doomed(participants)
        body = ExperimentBody(
            experiment_id=f"emulate-{number}",
            round_id=f"round-{number}",
            model_ref=ModelRef(name=MODEL, version=self._version).uri,
            participants=participants,
            task_wasm_image=self._image,
            hyperparams={
                "epochs": self._wishes.epochs,
                "lr": self._wishes.lr,
                "batch_size": self._wishes.batch,
            },
            k_of_n=max(1, round(self._wishes.enough * len(participants))),
            min_updates=1,
            timeout_s=self._wishes.timeout_s,
            seed=self._wishes.seed,
            strategy=self._wishes.strategy,
        )
        configured = await self._client.fl.configure(body)
        dying = asyncio.create_task(self._kill(doomed))
        try:
            detail = await self._ended(configured.round_id)
        finally:
            await dying
        seen = await self._seen(number, detail, len(participants))
        await self._revive(doomed)
        return seen

    async def _participants(self) -> list[str]:
        """Those of this round: drawn from the devices that the manager hears, once there are enough."""
        wanted = self._wishes.clients
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + ENOUGH_S
        while True:
            ready = sorted(await self.alive())
            if len(ready) >= max(1, wanted):
                return sorted(self._random.sample(ready, wanted)) if wanted else ready
            if loop.time() > deadline_s:
                raise PeerUnavailable(f"{len(ready)} devices are ready, and a round needs {max(1, wanted)}")
            await asyncio.sleep(POLL_S)

    def _doomed(self, participants: list[str]) -> list[Device]:
        chosen = {one for one in participants if self._random.random() < self._wishes.churn}
        return [device for device in self._fleet.devices.values() if device.plan.identity.id in chosen]

    async def _kill(self, doomed: list[Device]) -> None:
        if doomed:
            await asyncio.sleep(DYING_S)
            self.counted += await counters(doomed)
            await asyncio.gather(*(device.machine.stop() for device in doomed))
            self.died += len(doomed)

    async def _revive(self, doomed: list[Device]) -> None:
        if doomed:
            self.returned += len(await self._fleet.boot(doomed))
            await self.ready()

    async def _ended(self, round_id: str) -> RoundDetail:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._wishes.timeout_s + _GRACE_S
        while loop.time() < deadline_s:
            try:
                detail = await self._client.fl.round(round_id)
            except NotFound:
                detail = None
            if detail is not None and detail.state in {"completed", "failed"}:
                return detail
            await asyncio.sleep(POLL_S)
        raise PeerUnavailable(f"{round_id} has not ended {_GRACE_S:g} s after its deadline", code="timeout")

    async def _seen(self, number: int, detail: RoundDetail, participants: int) -> RoundSeen:
        if detail.state == "completed" and detail.model_version is not None:
            self._version = detail.model_version
            model = await self._client.models.get(self._version, name=MODEL)
            self._last = digits.judged(model, self._split.held_out)
        return RoundSeen(
            number=number,
            state=detail.state,
            reason=detail.reason,
            participants=participants,
            updates=detail.num_updates,
            accuracy=self._last[0],
            loss=self._last[1],
            seconds=detail.seconds,
            update_s=median([one.seconds for one in detail.updates] or [0.0]),
            bytes=detail.bytes,
            refused=detail.refused,
            model=detail.model_hash,
        )
