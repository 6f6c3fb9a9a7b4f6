"""Gives each service with a scaling rule its figure, every few seconds. The engine decides what follows.

`queue` is the mean number of calls in progress since the last look, those included that wait at a proplet;
`cpu` what each replica's proplet said last, if that is not too old. Nothing is kept over a restart.
"""

import asyncio
from collections.abc import Awaitable, Callable

from propeller import limits
from propeller.core import events as e
from propeller.core.engine import Engine
from propeller.core.ledger import Standing
from propeller.manager.invoke import Invocations
from propeller.manager.measures import Measures
from propeller.ports import Clock


class Scaling:
    """Posts figures until it is cancelled."""

    def __init__(
        self,
        *,
        invocations: Invocations,
        measures: Measures,
        clock: Clock,
        engine: Callable[[], Engine],
        post: Callable[[e.Event], Awaitable[None]],
    ) -> None:
        self._invocations = invocations
        self._measures = measures
        self._clock = clock
        self._engine = engine
        self._post = post
        self._looked_s = clock.now().mono_s

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await asyncio.sleep(limits.SCALE_S)
            now_s = self._clock.now().mono_s
            over_s, self._looked_s = now_s - self._looked_s, now_s
            ledger = self._engine().ledger
            for standing in list(ledger.standing.values()):
                if standing.task.scale is not None and over_s > 0:
                    await self._post(self._figure(standing, now_s, over_s))
            self._forget({name for one in ledger.standing.values() for name in one.replicas})

    def _figure(self, standing: Standing, now_s: float, over_s: float) -> e.Measured:
        if standing.task.latent:
            found = [self._invocations.take_pending_s(name) / over_s for name in standing.ready_since]
        else:
            told = [self._measures.cpu_percent.get(name) for name in standing.ready_since]
            found = [one[0] for one in told if one and now_s - one[1] <= limits.REPLICA_METRICS_FRESH_S]
        return e.Measured(task_id=standing.task.id, total=sum(found), count=len(found))

    def _forget(self, live: set[str]) -> None:
        self._invocations.forget(live)
        told = self._measures.cpu_percent
        for name in [name for name in told if name not in live]:
            del told[name]
