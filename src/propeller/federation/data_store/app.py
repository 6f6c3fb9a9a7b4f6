"""The data store wired together: database, blobs, routes, health and metrics. It decides nothing."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from litestar import Litestar

from propeller.federation.data_store.api import Credentials, routes, seed
from propeller.federation.offload import Offload
from propeller.http.server import create_app
from propeller.storage.blobs import FileBlobs
from propeller.storage.dataset_store import ROLE as STORAGE_ROLE
from propeller.storage.dataset_store import SqlDatasetStore
from propeller.storage.opening import open_database
from propeller.stores.models import DatasetStore
from propeller.telemetry.logs import logger
from propeller.telemetry.metrics import RoleMetrics

ROLE = "data-store"


def build(
    *,
    store: DatasetStore,
    offload: Offload,
    credentials: Credentials | None = None,
    metrics: RoleMetrics | None = None,
) -> Litestar:
    """The application over `store`. Without `credentials` it is open: for one machine only."""
    return create_app(
        ROLE,
        routes(store, offload, credentials=credentials),
        metrics or RoleMetrics(ROLE),
        lambda: {"status": "ok"},
        offload=offload,
        description="The data sets of this site's own proplets.",
    )


def participants(listed: str) -> list[str]:
    """The ids in a comma-separated list, as `FL_DATASET_PARTICIPANTS` has it; blanks are left out."""
    return [one.strip() for one in listed.split(",") if one.strip()]


@asynccontextmanager
async def opened(
    data_dir: Path,
    *,
    base: str,
    offload: Offload,
    synthetic_for: Sequence[str] = (),
    credentials: Credentials | None = None,
    database_url: str = "",
    metrics: RoleMetrics | None = None,
) -> AsyncIterator[Litestar]:
    """The application over `data-store.db` and `data-store-blobs` in `data_dir`, its alone meanwhile.

    `base` is the topic prefix B that the data belong to. Proplets in `synthetic_for` that have no data set
    get the synthetic one. Raises what `open_database` raises, and `BadInput` for an id that is none.
    `offload` stays the caller's to close.
    """
    database = await open_database(database_url, data_dir / "data-store.db", role=STORAGE_ROLE, base=base)
    try:
        blobs = FileBlobs(data_dir / "data-store-blobs")
        await blobs.clear_unfinished()
        store = SqlDatasetStore(database, blobs)
        await store.sweep(await blobs.digests())
        made = await seed(store, synthetic_for)
        if made:
            logger().info("synthetic data sets made", proplet_ids=made)
        yield build(store=store, offload=offload, credentials=credentials, metrics=metrics)
    finally:
        await database.close()
