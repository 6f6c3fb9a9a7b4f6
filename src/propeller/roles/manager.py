"""The manager with its real adapters: databases, files, MQTT and HTTP. It decides nothing."""

import asyncio
import socket
from random import SystemRandom

from propeller import limits
from propeller.clock import SystemClock
from propeller.images.cache import CachedImages
from propeller.images.client import OciImages
from propeller.images.credentials import read_credentials
from propeller.manager.app import ROLE, opened
from propeller.manager.config import ManagerConfig
from propeller.ports import Http
from propeller.roles.answering import answer, make_private
from propeller.roles.connection import bus_of, topics_of
from propeller.roles.settings import ManagerRole
from propeller.roles.web import http_client
from propeller.storage.blob_cache import FileBlobCache
from propeller.telemetry.metrics import RoleMetrics


async def run_manager(settings: ManagerRole, sock: socket.socket) -> None:
    """Serve the manager until cancelled."""
    metrics = RoleMetrics(ROLE)
    make_private(settings.directory)
    async with (
        http_client() as http,
        opened(
            config_of(settings),
            settings.directory,
            bus=bus_of(settings.mqtt),
            http=http,
            clock=SystemClock(),
            random=SystemRandom(),
            images=_images(settings, http),
            database_url=settings.database_url,
            metrics=metrics,
        ) as manager,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(manager.run())
        group.create_task(answer(manager.app, sock, metrics))


def _images(settings: ManagerRole, http: Http) -> CachedImages:
    registries = OciImages(
        http, insecure=settings.insecure_registries, credentials=read_credentials(settings.registry_auth)
    )
    return CachedImages(registries, FileBlobCache(settings.directory / "images", limits.IMAGE_CACHE_BYTES))


def config_of(settings: ManagerRole) -> ManagerConfig:
    """What the manager itself is told."""
    return ManagerConfig(
        topics=topics_of(settings.mqtt.identity),
        instance_id=settings.mqtt.identity.client_id,
        heartbeat_s=settings.heartbeat_s,
        public_url=settings.public_url,
        coordinator_url=settings.coordinator_url,
        model_registry_url=settings.model_registry_url,
        data_store_url=settings.data_store_url,
        aliases=settings.aliases,
        fl_secret=settings.token_secret,
        mirror_root=settings.mirror,
        retention=settings.retention,
    )
