"""The real clock. Only what wires a role for production imports it; everything else takes a `ports.Clock`."""

import asyncio
import time

from propeller.ports import Instant


class SystemClock:
    """`ports.Clock` of a running event loop."""

    def now(self) -> Instant:
        """The present moment; call it inside the loop whose deadlines it serves."""
        return Instant(asyncio.get_running_loop().time(), time.time())
