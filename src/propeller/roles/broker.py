"""The MQTT broker as a role: the embedded one, or Mosquitto run as a child with the same credentials."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from propeller.broker.credentials import CredentialStore
from propeller.broker.embedded import EmbeddedBroker
from propeller.broker.mosquitto import MosquittoProcess
from propeller.roles.settings import BrokerRole
from propeller.telemetry.logs import logger

REFRESH_S = 0.5
"""How soon Mosquitto is told of new credentials; the embedded broker looks by itself."""


@contextlib.asynccontextmanager
async def open_broker(settings: BrokerRole) -> AsyncIterator[int]:
    """The broker, listening for the life of the context; yields its port.

    Raises `PortInUse`, and `NotFound` if nobody has credentials yet.
    """
    store = CredentialStore(settings.directory)
    if settings.kind == "embedded":
        broker = EmbeddedBroker(
            store, host=settings.host, port=settings.port, data_dir=settings.directory, flag=settings.flag
        )
        async with broker:
            logger().info("listening", host=settings.host, port=broker.port)
            yield broker.port
        return
    process = MosquittoProcess(
        store,
        settings.directory,
        host=settings.host,
        port=settings.port,
        persistence=settings.directory / "persistence",
        flag=settings.flag,
    )
    async with process:
        logger().info("listening", host=settings.host, port=process.port, program="mosquitto")
        following = asyncio.create_task(_follow(store, process))
        try:
            yield process.port
        finally:
            following.cancel()
            await asyncio.wait([following])


async def run_broker(settings: BrokerRole) -> None:
    """The broker until cancelled."""
    async with open_broker(settings):
        await asyncio.Event().wait()


async def _follow(store: CredentialStore, process: MosquittoProcess) -> None:
    """Have Mosquitto read its files again whenever the credentials changed."""
    while True:
        await asyncio.sleep(REFRESH_S)
        if store.refresh():
            process.reload()
            logger().info("credentials reloaded", principals=len(store.principals()))
