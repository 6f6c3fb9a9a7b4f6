"""The aggregator wired together: routes, health and metrics; nothing on disk. It decides nothing."""

from litestar import Litestar

from propeller.federation.aggregator.api import routes
from propeller.federation.offload import Offload
from propeller.http.server import create_app
from propeller.telemetry.metrics import RoleMetrics

ROLE = "aggregator"


def build(*, offload: Offload, metrics: RoleMetrics | None = None) -> Litestar:
    """The application. `offload`: a `SizedOffload` in production, `inline` in a simulated world."""
    return create_app(
        ROLE,
        routes(offload),
        metrics or RoleMetrics(ROLE),
        lambda: {"status": "ok"},
        offload=offload,
        description="Folds the updates of a round into a new model.",
    )
