"""What every HTTP role does once it is wired: answer on its socket, watch its loop, own its directory.

Apart from the roles, so that each of them loads its own code only. It must not know any of them.
"""

import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from litestar import Litestar

from propeller.http.listen import serve
from propeller.roles.process import beside
from propeller.telemetry.logs import logger
from propeller.telemetry.metrics import RoleMetrics, watch_loop_lag


async def with_lag(metrics: RoleMetrics, work: Coroutine[Any, Any, None]) -> None:
    """`work`, with the lag of the loop shown in `metrics`."""
    async with beside("loop lag", watch_loop_lag(metrics)):
        await work


async def answer(app: Litestar, sock: socket.socket, metrics: RoleMetrics) -> None:
    """Serve `app` on `sock` until cancelled, and say so in the log."""
    host, port = sock.getsockname()[:2]
    logger().info("listening", host=host, port=port)
    await with_lag(metrics, serve(app, sock))


def make_private(directory: Path) -> None:
    """Make a role's directory, for its owner alone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
