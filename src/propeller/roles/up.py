"""Everything on one machine: the services in this process and loop, each on its own port; proplets beside it.

Ports are bound before anything starts, so a taken one costs nothing. Shutting down goes backwards: proplets,
services, broker. It must not know what any role does.
"""

import asyncio
import os
import shlex
import socket
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from typing import Any

from propeller import limits
from propeller.bus.address import parse_address
from propeller.errors import PortInUse
from propeller.http.listen import bind, port_of
from propeller.roles import plan, provision
from propeller.roles.broker import open_broker
from propeller.roles.children import children
from propeller.roles.coordinator import run_coordinator
from propeller.roles.identity import Config, read_config, write_config, write_private
from propeller.roles.layout import Running
from propeller.roles.manager import run_manager
from propeller.roles.place import LOOPBACK, Place
from propeller.roles.process import enough_descriptors, watch
from propeller.roles.readiness import wait_listening, wait_ready
from propeller.roles.serving import (
    run_aggregator,
    run_data_store,
    run_model_registry,
    run_registry,
)
from propeller.roles.settings import BrokerRole, UpRole
from propeller.roles.web import http_client
from propeller.telemetry import logs

ROLE = "up"
HTTP_ROLES = ("manager", "coordinator", "aggregator", "model-registry", "data-store", "registry")


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A running system, ready for work. `tasks` never end while all is well."""

    place: Place
    config: Config
    proplets: Mapping[str, str]
    """Proplet ids by section."""
    tasks: tuple["asyncio.Task[None]", ...]

    async def wait(self) -> None:
        """Wait until something ends that should not, and raise why."""
        await watch(*self.tasks)


@asynccontextmanager
async def system(up: UpRole) -> AsyncIterator[System]:
    """Everything running and ready for the life of the context.

    Raises `PortInUse` before anything has started, `Conflict` if the data directory is in use.
    """
    enough_descriptors(limits.UP_DESCRIPTORS_MIN)
    async with AsyncExitStack() as stack:
        up.data.make()
        stack.callback(os.close, up.data.lock())
        for role in (ROLE, "broker", *HTTP_ROLES):
            _log_to_file(stack, up, role)
        stack.enter_context(logs.role_context(ROLE))
        sockets = {role: stack.enter_context(closing(_bind(up, role))) for role in HTTP_ROLES}
        config = _identities(up)
        mqtt_address = await _broker(stack, up)
        ports = {role: port_of(sock) for role, sock in sockets.items()}
        place = Place(address=up.advertise or LOOPBACK, ports=ports, mqtt_address=mqtt_address)
        config = replace(config, services=place.services())
        write_config(up.data.config, config)
        tasks = await stack.enter_async_context(_services(up, config, place, sockets))
        ids = {section: config.identity(section).client_id for section in plan.sections(up)}
        told = [plan.child(up, str(up.data.config.absolute()), place, section) for section in ids]
        tasks += await stack.enter_async_context(children(told, up.data.log("proplets")))
        await _ready(place, ids, tasks)
        stack.callback(up.data.forget_note)
        _tell(up, config, place, list(ids.values()))
        yield System(place=place, config=config, proplets=ids, tasks=tuple(tasks))


def _log_to_file(stack: AsyncExitStack, up: UpRole, role: str) -> None:
    file = stack.enter_context(closing(logs.LogFile(up.data.log(role))))
    logs.configure(role, up.level, file)
    stack.callback(logs.forget, role)


def _bind(up: UpRole, role: str) -> socket.socket:
    listen = plan.listen(up, role)
    try:
        return bind(listen.host, listen.port, listen.flag)
    except PortInUse:
        if not up.free_ports:
            raise
        return bind(listen.host, 0, listen.flag)


def _identities(up: UpRole) -> Config:
    """Those of the data directory, made at the first start; or those of the file that `--config` names."""
    if up.config is None:
        return provision.ensure(up.data.config, up.data.broker, provision.Wanted(proplets=up.proplets))
    config = read_config(up.config)
    for section in (*provision.ROLES, *plan.sections(up)):
        config.identity(section)
    provision.grant(up.data.broker, config)
    return config


async def _broker(stack: AsyncExitStack, up: UpRole) -> str:
    """The address of the broker, ours started first: a taken port stops everything here."""
    if up.broker not in {"embedded", "mosquitto"}:
        address = parse_address(up.broker)
        await wait_listening(address.host, address.port)
        return str(address)
    told = BrokerRole(
        host=up.host,
        port=up.ports["mqtt"],
        directory=up.data.broker,
        kind="embedded" if up.broker == "embedded" else "mosquitto",
        flag="--mqtt-port",
        level=up.level,
    )
    if up.free_ports:
        told = replace(told, port=_free_port(told))
    with logs.role_context("broker"):
        port = await stack.enter_async_context(open_broker(told))
    return f"tcp://{up.advertise or LOOPBACK}:{port}"


def _free_port(told: BrokerRole) -> int:
    """The port wanted if it is free, else one that is free now."""
    try:
        sock = bind(told.host, told.port, told.flag)
    except PortInUse:
        sock = bind(told.host, 0, told.flag)
    with closing(sock):
        return port_of(sock)


@asynccontextmanager
async def _services(
    up: UpRole, config: Config, place: Place, sockets: Mapping[str, socket.socket]
) -> AsyncIterator[list["asyncio.Task[None]"]]:
    secret = up.data.update_token_secret()
    work: dict[str, Coroutine[Any, Any, None]] = {
        "registry": run_registry(plan.registry(up), sockets["registry"]),
        "data-store": run_data_store(plan.data_store(up, config), sockets["data-store"]),
        "model-registry": run_model_registry(
            plan.model_registry(up, config, place), sockets["model-registry"]
        ),
        "aggregator": run_aggregator(plan.aggregator(up, place), sockets["aggregator"]),
        "coordinator": run_coordinator(plan.coordinator(up, config, place, secret), sockets["coordinator"]),
        "manager": run_manager(plan.manager(up, config, place, secret), sockets["manager"]),
    }
    tasks = [_start(role, one) for role, one in work.items()]
    try:
        yield list(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _start(role: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    with logs.role_context(role):
        return asyncio.create_task(work, name=role)


async def _ready(place: Place, ids: Mapping[str, str], tasks: list["asyncio.Task[None]"]) -> None:
    """Wait until all answer; a role that ends meanwhile says why at once."""
    urls = {role: place.local_url(role) for role in place.ports}
    async with http_client() as http:
        ready = asyncio.create_task(wait_ready(http, urls, ids.values()), name="readiness")
        try:
            await asyncio.wait([ready, *tasks], return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                await watch(*tasks)
            await ready
        finally:
            ready.cancel()
            await asyncio.wait([ready])


def _tell(up: UpRole, config: Config, place: Place, proplets: list[str]) -> None:
    up.data.note(
        Running(pid=os.getpid(), urls=place.urls(), mqtt_address=place.mqtt_address, proplets=proplets)
    )
    logs.logger().info("ready", urls=place.urls(), mqtt=place.mqtt_address, proplets=proplets)
    if up.env_file is not None:
        names = plan.environment(config, place, up)
        write_private(
            up.env_file, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in names.items())
        )
