"""`propeller up` in a terminal: its settings, what it prints when all is ready, and its end."""

import sys

from propeller import limits
from propeller.bus.address import parse_address
from propeller.roles.layout import data_dir
from propeller.roles.process import end_with_parent, run
from propeller.roles.settings import (
    AUTH_FILE,
    DATABASE_URL,
    PORTS,
    PUBLISH_TO,
    Told,
    UpRole,
    aliases_of,
    level_of,
    retention_of,
)
from propeller.roles.up import System, system

EVERYWHERE = "0.0.0.0"  # noqa: S104 - only when the user says by --advertise that others come from outside


def run_up(told: Told, *, parent: int | None = None) -> None:
    """Run everything until told to stop, or until the process `parent` ends."""
    if parent is not None:
        end_with_parent(parent)
    settings = up_of(told)

    async def work() -> None:
        async with system(settings) as running:
            sys.stdout.write(summary(settings, running))
            sys.stdout.flush()
            await running.wait()

    run(work)


def up_of(told: Told) -> UpRole:
    """What `up` is told. With `--advertise` it listens on every address unless `--host` says which."""
    layers = told.layers("up")
    advertise = layers.text("advertise")
    broker = layers.text("broker", default="embedded")
    if broker not in {"embedded", "mosquitto"}:
        parse_address(broker)
    return UpRole(
        data=data_dir(layers.path("data_dir"), told.env),
        proplets=layers.whole("proplets", default=3),
        host=layers.text("host", default=EVERYWHERE if advertise else "127.0.0.1"),
        advertise=advertise,
        ports={
            role: layers.port(f"{role.replace('-', '_')}_port", default=port) for role, port in PORTS.items()
        },
        free_ports=layers.switch("free_ports", default=False),
        broker=broker,
        config=told.config,
        env_file=layers.path("env_file"),
        aliases=aliases_of(told.document()),
        registry_auth=layers.path("registry_auth", AUTH_FILE),
        retention=retention_of(told),
        publish_models_to=layers.text("publish_models_to", PUBLISH_TO),
        database_url=layers.text("database", DATABASE_URL),
        slots=layers.whole("slots", default=1),
        heartbeat_s=layers.seconds("heartbeat", default=limits.HEARTBEAT_S),
        level=level_of(layers),
    )


def summary(settings: UpRole, running: System) -> str:
    """What runs where, for people."""
    rows = [(role, url) for role, url in running.place.urls().items()]
    rows.append(("broker", f"{running.place.mqtt_address} ({settings.broker})"))
    rows += [(section, proplet_id) for section, proplet_id in running.proplets.items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {value}" for name, value in rows]
    about = [
        "",
        f"data      {settings.data.root}",
        f"logs      propeller logs manager --data-dir {settings.data.root}",
        f"proplets  propeller provision add-proplets 1 --data-dir {settings.data.root}",
        "stop      Ctrl-C",
    ]
    return "\n".join(["Everything runs:", *lines, *about]) + "\n"
