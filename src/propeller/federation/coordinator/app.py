"""The coordinator wired together: shell, routes, health and metrics, over ports. It decides nothing."""

from random import Random

from litestar import Litestar

from propeller.federation.coordinator.api import routes
from propeller.federation.coordinator.settings import CoordinatorSettings
from propeller.federation.coordinator.shell import Coordinator
from propeller.federation.offload import Offload
from propeller.http.server import create_app
from propeller.ports import BlobFiles, Bus, Clock, HttpStreams
from propeller.stores.coordinator import CoordinatorStore
from propeller.telemetry.metrics import RoleMetrics

ROLE = "coordinator"


async def build(
    *,
    settings: CoordinatorSettings,
    store: CoordinatorStore,
    blobs: BlobFiles,
    pieces: BlobFiles,
    copies: BlobFiles,
    bus: Bus,
    http: HttpStreams,
    clock: Clock,
    offload: Offload,
    random: Random,
    metrics: RoleMetrics | None = None,
) -> tuple[Coordinator, Litestar]:
    """The loaded coordinator and its application. Run `Coordinator.run()` beside serving the application.

    `blobs` holds the files of updates, `pieces` pieces of them on their way, `copies` copies of base models:
    three stores, as each deletes what it needs no longer, and the same bytes may be in all of them.
    `offload`: a `SizedOffload` in production, `inline` in a simulated world.
    """
    counted = metrics or RoleMetrics(ROLE)
    coordinator = Coordinator(
        settings=settings,
        store=store,
        blobs=blobs,
        pieces=pieces,
        copies=copies,
        bus=bus,
        http=http,
        clock=clock,
        offload=offload,
        random=random,
        metrics=counted,
    )
    await coordinator.load()
    return coordinator, create_app(
        ROLE,
        [*routes(coordinator), *coordinator.sweeper.routes()],
        counted,
        lambda: {"status": "ok", "rounds_live": len(coordinator.engine.rounds)},
        offload=offload,
        description="Owns experiments and rounds, admits updates, has them aggregated.",
    )
