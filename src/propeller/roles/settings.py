"""What each role is told, gathered from flags, environment, `propeller.toml` and `config.toml`.

One frozen dataclass per role, and the one function that fills it in. Nothing here opens, binds or starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from propeller import limits
from propeller.bus.address import parse_address
from propeller.core.retention import Keep, Retention
from propeller.errors import BadInput
from propeller.roles.identity import Identity, Services, env_identity, read_config
from propeller.roles.layers import Layers, settings_file
from propeller.roles.layout import DataDir, data_dir
from propeller.telemetry.logs import Level

PORTS: Final[Mapping[str, int]] = {
    "manager": 7070,
    "coordinator": 8086,
    "aggregator": 8085,
    "model-registry": 8084,
    "data-store": 8083,
    "registry": 5000,
    "mqtt": 1883,
}
"""Default ports. The first six speak HTTP."""

ALIASES: Final[Mapping[str, str]] = {
    "coordinator-http:8080": "coordinator",
    "model-registry:8081": "model-registry",
    "aggregator:8082": "aggregator",
    "local-data-store:8083": "data-store",
    "local-registry:5000": "registry",
    "manager:7070": "manager",
}
"""Container names of the published walk-through, and whose address they stand for in `up`."""

DEFAULT_CONFIG = Path("config.toml")
DEFAULT_MQTT = "tcp://localhost:1883"
DATABASE_URL = ("PROPELLER_DATABASE_URL",)
_RETENTION = "PROPELLER_RETENTION_"
PUBLISH_TO = ("PROPELLER_PUBLISH_MODELS_TO",)
AUTH_FILE = ("REGISTRY_AUTH_FILE",)
"""The variable that Podman, Skopeo and ORAS read too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Where one role's settings come from: the flags given, the environment, and the named files."""

    flags: Mapping[str, object | None] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    settings: Path | None = None
    """`propeller.toml`."""
    config: Path | None = None
    """`config.toml`."""

    def layers(self, section: str) -> Layers:
        """The places to look in for `section`."""
        return Layers(section, flags=self.flags, env=self.env, file=settings_file(self.settings))

    def document(self) -> Mapping[str, Any]:
        """The whole `propeller.toml`."""
        return settings_file(self.settings)

    def data(self, role: str) -> Path:
        """The directory that `role` owns: below `--data-dir`, as `up` lays it out."""
        return data_dir(self.layers(role).path("data_dir"), self.env).role(role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where an HTTP role listens; `flag` is the option that changes the port."""

    host: str
    port: int
    flag: str = "--port"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mqtt:
    """A connection to the broker, as this principal."""

    identity: Identity
    address: str = DEFAULT_MQTT


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorRole:
    """The aggregator keeps nothing. It takes updates from files in `roots`, and from `origins` by HTTP."""

    listen: Listen
    roots: tuple[Path, ...] = ()
    origins: tuple[str, ...] = ()
    level: Level = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRegistryRole:
    """`base` is the topic prefix B that its database belongs to.

    `database_url` is of a PostgreSQL database, here as with every role that has the field; empty: a file.
    """

    listen: Listen
    directory: Path
    base: str
    coordinator_url: str = ""
    """Who says which versions are in use; empty: nobody uses any."""
    retention: Retention = field(default_factory=Retention)
    publish_to: str = ""
    """Where every version is pushed: HOST[:PORT]/PREFIX of an OCI registry; empty: nowhere."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    insecure_registries: tuple[str, ...] = ()
    registry_auth: Path | None = None
    database_url: str = field(default="", repr=False)
    level: Level = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataStoreRole:
    """`seeded` are the proplets that get a synthetic data set if they have none.

    `credentials` is a broker's directory whose keys callers must show; None: open, for one machine only.
    """

    listen: Listen
    directory: Path
    base: str
    seeded: tuple[str, ...] = ()
    credentials: Path | None = None
    database_url: str = field(default="", repr=False)
    level: Level = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRole:
    """The OCI registry."""

    listen: Listen
    directory: Path
    retention: Retention = field(default_factory=Retention)
    level: Level = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerRole:
    """The MQTT broker; `directory` holds the credentials that let principals in."""

    host: str
    port: int
    directory: Path
    kind: Literal["embedded", "mosquitto"] = "embedded"
    flag: str = "--port"
    level: Level = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorRole:
    """URLs without a trailing slash; `token_secret` is shared with the manager, empty: no tokens."""

    listen: Listen
    directory: Path
    mqtt: Mqtt
    model_registry_url: str
    aggregator_url: str
    share_files: bool = False
    """The aggregator runs on this machine and may map the files of updates."""
    own_url: str = ""
    """Where the aggregator finds this coordinator otherwise."""
    token_secret: bytes = field(default=b"", repr=False)
    require_update_token: bool = False
    retention: Retention = field(default_factory=Retention)
    database_url: str = field(default="", repr=False)
    mirror: bool = True
    level: Level = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerRole:
    """`public_url` is how proplets reach this manager; `aliases` map host:port to host:port for them."""

    listen: Listen
    directory: Path
    mqtt: Mqtt
    public_url: str
    coordinator_url: str = ""
    model_registry_url: str = ""
    data_store_url: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)
    insecure_registries: tuple[str, ...] = ()
    registry_auth: Path | None = None
    """Credentials for OCI registries, as Docker and Podman keep them."""
    token_secret: bytes = field(default=b"", repr=False)
    retention: Retention = field(default_factory=Retention)
    database_url: str = field(default="", repr=False)
    heartbeat_s: float = limits.HEARTBEAT_S
    mirror: bool = True
    level: Level = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpRole:
    """Everything on one machine. `broker` is `embedded`, `mosquitto`, or the address of an outside one."""

    data: DataDir
    proplets: int = 3
    host: str = "127.0.0.1"
    advertise: str = ""
    """How proplets on other machines reach this one; empty: nobody else is expected."""
    ports: Mapping[str, int] = field(default_factory=lambda: dict(PORTS))
    free_ports: bool = False
    """Take any free port for one that is taken, instead of giving up."""
    broker: str = "embedded"
    config: Path | None = None
    """Identities for an outside broker; by default those of the data directory."""
    env_file: Path | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    registry_auth: Path | None = None
    retention: Retention = field(default_factory=Retention)
    publish_models_to: str = ""
    """Where every model version is pushed: HOST[:PORT]/PREFIX of an OCI registry; empty: nowhere."""
    database_url: str = field(default="", repr=False)
    slots: int = 1
    heartbeat_s: float = limits.HEARTBEAT_S
    level: Level = "info"


# --- filling in ------------------------------------------------------------------------------------------


def level_of(layers: Layers, *env: str) -> Level:
    """The log level; the original's names are accepted in any case."""
    text = layers.text("log_level", env, default="info").lower()
    text = {"warn": "warning", "trace": "debug"}.get(text, text)
    for level in get_args(Level):
        if text == level:
            return level  # type: ignore[no-any-return]
    raise BadInput(f"log level {text!r} is not one of {', '.join(get_args(Level))}", code="bad_setting")


def listen_of(layers: Layers, role: str, *, host_env: str = "", port_env: tuple[str, ...] = ()) -> Listen:
    """Where `role` listens: loopback, unless somebody says otherwise."""
    return Listen(
        host=layers.text("host", (host_env,) if host_env else (), default="127.0.0.1"),
        port=layers.port("port", port_env, default=PORTS[role]),
    )


def find_identity(told: Told, section: str, prefix: str) -> Identity:
    """The principal of a role: all four values from the environment, or all four from `config.toml`.

    Raises `BadInput` that says how to get one.
    """
    if told.config is None and (found := env_identity(told.env, prefix)):
        return found
    path = told.config or Path(told.env.get(f"{prefix}_CONFIG_FILE") or DEFAULT_CONFIG)
    if not path.is_file():
        raise BadInput(
            f"no identity for the {section}: set {prefix}_DOMAIN_ID, _CHANNEL_ID, _CLIENT_ID, _CLIENT_KEY, "
            f"or name a file that `propeller provision` wrote with --config ({path} is none)",
            code="no_identity",
        )
    return read_config(path).identity(section)


def find_services(told: Told) -> Services:
    """What `[services]` of the config file says, if there is one."""
    path = told.config or DEFAULT_CONFIG
    return read_config(path).services if path.is_file() else Services()


def mqtt_of(told: Told, layers: Layers, section: str, prefix: str) -> Mqtt:
    """The role's connection to the broker."""
    named = find_services(told).mqtt_address or DEFAULT_MQTT
    address = layers.text("mqtt_address", (f"{prefix}_MQTT_ADDRESS", "MQTT_ADDRESS"), default=named)
    parse_address(address)
    return Mqtt(identity=find_identity(told, section, prefix), address=address)


def retention_of(told: Told) -> Retention:
    """`[retention]` of `propeller.toml`, or `PROPELLER_RETENTION_…`: what every role keeps, and how long."""
    layers = Layers("retention", env=told.env, file=told.document())

    def keep(kind: str, default: Keep) -> Keep:
        last, age = f"{kind}_keep_last", f"{kind}_max_age"
        kept = layers.whole(last, (f"{_RETENTION}{last.upper()}",), default=default.last)
        if kept < 0:
            raise BadInput(f"{last} in [retention] is {kept}; keep 0 or more", code="bad_setting")
        return Keep(
            last=kept,
            max_age_s=layers.seconds(age, (f"{_RETENTION}{age.upper()}",), default=default.max_age_s),
        )

    default = Retention()
    kinds = ("models", "updates", "runs", "events", "metrics", "images")
    return Retention(
        **{kind: keep(kind, getattr(default, kind)) for kind in kinds},
        every_s=layers.seconds("every", (f"{_RETENTION}EVERY",), default=default.every_s),
    )


def aliases_of(document: Mapping[str, Any]) -> dict[str, str]:
    """`[aliases]` of `propeller.toml`: host:port = "host:port"."""
    table = document.get("aliases", {})
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise BadInput('[aliases] in propeller.toml maps "host:port" to "host:port"', code="bad_setting")
    return dict(table)
