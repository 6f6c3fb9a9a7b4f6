"""From a machine's place and identities to what each of its roles is told. Pure: opens and starts nothing."""

from collections.abc import Mapping

from propeller.roles.children import Child
from propeller.roles.identity import Config, Identity, env_lines
from propeller.roles.layout import DATA_DIR_VARIABLE
from propeller.roles.place import Place, is_local
from propeller.roles.settings import (
    AggregatorRole,
    CoordinatorRole,
    DataStoreRole,
    Listen,
    ManagerRole,
    ModelRegistryRole,
    Mqtt,
    RegistryRole,
    UpRole,
)
from propeller.wire.topics import Topics


def listen(up: UpRole, role: str) -> Listen:
    """Where a role of `up` listens, and the flag that changes it."""
    return Listen(host=up.host, port=up.ports[role], flag=f"--{role}-port")


def sections(up: UpRole) -> list[str]:
    """The sections of the proplets that `up` runs."""
    return [f"proplet{number}" for number in range(1, up.proplets + 1)]


def topics(config: Config) -> Topics:
    """All topics of the system's channel."""
    one = config.identity("manager")
    return Topics(one.domain_id, one.channel_id)


def aggregator(up: UpRole, place: Place) -> AggregatorRole:
    """What the aggregator is told: it shares the disk with the coordinator."""
    return AggregatorRole(
        listen=listen(up, "aggregator"),
        roots=(up.data.role("coordinator"),),
        origins=(place.local_url("coordinator"), place.local_url("model-registry")),
        level=up.level,
    )


def model_registry(up: UpRole, config: Config, place: Place) -> ModelRegistryRole:
    """What the model registry is told; the published names of registries work for it too."""
    return ModelRegistryRole(
        listen=listen(up, "model-registry"),
        directory=up.data.role("model-registry"),
        base=topics(config).base,
        coordinator_url=place.local_url("coordinator"),
        retention=up.retention,
        publish_to=up.publish_models_to,
        aliases=place.aliases(up.aliases),
        insecure_registries=tuple(place.registries()),
        registry_auth=up.registry_auth,
        database_url=up.database_url,
        level=up.level,
    )


def data_store(up: UpRole, config: Config) -> DataStoreRole:
    """What the data store is told: it makes synthetic data for the proplets of this machine.

    Where others can reach it, every proplet proves who it is.
    """
    return DataStoreRole(
        listen=listen(up, "data-store"),
        directory=up.data.role("data-store"),
        base=topics(config).base,
        seeded=tuple(config.identity(section).client_id for section in sections(up)),
        credentials=None if is_local(up.host) else up.data.broker,
        database_url=up.database_url,
        level=up.level,
    )


def registry(up: UpRole) -> RegistryRole:
    """What the OCI registry is told."""
    return RegistryRole(
        listen=listen(up, "registry"),
        directory=up.data.role("registry"),
        retention=up.retention,
        level=up.level,
    )


def coordinator(up: UpRole, config: Config, place: Place, secret: bytes) -> CoordinatorRole:
    """What the coordinator is told; beyond loopback every update must carry its token."""
    return CoordinatorRole(
        listen=listen(up, "coordinator"),
        directory=up.data.role("coordinator"),
        mqtt=Mqtt(identity=config.identity("coordinator"), address=place.mqtt_address),
        model_registry_url=place.local_url("model-registry"),
        aggregator_url=place.local_url("aggregator"),
        share_files=True,
        own_url=place.local_url("coordinator"),
        token_secret=secret,
        require_update_token=not is_local(up.host),
        retention=up.retention,
        database_url=up.database_url,
        level=up.level,
    )


def manager(up: UpRole, config: Config, place: Place, secret: bytes) -> ManagerRole:
    """What the manager is told; the URLs are those that it hands to proplets."""
    return ManagerRole(
        listen=listen(up, "manager"),
        directory=up.data.role("manager"),
        mqtt=Mqtt(identity=config.identity("manager"), address=place.mqtt_address),
        public_url=place.url("manager"),
        coordinator_url=place.url("coordinator"),
        model_registry_url=place.url("model-registry"),
        data_store_url=place.url("data-store"),
        aliases=place.aliases(up.aliases),
        insecure_registries=tuple(place.registries()),
        registry_auth=up.registry_auth,
        token_secret=secret,
        heartbeat_s=up.heartbeat_s,
        retention=up.retention,
        database_url=up.database_url,
        level=up.level,
    )


def child(up: UpRole, config_path: str, place: Place, section: str) -> Child:
    """What one proplet's process is told."""
    return Child(
        config=config_path,
        section=section,
        directory=str(up.data.proplet(section).absolute()),
        cache=str((up.data.root / "cache").absolute()),
        log=str(up.data.log(section).absolute()),
        level=up.level,
        heartbeat_s=up.heartbeat_s,
        slots=up.slots,
        services=place.services(),
        allowed_origins=list(place.origins()),
        insecure_registries=list(place.registries()),
        registry_auth=str(up.registry_auth.absolute()) if up.registry_auth else "",
    )


def environment(config: Config, place: Place, up: UpRole) -> Mapping[str, str]:
    """What `--env-file` holds: place, ids, keys and addresses by the names that published commands use."""
    # So that commands find the system from any directory.
    found = {DATA_DIR_VARIABLE: str(up.data.root.absolute())}
    operator = config.identity("operator")
    found |= {"DOMAIN_ID": operator.domain_id, "TENANT_ID": operator.domain_id}
    found |= {"CHANNEL_ID": operator.channel_id}
    for section in sections(up):
        number = section.removeprefix("proplet")
        found |= _named("PROPLET" if number == "1" else f"PROPLET_{number}", config.identity(section))
    found |= _named("MANAGER", config.identity("manager"))
    host, _, port = place.mqtt_address.partition("://")[2].rpartition(":")
    found |= {"MQTT_ADDRESS": place.mqtt_address, "MQTT_HOST": host, "MQTT_PORT": port}
    found |= {"MQTT_USERNAME": operator.client_id, "MQTT_PASSWORD": operator.client_key}
    return found | {f"{role.upper().replace('-', '_')}_URL": url for role, url in place.urls().items()}


def _named(prefix: str, identity: Identity) -> dict[str, str]:
    return dict(line.split("=", 1) for line in env_lines(prefix, identity))
