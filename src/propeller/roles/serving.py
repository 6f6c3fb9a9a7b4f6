"""The HTTP roles that keep to themselves: aggregator, model registry, data store and OCI registry.

Each function opens what its role owns, serves until cancelled, and closes it. It must not know the others.
"""

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from random import SystemRandom

from propeller.broker.credentials import CredentialStore
from propeller.clock import SystemClock
from propeller.federation.aggregator import app as aggregator
from propeller.federation.aggregator.by_reference import Reach
from propeller.federation.data_store import app as data_store
from propeller.federation.model_registry import app as model_registry
from propeller.federation.offload import SizedOffload
from propeller.http.server import create_app
from propeller.http.sweeping import Sweeper
from propeller.images.credentials import read_credentials
from propeller.images.models import OciModels
from propeller.images.registry.app import RegistryApp, create_registry_app
from propeller.images.registry.index import FileIndex
from propeller.roles.answering import answer, make_private
from propeller.roles.process import beside
from propeller.roles.settings import (
    AggregatorRole,
    DataStoreRole,
    ModelRegistryRole,
    RegistryRole,
)
from propeller.roles.web import http_client
from propeller.storage.blobs import FileBlobs
from propeller.telemetry.logs import logger
from propeller.telemetry.metrics import RoleMetrics


async def run_aggregator(settings: AggregatorRole, sock: socket.socket) -> None:
    """Serve the aggregator until cancelled."""
    metrics = RoleMetrics(aggregator.ROLE)
    async with sized_offload() as offload, http_client() as http:
        reach = Reach(roots=settings.roots, origins=settings.origins, http=http)
        threads = len(os.sched_getaffinity(0))
        app = aggregator.build(offload=offload, reach=reach, threads=threads, metrics=metrics)
        await answer(app, sock, metrics)


async def run_model_registry(settings: ModelRegistryRole, sock: socket.socket) -> None:
    """Serve the model registry until cancelled; an empty one gets version 0 of the global model."""
    metrics = RoleMetrics(model_registry.ROLE)
    make_private(settings.directory)
    async with (
        sized_offload() as offload,
        http_client() as http,
        model_registry.opened(
            settings.directory,
            base=settings.base,
            clock=SystemClock(),
            offload=offload,
            database_url=settings.database_url,
            metrics=metrics,
            artifacts=OciModels(
                http,
                insecure=settings.insecure_registries,
                credentials=read_credentials(settings.registry_auth),
                aliases=settings.aliases,
            ),
            publish_to=settings.publish_to,
            http=http,
            coordinator_url=settings.coordinator_url,
            retention=settings.retention,
        ) as app,
    ):
        await answer(app, sock, metrics)


async def run_data_store(settings: DataStoreRole, sock: socket.socket) -> None:
    """Serve the data store until cancelled."""
    metrics = RoleMetrics(data_store.ROLE)
    known = CredentialStore(settings.credentials).verify if settings.credentials else None
    make_private(settings.directory)
    async with (
        sized_offload() as offload,
        data_store.opened(
            settings.directory,
            base=settings.base,
            offload=offload,
            synthetic_for=settings.seeded,
            credentials=known,
            database_url=settings.database_url,
            metrics=metrics,
        ) as app,
    ):
        await answer(app, sock, metrics)


async def run_registry(settings: RegistryRole, sock: socket.socket) -> None:
    """Serve the OCI registry until cancelled."""
    metrics = RoleMetrics("registry")
    blobs = FileBlobs(settings.directory / "blobs")
    await blobs.clear_unfinished()
    with contextlib.closing(FileIndex(settings.directory / "repositories")) as index:
        registry = RegistryApp(blobs, index, SystemClock(), SystemRandom())
        await registry.open()
        if orphans := await registry.collect():
            logger().info("unlinked content deleted", blobs=orphans)
        keep = settings.retention.images
        sweeper = Sweeper(
            {"images": keep}, settings.retention.every_s, lambda dry: registry.sweep(keep, dry=dry)
        )
        app = create_app(
            "registry", [create_registry_app(registry), *sweeper.routes()], metrics, lambda: {"status": "ok"},
            description="An OCI registry: the distribution specification v1.1.",
        )  # fmt: skip
        try:
            async with beside("sweeper", sweeper.run()):
                await answer(app, sock, metrics)
        finally:
            await registry.close()


@contextlib.asynccontextmanager
async def sized_offload() -> AsyncIterator[SizedOffload]:
    """Where heavy work goes, for the life of the context."""
    offload = SizedOffload()
    try:
        yield offload
    finally:
        await offload.close()
