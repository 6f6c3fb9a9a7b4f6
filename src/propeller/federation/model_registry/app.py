"""The model registry wired together: database, blobs, routes, health and metrics. It decides nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from litestar import Litestar

from propeller.federation.model_registry.api import routes
from propeller.federation.model_registry.content import initial
from propeller.federation.offload import Offload
from propeller.fl.tensors import Tensors
from propeller.http.server import create_app
from propeller.ports import Clock
from propeller.storage.blobs import FileBlobs
from propeller.storage.model_store import ROLE as STORAGE_ROLE
from propeller.storage.model_store import SqlModelStore
from propeller.storage.opening import open_database
from propeller.stores.models import ModelStore
from propeller.telemetry.metrics import RoleMetrics

ROLE = "model-registry"


def build(
    *, store: ModelStore, clock: Clock, offload: Offload, metrics: RoleMetrics | None = None
) -> Litestar:
    """The application over `store`. `offload`: a `SizedOffload` in production, `inline` when simulated."""
    return create_app(
        ROLE,
        routes(store, clock, offload),
        metrics or RoleMetrics(ROLE),
        lambda: {"status": "ok"},
        offload=offload,
        description="Named, immutable, content-addressed versions of models.",
    )


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
) -> AsyncIterator[Litestar]:
    """The application over `registry.db` and `registry-blobs` in `data_dir`, which are its alone meanwhile.

    `base` is the topic prefix B that the data belong to. `seed_initial` gives a new registry its version 0.
    Raises what `open_database` raises. `offload` stays the caller's to close.
    """
    database = await open_database(database_url, data_dir / "registry.db", role=STORAGE_ROLE, base=base)
    try:
        blobs = FileBlobs(data_dir / "registry-blobs")
        await blobs.clear_unfinished()
        store = SqlModelStore(database, blobs)
        if seed_initial:
            await seed(store, clock)
        yield build(store=store, clock=clock, offload=offload, metrics=metrics)
    finally:
        await database.close()
