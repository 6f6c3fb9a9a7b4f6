"""Each role as a process of its own: gather its settings, bind its port, run it until told to stop.

A role loads its own code when it runs and no other's: all of it together takes more than a second to load.

It must not know any command line: flags come as a mapping keyed as in `propeller.toml`, None if not given.
"""

import socket
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

from propeller import limits
from propeller.errors import BadInput
from propeller.roles.identity import env_identity, read_config
from propeller.roles.layers import Layers
from propeller.roles.layout import DataDir, data_dir
from propeller.roles.place import is_local
from propeller.roles.process import run_role
from propeller.roles.settings import (
    AUTH_FILE,
    DATABASE_URL,
    DEFAULT_CONFIG,
    PORTS,
    PUBLISH_TO,
    AggregatorRole,
    BrokerRole,
    CoordinatorRole,
    DataStoreRole,
    Listen,
    ManagerRole,
    ModelRegistryRole,
    RegistryRole,
    Told,
    aliases_of,
    level_of,
    listen_of,
    mqtt_of,
    retention_of,
)
from propeller.telemetry.logs import Level
from propeller.wire.topics import Topics

STANDALONE = "standalone"
"""What the database of a role belongs to that was told no domain and channel."""


def aggregator(told: Told) -> None:
    """Run the aggregator."""
    from propeller.roles.serving import run_aggregator

    layers = told.layers("aggregator")
    settings = AggregatorRole(
        listen=listen_of(layers, "aggregator", port_env=("AGGREGATOR_PORT",)),
        origins=(
            _url(layers, "coordinator_url", "COORDINATOR_URL", "coordinator"),
            _url(layers, "model_registry_url", "MODEL_REGISTRY_URL", "model-registry"),
        ),
        level=level_of(layers),
    )
    _serve("aggregator", settings.level, settings.listen, lambda sock: run_aggregator(settings, sock))


def model_registry(told: Told) -> None:
    """Run the model registry."""
    from propeller.roles.serving import run_model_registry

    layers = told.layers("model-registry")
    settings = ModelRegistryRole(
        listen=listen_of(layers, "model-registry", port_env=("REGISTRY_PORT",)),
        directory=told.data("model-registry"),
        base=_base(told),
        coordinator_url=_url(layers, "coordinator_url", "COORDINATOR_URL", "coordinator"),
        retention=retention_of(told),
        publish_to=layers.text("publish_to", PUBLISH_TO),
        aliases=aliases_of(told.document()),
        insecure_registries=layers.listed("insecure_registries"),
        registry_auth=layers.path("registry_auth", AUTH_FILE),
        database_url=layers.text("database", DATABASE_URL),
        level=level_of(layers),
    )
    _serve("model-registry", settings.level, settings.listen, lambda sock: run_model_registry(settings, sock))


def data_store(told: Told) -> None:
    """Run the data store."""
    from propeller.roles.serving import run_data_store

    layers = told.layers("data-store")
    credentials = layers.text("credentials")
    settings = DataStoreRole(
        listen=listen_of(layers, "data-store", port_env=("DATA_STORE_PORT",)),
        directory=told.data("data-store"),
        base=_base(told),
        seeded=layers.listed("seeded", ("FL_DATASET_PARTICIPANTS",), default=_named_proplets(told)),
        credentials=Path(credentials) if credentials else None,
        database_url=layers.text("database", DATABASE_URL),
        level=level_of(layers),
    )
    _serve("data-store", settings.level, settings.listen, lambda sock: run_data_store(settings, sock))


def registry(told: Told) -> None:
    """Run the OCI registry."""
    from propeller.roles.serving import run_registry

    layers = told.layers("registry")
    settings = RegistryRole(
        listen=listen_of(layers, "registry"),
        directory=told.data("registry"),
        retention=retention_of(told),
        level=level_of(layers),
    )
    _serve("registry", settings.level, settings.listen, lambda sock: run_registry(settings, sock))


def broker(told: Told) -> None:
    """Run the MQTT broker."""
    from propeller.roles.broker import run_broker

    layers = told.layers("broker")
    kind = layers.text("kind", default="embedded")
    if kind not in {"embedded", "mosquitto"}:
        raise BadInput(f"broker kind {kind!r} is neither embedded nor mosquitto", code="bad_setting")
    settings = BrokerRole(
        host=layers.text("host", default="127.0.0.1"),
        port=layers.port("port", default=PORTS["mqtt"]),
        directory=_data(told, layers).broker,
        kind="mosquitto" if kind == "mosquitto" else "embedded",
        level=level_of(layers),
    )
    run_role("broker", settings.level, lambda: run_broker(settings))


def coordinator(told: Told) -> None:
    """Run the coordinator."""
    from propeller.roles.coordinator import run_coordinator

    layers = told.layers("coordinator")
    listen = listen_of(layers, "coordinator", port_env=("COORDINATOR_PORT",))
    settings = CoordinatorRole(
        listen=listen,
        directory=told.data("coordinator"),
        mqtt=mqtt_of(told, layers, "coordinator", "COORDINATOR"),
        model_registry_url=_url(layers, "model_registry_url", "MODEL_REGISTRY_URL", "model-registry"),
        aggregator_url=_url(layers, "aggregator_url", "AGGREGATOR_URL", "aggregator"),
        own_url=layers.text(
            "public_url",
            ("COORDINATOR_PUBLIC_URL",),
            default=f"http://{_shown(listen.host)}:{listen.port}",
        ).rstrip("/"),
        token_secret=_data(told, layers).update_token_secret(),
        require_update_token=layers.switch(
            "require_update_token", ("REQUIRE_UPDATE_TOKEN",), default=not is_local(listen.host)
        ),
        mirror=layers.switch("mirror", default=True),
        retention=retention_of(told),
        database_url=layers.text("database", DATABASE_URL),
        level=level_of(layers),
    )
    _serve("coordinator", settings.level, listen, lambda sock: run_coordinator(settings, sock))


def manager(told: Told) -> None:
    """Run the manager."""
    from propeller.roles.manager import run_manager

    layers = told.layers("manager")
    listen = listen_of(layers, "manager", host_env="MANAGER_HTTP_HOST", port_env=("MANAGER_HTTP_PORT",))
    settings = ManagerRole(
        listen=listen,
        directory=told.data("manager"),
        mqtt=mqtt_of(told, layers, "manager", "MANAGER"),
        public_url=layers.text(
            "public_url", ("MANAGER_PUBLIC_URL",), default=f"http://{_shown(listen.host)}:{listen.port}"
        ).rstrip("/"),
        coordinator_url=layers.text(
            "coordinator_url", ("MANAGER_COORDINATOR_URL", "COORDINATOR_URL", "FL_COORDINATOR_URL")
        ).rstrip("/"),
        model_registry_url=layers.text("model_registry_url", ("MODEL_REGISTRY_URL",)).rstrip("/"),
        data_store_url=layers.text("data_store_url", ("DATA_STORE_URL",)).rstrip("/"),
        aliases=aliases_of(told.document()),
        insecure_registries=layers.listed("insecure_registries"),
        registry_auth=layers.path("registry_auth", AUTH_FILE),
        token_secret=_data(told, layers).update_token_secret(),
        heartbeat_s=layers.seconds("heartbeat", default=limits.HEARTBEAT_S),
        mirror=layers.switch("mirror", default=True),
        retention=retention_of(told),
        database_url=layers.text("database", DATABASE_URL),
        level=level_of(layers, "MANAGER_LOG_LEVEL"),
    )
    _serve("manager", settings.level, listen, lambda sock: run_manager(settings, sock))


def _serve(
    role: str, level: Level, listen: Listen, work: Callable[[socket.socket], Coroutine[Any, Any, None]]
) -> None:
    from propeller.http.listen import bind

    with closing(bind(listen.host, listen.port, listen.flag)) as sock:
        run_role(role, level, lambda: work(sock))


def _data(told: Told, layers: Layers) -> DataDir:
    found = data_dir(layers.path("data_dir"), told.env)
    found.make()
    return found


def _url(layers: Layers, name: str, variable: str, role: str) -> str:
    return layers.text(name, (variable,), default=f"http://127.0.0.1:{PORTS[role]}").rstrip("/")


def _shown(host: str) -> str:
    return "127.0.0.1" if is_local(host) or host in {"", "0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound


def _base(told: Told) -> str:
    """The topic prefix of the domain and channel that any identity at hand names."""
    path = told.config or DEFAULT_CONFIG
    if found := env_identity(told.env, "MANAGER"):
        return Topics(found.domain_id, found.channel_id).base
    if path.is_file() and (identities := list(read_config(path).identities.values())):
        return Topics(identities[0].domain_id, identities[0].channel_id).base
    return STANDALONE


def _named_proplets(told: Told) -> tuple[str, ...]:
    """The proplets that the environment names, as published compose files do."""
    found = {}
    for prefix in ("PROPLET", "PROPLET_2", "PROPLET_3"):
        for spelling in ("CLIENT_ID", "ENTITY_ID"):
            if value := told.env.get(f"{prefix}_{spelling}"):
                found[prefix] = value
    return tuple(found.values())
