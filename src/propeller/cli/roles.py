"""`propeller up` and a command for every role alone: flags become settings, `propeller.roles` runs them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from propeller.roles.settings import Told

Host = Annotated[str | None, typer.Option("--host", help="Address to listen on (127.0.0.1).")]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="0 takes any free one.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where state is kept (.propeller, or $PROPELLER_DATA_DIR).")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-f", help="config.toml with identities.")]
Settings = Annotated[Path | None, typer.Option("--settings", help="propeller.toml (./propeller.toml).")]
Level = Annotated[str | None, typer.Option("--log-level", help="debug, info, warning or error")]
InsecureRegistry = Annotated[
    list[str] | None, typer.Option("--insecure-registry", help="HOST:PORT reached by plain HTTP.")
]
RegistryAuth = Annotated[
    Path | None, typer.Option("--registry-auth", help="Registry credentials, as in Docker's config.json.")
]
MqttAddress = Annotated[str | None, typer.Option("--mqtt-address", help="tcp://HOST:PORT of the broker.")]


def add_to(app: typer.Typer) -> None:
    """Add every role's command."""
    app.command()(up)
    app.command()(manager)
    app.command()(coordinator)
    app.command()(aggregator)
    app.command("model-registry")(model_registry)
    app.command("data-store")(data_store)
    app.command()(registry)
    app.command()(broker)
    app.command()(proplet)


def up(
    proplets: Annotated[int | None, typer.Option("--proplets", min=0, help="Proplets to start (3).")] = None,
    data_dir: DataDir = None,
    env_file: Annotated[
        Path | None, typer.Option("--env-file", help="Write ids, keys and addresses here, for the shell.")
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option("--broker", help="embedded, mosquitto, or tcp://HOST:PORT of an outside one."),
    ] = None,
    config: ConfigFile = None,
    host: Host = None,
    advertise: Annotated[
        str | None, typer.Option("--advertise", help="This machine's address for proplets elsewhere.")
    ] = None,
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Replace taken ports by free ones.")
    ] = False,
    manager_port: Annotated[int | None, typer.Option(min=0, max=65535, help="(7070)")] = None,
    coordinator_port: Annotated[int | None, typer.Option(min=0, max=65535, help="(8086)")] = None,
    aggregator_port: Annotated[int | None, typer.Option(min=0, max=65535, help="(8085)")] = None,
    model_registry_port: Annotated[int | None, typer.Option(min=0, max=65535, help="(8084)")] = None,
    data_store_port: Annotated[int | None, typer.Option(min=0, max=65535, help="(8083)")] = None,
    registry_port: Annotated[int | None, typer.Option(min=0, max=65535, help="(5000)")] = None,
    mqtt_port: Annotated[int | None, typer.Option(min=0, max=65535, help="(1883)")] = None,
    heartbeat: Annotated[str | None, typer.Option(help="Of the proplets, such as 10s.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Tasks that one proplet runs at once (1).")] = None,
    settings: Settings = None,
    log_level: Level = None,
    registry_auth: RegistryAuth = None,
    publish_models_to: Annotated[
        str | None,
        typer.Option(help="Push every model version below HOST[:PORT]/PREFIX of an OCI registry."),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(help="postgresql://USER@HOST/NAME for the records of all services; default: files."),
    ] = None,
    parent: Annotated[int | None, typer.Option("--parent", hidden=True)] = None,
) -> None:
    """Start the whole system here; Ctrl-C stops it."""
    from propeller.roles.foreground import run_up

    flags = {
        "proplets": proplets, "data_dir": _text(data_dir), "env_file": _text(env_file), "broker": broker,
        "host": host, "advertise": advertise, "free_ports": free_ports or None, "heartbeat": heartbeat,
        "slots": slots, "log_level": log_level, "manager_port": manager_port,
        "coordinator_port": coordinator_port, "aggregator_port": aggregator_port,
        "model_registry_port": model_registry_port, "data_store_port": data_store_port,
        "registry_port": registry_port, "mqtt_port": mqtt_port, "registry_auth": _text(registry_auth),
        "database": database, "publish_models_to": publish_models_to,
    }  # fmt: skip
    run_up(_told(flags, settings, config), parent=parent)


def manager(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    mqtt_address: MqttAddress = None,
    public_url: Annotated[str | None, typer.Option(help="How proplets reach this manager.")] = None,
    coordinator_url: Annotated[str | None, typer.Option(help="Empty: no federated learning.")] = None,
    model_registry_url: Annotated[str | None, typer.Option(help="Handed to proplets.")] = None,
    data_store_url: Annotated[str | None, typer.Option(help="Handed to proplets.")] = None,
    insecure_registry: InsecureRegistry = None,
    registry_auth: RegistryAuth = None,
    settings: Settings = None,
    log_level: Level = None,
) -> None:
    """Take tasks over HTTP and give them to proplets."""
    from propeller.roles import standalone

    flags = {
        "host": host, "port": port, "data_dir": _text(data_dir), "mqtt_address": mqtt_address,
        "public_url": public_url, "coordinator_url": coordinator_url,
        "model_registry_url": model_registry_url, "data_store_url": data_store_url, "log_level": log_level,
        "insecure_registries": insecure_registry or None, "registry_auth": _text(registry_auth),
    }  # fmt: skip
    standalone.manager(_told(flags, settings, config))


def coordinator(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    mqtt_address: MqttAddress = None,
    model_registry_url: Annotated[str | None, typer.Option(help="Where it is reached.")] = None,
    aggregator_url: Annotated[str | None, typer.Option(help="Where it is reached.")] = None,
    require_update_token: Annotated[bool | None, typer.Option(help="Refuse updates without a token.")] = None,
    settings: Settings = None,
    log_level: Level = None,
) -> None:
    """Own experiments and rounds."""
    from propeller.roles import standalone

    flags = {
        "host": host, "port": port, "data_dir": _text(data_dir), "mqtt_address": mqtt_address,
        "model_registry_url": model_registry_url, "aggregator_url": aggregator_url,
        "require_update_token": require_update_token, "log_level": log_level,
    }  # fmt: skip
    standalone.coordinator(_told(flags, settings, config))


def aggregator(
    host: Host = None, port: Port = None, settings: Settings = None, log_level: Level = None
) -> None:
    """Fold updates into a new model."""
    from propeller.roles import standalone

    standalone.aggregator(_told({"host": host, "port": port, "log_level": log_level}, settings, None))


def model_registry(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    publish_to: Annotated[
        str | None,
        typer.Option(help="Push every version below HOST[:PORT]/PREFIX of an OCI registry."),
    ] = None,
    insecure_registry: InsecureRegistry = None,
    registry_auth: RegistryAuth = None,
    settings: Settings = None,
    log_level: Level = None,
) -> None:
    """Keep the versions of models."""
    from propeller.roles import standalone

    flags = {
        "host": host, "port": port, "data_dir": _text(data_dir), "publish_to": publish_to,
        "insecure_registries": insecure_registry or None, "registry_auth": _text(registry_auth),
        "log_level": log_level,
    }  # fmt: skip
    standalone.model_registry(_told(flags, settings, config))


def data_store(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    credentials: Annotated[
        Path | None, typer.Option(help="A broker's directory: callers must show a proplet's key from it.")
    ] = None,
    settings: Settings = None,
    log_level: Level = None,
) -> None:
    """Keep the data sets of this site's own proplets."""
    from propeller.roles import standalone

    flags = {
        "host": host, "port": port, "data_dir": _text(data_dir), "credentials": _text(credentials),
        "log_level": log_level,
    }  # fmt: skip
    standalone.data_store(_told(flags, settings, config))


def registry(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    settings: Settings = None,
    log_level: Level = None,
) -> None:
    """Serve OCI images."""
    from propeller.roles import standalone

    flags = {"host": host, "port": port, "data_dir": _text(data_dir), "log_level": log_level}
    standalone.registry(_told(flags, settings, None))


def broker(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    kind: Annotated[str | None, typer.Option(help="embedded or mosquitto")] = None,
    settings: Settings = None,
    log_level: Level = None,
) -> None:
    """Serve MQTT to the principals of the data directory."""
    from propeller.roles import standalone

    flags = {"host": host, "port": port, "data_dir": _text(data_dir), "kind": kind, "log_level": log_level}
    standalone.broker(_told(flags, settings, None))


def proplet(
    config: ConfigFile = None,
    section: Annotated[
        str | None, typer.Option("--section", help="Of config.toml, such as proplet2.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The device's own data set.")] = None,
    data_dir: DataDir = None,
    spool: Annotated[Path | None, typer.Option(help="What must survive a restart.")] = None,
    mqtt_address: MqttAddress = None,
    manager_url: Annotated[str | None, typer.Option(help="Where it is reached.")] = None,
    coordinator_url: Annotated[str | None, typer.Option(help="Where it is reached.")] = None,
    model_registry_url: Annotated[str | None, typer.Option(help="Where it is reached.")] = None,
    data_store_url: Annotated[str | None, typer.Option(help="Where it is reached.")] = None,
    mqtt_only: Annotated[
        bool | None, typer.Option("--mqtt-only", help="Reach nothing but the broker; needs --data to train.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option("--allow-origin", help="http://HOST:PORT that tasks may name, or *.")
    ] = None,
    insecure_registry: InsecureRegistry = None,
    registry_auth: RegistryAuth = None,
    modules_by: Annotated[
        str | None, typer.Option(help="http, or mqtt where nothing but the broker can be reached.")
    ] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Tasks run at once (1).")] = None,
    call_workers: Annotated[
        int | None, typer.Option(min=1, help="Calls of functions that run at once (1).")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="NAME=VALUE that tasks can ask for; may be repeated.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A word for it; may be repeated.")] = None,
    location: Annotated[str | None, typer.Option(help="Where it is, in a word.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is, for people.")] = None,
    directory: Annotated[
        list[str] | None,
        typer.Option("--dir", help="HOST[:GUEST][:rw]: a directory that guests see; may be repeated."),
    ] = None,
    heartbeat: Annotated[str | None, typer.Option(help="Such as 10s.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Of /health and /metrics (9092).")
    ] = None,
    metrics: Annotated[bool | None, typer.Option(help="Serve /health and /metrics.")] = None,
    settings: Settings = None,
    log_level: Level = None,
) -> None:
    """Work: run tasks on this device."""
    from propeller.roles.device import run_device

    flags = {
        "section": section, "data": _text(data), "data_dir": _text(data_dir), "spool": _text(spool),
        "mqtt_address": mqtt_address, "manager_url": manager_url, "coordinator_url": coordinator_url,
        "model_registry_url": model_registry_url, "data_store_url": data_store_url,
        "mqtt_only": mqtt_only, "allowed_origins": allow_origin or None,
        "insecure_registries": insecure_registry or None, "registry_auth": _text(registry_auth),
        "modules_by": modules_by, "call_workers": call_workers, "labels": label or None, "tags": tag or None,
        "location": location, "description": description, "dirs": directory or None,
        "slots": slots, "heartbeat": heartbeat, "metrics_port": metrics_port, "metrics": metrics,
        "log_level": log_level,
    }  # fmt: skip
    run_device(_told(flags, settings, config))


def _told(flags: Mapping[str, object | None], settings: Path | None, config: Path | None) -> "Told":
    from propeller.roles.settings import Told

    return Told(flags=flags, env=os.environ, settings=settings, config=config)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
