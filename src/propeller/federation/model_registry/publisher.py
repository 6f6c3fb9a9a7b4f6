"""Pushes every version to one place in an OCI registry, sooner or later. It must not know how.

What is not there yet is what the store says, so a crash forgets nothing; pushing again changes nothing. While
a registry cannot be reached, versions wait, and `/health` and the log say for what.
"""

import asyncio
from random import Random

from propeller import limits
from propeller.core.retry import Retry
from propeller.errors import PropellerError
from propeller.federation.model_registry.exchange import Exchange, reference_in
from propeller.stores.models import ModelStore
from propeller.telemetry.logs import logger

_RETRY = Retry(delay_s=2.0, delay_s_max=limits.PUBLISH_RETRY_S_MAX)


class Publisher:
    """`run` until cancelled; `wake` when there may be something new. `target`: HOST[:PORT]/PREFIX."""

    def __init__(self, target: str, store: ModelStore, exchange: Exchange, random: Random) -> None:
        self.target = target
        self._store = store
        self._exchange = exchange
        self._random = random
        self._woken = asyncio.Event()
        self._waiting = 0
        self._trouble = ""

    def wake(self) -> None:
        """Look again."""
        self._woken.set()

    def health(self) -> dict[str, object]:
        """How many versions wait, and for what."""
        shown: dict[str, object] = {"publishing_to": self.target, "unpublished": self._waiting}
        return shown | ({"waits_for": self._trouble} if self._trouble else {})

    async def run(self) -> None:
        """Push what is not there, forever."""
        tries = 0
        while True:
            self._woken.clear()
            try:
                await self._push_all()
            except PropellerError as error:
                tries += 1
                self._trouble = error.message
                logger().warning("model version not pushed yet", error=error.message, tries=tries)
                await asyncio.sleep(_RETRY.pause_s(tries - 1, self._random.random()))
                continue
            tries, self._trouble = 0, ""
            await self._woken.wait()

    async def _push_all(self) -> None:
        while waiting := await self._store.unpublished(self.target):
            self._waiting = len(waiting)
            name, number = waiting[0]
            version = await self._store.find(name, number)
            if version is not None and version.deleted_at_s is None:
                await self._exchange.push(version, reference_in(self.target, version), target=self.target)
        self._waiting = 0
