"""A role's sweeper: looks now and then, or when asked, and deletes what its policy says. Knows no policy.

`GET /retention` is the policy and what would go now; `POST /retention/sweep` is to do it now.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from litestar import get, post
from litestar.handlers import HTTPRouteHandler

from propeller.core.retention import Keep
from propeller.errors import PropellerError
from propeller.http.document import said
from propeller.telemetry.logs import logger
from propeller.wire.retention import KeepView, RetentionView, Swept

Work = Callable[[bool], Awaitable[Mapping[str, int]]]
"""`await work(dry)`: how many of each kind went, or, if `dry`, would go."""


class Sweeper:
    """Sweeps one role; `run` until cancelled. `policy` is by kind, for people to see."""

    def __init__(self, policy: Mapping[str, Keep], every_s: float, work: Work) -> None:
        self._policy = policy
        self._every_s = every_s
        self._work = work
        # A sweep that is asked for must not run beside one that is due.
        self._alone = asyncio.Lock()

    async def sweep(self, *, dry: bool = False) -> dict[str, int]:
        """Do it now; what went. Raises what storage and peers raise, and may then be asked again."""
        async with self._alone:
            gone = dict(await self._work(dry))
        if not dry and any(gone.values()):
            logger().info("swept", **gone)
        return gone

    async def run(self) -> None:
        """Sweep whenever it is due. A failure is logged: the next sweep finds all that is left."""
        while self._every_s > 0:
            await asyncio.sleep(self._every_s)
            try:
                await self.sweep()
            except PropellerError as error:
                logger().warning("not swept now", error=error.message, code=error.reason)

    def routes(self) -> list[HTTPRouteHandler]:
        """For people, and for `propeller retention`."""

        @get("/retention", summary="What is kept, and what would go now", opt=said(answers=RetentionView))
        async def show_retention() -> RetentionView:
            kinds = {
                kind: KeepView(keep_last=keep.last, max_age_s=keep.max_age_s)
                for kind, keep in self._policy.items()
            }
            return RetentionView(policy=kinds, every_s=self._every_s, surplus=await self.sweep(dry=True))

        @post("/retention/sweep", status_code=200, summary="Delete that now", opt=said(answers=Swept))
        async def sweep_now() -> Swept:
            return Swept(deleted=await self.sweep())

        return [show_retention, sweep_now]
