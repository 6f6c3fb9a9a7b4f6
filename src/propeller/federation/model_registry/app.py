"""The model registry wired together: database, blobs, routes, health and metrics. It decides nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import SystemRandom

import numpy as np
from litestar import Litestar

from propeller.core.retention import Retention
from propeller.errors import Unsupported
from propeller.federation.model_registry.api import find, routes
from propeller.federation.model_registry.content import initial
from propeller.federation.model_registry.exchange import Exchange
from propeller.federation.model_registry.keeping import Holds, Keeping, asking
from propeller.federation.model_registry.orders import keeping_routes, order_routes
from propeller.federation.model_registry.publisher import Publisher
from propeller.federation.offload import Offload
from propeller.fl.retention import Needed
from propeller.fl.tensors import Tensors
from propeller.http.server import create_app
from propeller.http.sweeping import Sweeper
from propeller.ports import Clock, Http, ModelArtifacts
from propeller.storage.blobs import FileBlobs
from propeller.storage.model_store import ROLE as STORAGE_ROLE
from propeller.storage.model_store import SqlModelStore
from propeller.storage.opening import open_database
from propeller.stores.models import ModelStore
from propeller.telemetry.metrics import RoleMetrics

ROLE = "model-registry"


def build(
    *,
    store: ModelStore,
    clock: Clock,
    offload: Offload,
    metrics: RoleMetrics | None = None,
    artifacts: ModelArtifacts | None = None,
    publisher: Publisher | None = None,
    keeping: Keeping | None = None,
    sweeper: Sweeper | None = None,
    holds: Holds | None = None,
) -> Litestar:
    """The application over `store`. `offload`: a `SizedOffload` in production, `inline` when simulated.

    Without `artifacts` it reaches no OCI registry, without `keeping` and `holds` it deletes nothing. A
    `publisher` is woken and shown; running it and the `sweeper` is the caller's business.
    """

    def stored() -> None:
        if publisher is not None:
            publisher.wake()

    named = partial(find, store)
    exchange = Exchange(store, artifacts, clock, offload)
    holds = holds or Holds(clock)
    keeping = keeping or Keeping(store, clock, holds, Retention().models, _nobody_to_ask)
    return create_app(
        ROLE,
        [
            *routes(store, clock, offload, stored),
            *order_routes(exchange, named, publisher.target if publisher else "", stored),
            *keeping_routes(keeping, holds, named),
            *(sweeper.routes() if sweeper else ()),
        ],
        metrics or RoleMetrics(ROLE),
        lambda: {"status": "ok"} | (publisher.health() if publisher else {}),
        offload=offload,
        description="Named, immutable, content-addressed versions of models.",
    )


async def _nobody_to_ask() -> Needed:
    raise Unsupported(
        "this model registry was not told who knows what is in use, so it deletes nothing", code="not_offered"
    )


def keeper(
    store: ModelStore,
    clock: Clock,
    http: Http,
    *,
    coordinator_url: str,
    publish_to: str,
    retention: Retention,
) -> tuple[Keeping, Holds, Sweeper]:
    """What deletes versions, by hand and by the policy. An empty `coordinator_url`: there is none."""

    async def unpublished() -> list[tuple[str, int]]:
        return await store.unpublished(publish_to) if publish_to else []

    holds = Holds(clock)
    keeping = Keeping(store, clock, holds, retention.models, asking(coordinator_url, http, unpublished))
    sweeper = Sweeper({"models": retention.models}, retention.every_s, keeping.sweep)
    return keeping, holds, sweeper


async def seed(store: ModelStore, clock: Clock) -> None:
    """Give a registry without any version of `global_model` version 0: `{"w": [0, 0, 0], "b": 0}`."""
    proposal, content = initial(Tensors({"w": np.zeros(3), "b": np.zeros(())}))
    if not await store.versions(proposal.name):
        await store.add(proposal, content, created_at_s=clock.now().wall_s)


@asynccontextmanager
async def opened(
    data_dir: Path,
    *,
    base: str,
    clock: Clock,
    offload: Offload,
    seed_initial: bool = True,
    database_url: str = "",
    metrics: RoleMetrics | None = None,
    artifacts: ModelArtifacts | None = None,
    publish_to: str = "",
    http: Http | None = None,
    coordinator_url: str = "",
    retention: Retention | None = None,
) -> AsyncIterator[Litestar]:
    """The application over `registry.db` and `registry-blobs` in `data_dir`, which are its alone meanwhile.

    `base` is the topic prefix B that the data belong to. `seed_initial` gives a new registry its version 0.
    With `publish_to`, HOST[:PORT]/PREFIX, every version is pushed there by `artifacts` meanwhile. With
    `http` versions are deleted by the `retention`, unless the coordinator needs them, if there is one.
    Raises what `open_database` raises. `offload` stays the caller's to close.
    """
    database = await open_database(database_url, data_dir / "registry.db", role=STORAGE_ROLE, base=base)
    try:
        blobs = FileBlobs(data_dir / "registry-blobs")
        await blobs.clear_unfinished()
        store = SqlModelStore(database, blobs)
        if seed_initial:
            await seed(store, clock)
        publisher = None
        async with asyncio.TaskGroup() as group:
            running: list[asyncio.Task[None]] = []
            if publish_to:
                exchange = Exchange(store, artifacts, clock, offload)
                publisher = Publisher(publish_to, store, exchange, SystemRandom())
                running.append(group.create_task(publisher.run(), name="publisher"))
            keeping, holds, sweeper = None, None, None
            if http is not None:
                keeping, holds, sweeper = keeper(
                    store,
                    clock,
                    http,
                    coordinator_url=coordinator_url,
                    publish_to=publish_to,
                    retention=retention or Retention(),
                )
                running.append(group.create_task(sweeper.run(), name="sweeper"))
            yield build(
                store=store,
                clock=clock,
                offload=offload,
                metrics=metrics,
                artifacts=artifacts,
                publisher=publisher,
                keeping=keeping,
                sweeper=sweeper,
                holds=holds,
            )
            for task in running:
                task.cancel()
    finally:
        await database.close()
