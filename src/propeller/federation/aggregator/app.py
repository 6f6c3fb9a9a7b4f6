"""The aggregator wired together: routes, health and metrics; nothing on disk. It decides nothing."""

from litestar import Litestar

from propeller.federation.aggregator.api import routes
from propeller.federation.aggregator.by_reference import Reach
from propeller.federation.offload import Offload
from propeller.http.server import create_app
from propeller.telemetry.metrics import RoleMetrics

ROLE = "aggregator"


def build(
    *,
    offload: Offload,
    reach: Reach | None = None,
    threads: int = 1,
    metrics: RoleMetrics | None = None,
) -> Litestar:
    """The application. `offload`: a `SizedOffload` in production, `inline` in a simulated world.

    `reach` says which files it may take updates from, nowhere if not given; `threads` fold them.
    """
    return create_app(
        ROLE,
        routes(offload, reach or Reach(), threads),
        metrics or RoleMetrics(ROLE),
        lambda: {"status": "ok"},
        offload=offload,
        description="Folds the updates of a round into a new model.",
    )
