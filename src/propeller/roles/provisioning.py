"""`propeller provision`: identities made and said, with the commands that come next."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from propeller.broker.credentials import CredentialStore
from propeller.broker.mosquitto import write_configuration
from propeller.errors import BadInput
from propeller.roles import provision
from propeller.roles.identity import Services, read_config, write_config
from propeller.roles.layout import DataDir, data_dir
from propeller.roles.settings import PORTS


@dataclass(frozen=True, slots=True, kw_only=True)
class FromNothing:
    """What `propeller provision` is asked for. `advertise` is how proplets reach this machine."""

    path: Path
    proplets: int
    domain: str
    channel: str
    broker: str
    host: str
    port: int
    advertise: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Principals by section, and what to do with them."""

    ids: dict[str, str]
    next_steps: list[str]


def from_nothing(asked: FromNothing, named: Path | None, env: Mapping[str, str]) -> Made:
    """Make everything that a system needs before its first start; idempotent."""
    if asked.broker not in {"embedded", "mosquitto"}:
        raise BadInput(f"--broker {asked.broker!r} is neither embedded nor mosquitto")
    data = data_dir(named, env)
    data.make()
    wanted = provision.Wanted(proplets=asked.proplets, domain=asked.domain, channel=asked.channel)
    config = provision.ensure(asked.path, data.broker, wanted)
    config = replace(config, services=_services(asked))
    write_config(asked.path, config)
    steps = [f"keys are in {asked.path}, which is private", *_start_broker(asked, data)]
    steps += [f"propeller manager --config {asked.path}", f"propeller proplet --config {asked.path}"]
    return Made(ids={name: one.client_id for name, one in config.identities.items()}, next_steps=steps)


def add(path: Path, count: int, named: Path | None, env: Mapping[str, str], *, legacy: bool) -> Made:
    """Make `count` more proplets for the system of the data directory."""
    data = data_dir(named, env)
    made = provision.add_proplets(path, data.broker, count, _known_services(data, path), legacy=legacy)
    several = len(read_config(path).proplets()) > 1
    ours = [
        f"propeller proplet --config {path}" + (f" --section {section}" if several else "")
        for section in made
    ]
    theirs = [f"PROPLET_CONFIG_FILE={path} PROPLET_CONFIG_SECTION={section} proplet" for section in made]
    steps = theirs if legacy else ours
    return Made(ids={name: one.client_id for name, one in made.items()}, next_steps=steps)


def _known_services(data: DataDir, path: Path) -> Services:
    """Where the system is: what it says itself, else what the file said before, else the defaults."""
    for known in (data.config, path):
        if known.is_file() and (services := read_config(known).services) != Services():
            return services
    return _at("localhost", PORTS["mqtt"])


def _services(asked: FromNothing) -> Services:
    return _at(asked.advertise, asked.port)


def _at(address: str, mqtt_port: int) -> Services:
    return Services(
        mqtt_address=f"tcp://{address}:{mqtt_port}",
        manager_url=f"http://{address}:{PORTS['manager']}",
        coordinator_url=f"http://{address}:{PORTS['coordinator']}",
        model_registry_url=f"http://{address}:{PORTS['model-registry']}",
        data_store_url=f"http://{address}:{PORTS['data-store']}",
        registry=f"{address}:{PORTS['registry']}",
    )


def _start_broker(asked: FromNothing, data: DataDir) -> list[str]:
    if asked.broker == "embedded":
        return [f"propeller broker --data-dir {data.root} --host {asked.host} --port {asked.port}"]
    store = CredentialStore(data.broker)
    path = write_configuration(
        store, data.broker, host=asked.host, port=asked.port, persistence=data.broker / "persistence"
    )
    return [f"mosquitto -c {path}"]
