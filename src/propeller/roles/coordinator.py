"""The coordinator with its real adapters: databases, files, MQTT and HTTP. It decides nothing."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from random import SystemRandom

from propeller.clock import SystemClock
from propeller.federation.coordinator.app import ROLE, build
from propeller.federation.coordinator.settings import CoordinatorSettings
from propeller.roles.answering import answer, make_private
from propeller.roles.connection import bus_of, topics_of
from propeller.roles.serving import sized_offload
from propeller.roles.settings import CoordinatorRole
from propeller.roles.web import http_client
from propeller.storage.blobs import FileBlobs
from propeller.storage.connection import SqlDatabase
from propeller.storage.coordinator_store import ROLE as DATABASE
from propeller.storage.coordinator_store import SqlCoordinatorStore
from propeller.storage.opening import open_database
from propeller.telemetry.metrics import RoleMetrics


async def run_coordinator(settings: CoordinatorRole, sock: socket.socket) -> None:
    """Serve the coordinator until cancelled."""
    metrics = RoleMetrics(ROLE)
    topics = topics_of(settings.mqtt.identity)
    make_private(settings.directory)
    blobs, pieces, copies = (
        FileBlobs(settings.directory / name) for name in ("blobs", "piece-blobs", "base-blobs")
    )
    for one in (blobs, pieces, copies):
        await one.clear_unfinished()
    async with (
        _database(settings, topics.base) as opened,
        http_client() as http,
        sized_offload() as offload,
    ):
        coordinator, app = await build(
            settings=settings_of(settings),
            store=SqlCoordinatorStore(opened),
            blobs=blobs,
            pieces=pieces,
            copies=copies,
            bus=bus_of(settings.mqtt),
            http=http,
            clock=SystemClock(),
            offload=offload,
            random=SystemRandom(),
            metrics=metrics,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(coordinator.run())
            group.create_task(answer(app, sock, metrics))


@contextlib.asynccontextmanager
async def _database(settings: CoordinatorRole, base: str) -> AsyncIterator[SqlDatabase]:
    path = settings.directory / "coordinator.db"
    opened = await open_database(settings.database_url, path, role=DATABASE, base=base)
    try:
        yield opened
    finally:
        await opened.close()


def settings_of(settings: CoordinatorRole) -> CoordinatorSettings:
    """What the coordinator itself is told."""
    return CoordinatorSettings(
        topics=topics_of(settings.mqtt.identity),
        registry_url=settings.model_registry_url,
        aggregator_url=settings.aggregator_url,
        share_files=settings.share_files,
        own_url=settings.own_url,
        mirror=settings.mirror,
        retention=settings.retention,
        token_secret=settings.token_secret,
        require_update_token=settings.require_update_token,
    )
