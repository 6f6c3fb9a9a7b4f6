"""Wires one proplet to the real world: broker, HTTP, registries, workers, files. Decides nothing.

This process imports neither wasmtime nor numpy nor a web framework: a device may be small, and a server may
run many of these. The caller owns the process: its loop, its signals, its log.
"""

import asyncio
import ssl
import time
from contextlib import AsyncExitStack
from random import SystemRandom

from propeller.bus.address import parse_address
from propeller.bus.mqtt import MqttBus
from propeller.clock import SystemClock
from propeller.errors import StorageBroken
from propeller.http.client import AiohttpHttp
from propeller.images.cache import CachedImages
from propeller.images.client import OciImages
from propeller.images.credentials import read_credentials
from propeller.ports import Images
from propeller.proplet import health
from propeller.proplet.counters import render
from propeller.proplet.data import LocalData
from propeller.proplet.gauges import ProcGauges
from propeller.proplet.host import describe, end_with_parent, orphaned
from propeller.proplet.offload import in_thread
from propeller.proplet.packing import in_a_process
from propeller.proplet.place import Identity, Log, Offer, PropletPorts
from propeller.proplet.services import Services
from propeller.proplet.settings import PropletSettings
from propeller.proplet.shell import Proplet
from propeller.proplet.spool import FileSpool
from propeller.proplet.workspace import Workspace
from propeller.runtime.pool import WorkerPool
from propeller.storage.blob_cache import FileBlobCache
from propeller.wire import codec
from propeller.wire.topics import Topics

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def run_proplet(settings: PropletSettings, log: Log | None = None) -> None:
    """Run a proplet until cancelled, or until its parent ends if it is to end with it.

    `log` defaults to the house's logger. Raises `Denied` (the broker refuses the credentials), `Conflict`
    (the spool is in use), `PortInUse`, `StorageBroken`.
    """
    async with AsyncExitStack() as stack:
        proplet = await _build(settings, log or _house_log(), stack)
        if settings.metrics_port is not None:
            server = await _serve_health(settings, proplet)
            stack.callback(server.close)
        if settings.end_with_parent:
            await _run_beside(proplet, end_with_parent())
        else:
            await proplet.run()


async def _run_beside(proplet: Proplet, parent: int) -> None:
    """Run until the parent ends."""
    running, watching = asyncio.ensure_future(proplet.run()), asyncio.ensure_future(orphaned(parent))
    try:
        await asyncio.wait([running, watching], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (watching, running):
            task.cancel()
        await asyncio.wait([running, watching])
    if not running.cancelled():
        running.result()


async def _build(settings: PropletSettings, log: Log, stack: AsyncExitStack) -> Proplet:
    """The proplet on its adapters, which `stack` closes."""
    images, compiled = settings.cache / "images", settings.cache / "compiled"
    for directory in (images, compiled):
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageBroken(f"cannot use the cache {directory}: {error.strerror or error}") from error
    runtime = WorkerPool(compiled, settings.slots)
    stack.push_async_callback(runtime.close)
    invoker = WorkerPool(compiled, settings.call_workers)
    stack.push_async_callback(invoker.close)
    kept = FileBlobCache(images, settings.image_cache_bytes)
    http = None if settings.mqtt_only else AiohttpHttp()
    supplier: Images | None = None
    if http is not None:
        stack.push_async_callback(http.close)
        if settings.modules_by != "mqtt":
            supplier = CachedImages(_registries(settings, http), kept)
    ports = PropletPorts(
        bus=_bus(settings),
        http=http,
        images=supplier,
        modules=kept,
        runtime=runtime,
        spool=FileSpool(settings.spool, offload=in_thread),
        clock=SystemClock(),
        random=SystemRandom(),
        offload=in_thread,
        log=log,
        invoker=invoker,
        gauges=ProcGauges() if settings.metrics_s else None,
        workspace=Workspace(settings.spool / "files"),
        pack=in_a_process,
    )
    data = LocalData(settings.data) if settings.data else None
    services = Services(settings.urls, settings.allowed_origins)
    return Proplet(
        _identity(settings),
        ports,
        services=services,
        data=data,
        guest_limits=settings.limits,
        offer=Offer(
            folders=settings.folders, call_workers=settings.call_workers, metrics_s=settings.metrics_s
        ),
    )


def _registries(settings: PropletSettings, http: AiohttpHttp) -> OciImages:
    return OciImages(
        http, insecure=settings.insecure_registries, credentials=read_credentials(settings.registry_auth)
    )


def _identity(settings: PropletSettings) -> Identity:
    return Identity(
        id=settings.id,
        topics=Topics(settings.domain, settings.channel),
        slots=settings.slots,
        heartbeat_s=settings.heartbeat_s,
        namespace=settings.namespace,
        metadata=describe(
            description=settings.description,
            location=settings.location,
            tags=settings.tags,
            labels=settings.labels,
        ),
    )


def _bus(settings: PropletSettings) -> MqttBus:
    address = parse_address(settings.broker)
    return MqttBus(
        address.host,
        address.port,
        settings.id,
        settings.api_key,
        settings.id,
        random=SystemRandom(),
        tls=ssl.create_default_context(cafile=settings.broker_ca) if address.tls else None,
    )


async def _serve_health(settings: PropletSettings, proplet: Proplet) -> asyncio.Server:
    began_s = time.monotonic()

    def health_page() -> tuple[str, bytes]:
        return "application/json", codec.encode({"status": "ok", "running_tasks": proplet.running_tasks})

    def metrics_page() -> tuple[str, bytes]:
        proplet.counters.running = proplet.running_tasks
        return METRICS_TYPE, render(proplet.counters, since_s=time.monotonic() - began_s)

    pages = {"/health": health_page, "/metrics": metrics_page}
    return await health.start(settings.metrics_host, settings.metrics_port or 0, pages)


def _house_log() -> Log:
    # Imported here: a caller with a log of its own (and a small device) does without its 5 MB.
    from propeller.telemetry.logs import logger  # noqa: PLC0415

    # Bound once: the proxy would put its chain of steps together for every line.
    return logger().bind()
