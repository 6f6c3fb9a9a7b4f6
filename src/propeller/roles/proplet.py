"""The proplet from its settings: one function for a device's own command, one for a child of `up`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from propeller import limits
from propeller.errors import BadInput, Conflict
from propeller.ports import Folder
from propeller.proplet.settings import PropletSettings, ServiceUrls
from propeller.roles.children import Child
from propeller.roles.identity import Identity, Services, env_identity, read_config
from propeller.roles.layers import Layers
from propeller.roles.layout import DataDir, data_dir
from propeller.roles.settings import AUTH_FILE, DEFAULT_CONFIG, DEFAULT_MQTT, Told, find_services

HEALTH_PORT = 9092


def of_child(child: Child) -> PropletSettings:
    """What a proplet of `up` is told."""
    identity = read_config(Path(child.config)).identity(child.section)
    return PropletSettings(
        id=identity.client_id,
        api_key=identity.client_key,
        domain=identity.domain_id,
        channel=identity.channel_id,
        broker=child.services.mqtt_address,
        heartbeat_s=child.heartbeat_s,
        slots=child.slots,
        spool=Path(child.directory) / "spool",
        cache=Path(child.cache),
        urls=_urls(child.services),
        allowed_origins=tuple(child.allowed_origins),
        insecure_registries=tuple(child.insecure_registries),
        registry_auth=Path(child.registry_auth) if child.registry_auth else None,
        description=child.section,
        end_with_parent=True,
    )


def of_device(told: Told) -> PropletSettings:
    """What a proplet of its own is told.

    Raises `BadInput` that says how to get an identity, `Conflict` if a proplet of `up` has this one.
    """
    layers = told.layers("proplet")
    identity, services = _identity(told, layers), find_services(told)
    data = data_dir(layers.path("data_dir"), told.env)
    _check_not_a_child(identity, (data, data_dir(None, told.env)))
    home = data.root / "proplets" / identity.client_id
    mqtt_only = layers.switch("mqtt_only", ("PROPLET_MQTT_ONLY",), default=False)
    http = layers
    if mqtt_only:
        # What is said of the whole system is left aside; what is said to this proplet is refused.
        services = Services(mqtt_address=services.mqtt_address)
        http = Layers("proplet", flags=told.flags, file=told.document())
    metrics_port = layers.port("metrics_port", ("PROPLET_METRICS_PORT",), default=HEALTH_PORT)
    return PropletSettings(
        id=identity.client_id,
        api_key=identity.client_key,
        domain=identity.domain_id,
        channel=identity.channel_id,
        broker=layers.text(
            "mqtt_address", ("PROPLET_MQTT_ADDRESS",), default=services.mqtt_address or DEFAULT_MQTT
        ),
        heartbeat_s=layers.seconds("heartbeat", ("PROPLET_LIVELINESS_INTERVAL",), default=limits.HEARTBEAT_S),
        slots=layers.whole("slots", ("PROPLET_SLOTS",), default=1),
        spool=layers.path("spool", ("PROPLET_SPOOL",)) or home / "spool",
        cache=layers.path("cache", ("PROPLET_CACHE",)) or home.parent.parent / "cache",
        data=layers.path("data", ("PROPLET_DATA",)),
        mqtt_only=mqtt_only,
        urls=ServiceUrls(
            manager=http.text("manager_url", ("MANAGER_URL",), default=services.manager_url),
            coordinator=http.text(
                "coordinator_url",
                ("MANAGER_COORDINATOR_URL", "COORDINATOR_URL"),
                default=services.coordinator_url,
            ),
            model_registry=http.text(
                "model_registry_url", ("MODEL_REGISTRY_URL",), default=services.model_registry_url
            ),
            data_store=http.text("data_store_url", ("DATA_STORE_URL",), default=services.data_store_url),
        ),
        allowed_origins=(
            *http.listed("allowed_origins", ("PROPLET_ALLOWED_ORIGINS",)),
            *_other_spellings(services),
        ),
        insecure_registries=http.listed(
            "insecure_registries",
            ("PROPLET_INSECURE_REGISTRIES",),
            default=(services.registry,) if services.registry else (),
        ),
        registry_auth=http.path("registry_auth", AUTH_FILE),
        modules_by=_modules_by(layers),
        image_cache_bytes=layers.whole(
            "image_cache_bytes", ("PROPLET_IMAGE_CACHE_BYTES",), default=limits.IMAGE_CACHE_BYTES
        ),
        metrics_host=layers.text("metrics_host", ("PROPLET_METRICS_HOST",), default="127.0.0.1"),
        metrics_port=metrics_port
        if layers.switch("metrics", ("PROPLET_METRICS_ENABLED",), default=True)
        else None,
        namespace=layers.text("namespace", ("PROPLET_MANAGER_K8S_NAMESPACE",), default="default"),
        description=layers.text("description", ("PROPLET_DESCRIPTION",)),
        location=layers.text("location", ("PROPLET_LOCATION",)),
        tags=layers.listed("tags", ("PROPLET_TAGS",)),
        labels=dict(map(_label, layers.listed("labels", ("PROPLET_LABELS",)))),
        folders=_folders(told, layers),
        call_workers=layers.whole("call_workers", ("PROPLET_CALL_WORKERS",), default=1),
    )


def _modules_by(layers: Layers) -> Literal["http", "mqtt"]:
    text = layers.text("modules_by", ("PROPLET_MODULES_BY",), default="http")
    if text not in {"http", "mqtt"}:
        raise BadInput(f"modules_by is {text!r}; it can be http or mqtt", code="bad_setting")
    return "mqtt" if text == "mqtt" else "http"


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise BadInput(f"label {text!r}: write NAME=VALUE", code="bad_setting")
    return name, value


def _folders(told: Told, layers: Layers) -> tuple[Folder, ...]:
    """The directories that guests may see. PROPLET_DIRS is the original's: paths between colons, writable."""
    named = [_folder(text) for text in layers.listed("dirs")]
    if not named:
        paths = [path for path in told.env.get("PROPLET_DIRS", "").split(":") if path]
        named = [Folder(host=Path(path), guest=path, writable=True) for path in paths]
    for folder in named:
        if not folder.host.is_dir() or not folder.guest.startswith("/"):
            raise BadInput(
                f"guests cannot be given {folder.host} as {folder.guest}: --dir HOST[:GUEST][:rw] takes a "
                "directory of this machine and an absolute path",
                code="bad_setting",
            )
    return tuple(named)


def _folder(text: str) -> Folder:
    """`HOST[:GUEST][:rw]`; without GUEST a guest sees it under its own path, without `rw` it cannot write."""
    parts = text.split(":")
    writable = len(parts) > 1 and parts[-1] == "rw"
    paths = parts[:-1] if writable or parts[-1] == "ro" else parts
    if len(paths) > 2 or not all(paths):  # noqa: PLR2004 - the host's path and the guest's
        raise BadInput(f"--dir {text!r}: write HOST[:GUEST][:rw]", code="bad_setting")
    host = Path(paths[0]).expanduser().absolute()
    return Folder(host=host, guest=paths[-1] if len(paths) > 1 else str(host), writable=writable)


def _identity(told: Told, layers: Layers) -> Identity:
    """From the environment, unless a file is named; else the section of the file."""
    if told.config is None and (found := env_identity(told.env, "PROPLET")):
        return found
    path = told.config or Path(told.env.get("PROPLET_CONFIG_FILE") or DEFAULT_CONFIG)
    if not path.is_file():
        raise BadInput(
            f"no identity for the proplet: {path} is no file; `propeller provision add-proplets 1` "
            "writes one, --config names another",
            code="no_identity",
        )
    config = read_config(path)
    return config.identity(layers.text("section", ("PROPLET_CONFIG_SECTION",)) or config.only_proplet())


def _check_not_a_child(identity: Identity, directories: Iterable[DataDir]) -> None:
    """Two processes of one identity would take the broker's connection from each other for ever.

    A shell that read the file of `up --env-file` has the identity of its first proplet.
    """
    for data in directories:
        running = data.running()
        if running and identity.client_id in running.proplets:
            raise Conflict(
                f"`propeller up` (process {running.pid}) runs proplet {identity.client_id} already; "
                "`propeller provision add-proplets 1 -f proplet.toml` makes an identity for another one, and "
                "`propeller proplet --config proplet.toml` runs it",
                code="proplet_runs_already",
            )


def _other_spellings(services: Services) -> tuple[str, ...]:
    """The same services, where they are on this machine, by its other name: tasks use either."""
    urls = (
        services.manager_url,
        services.coordinator_url,
        services.model_registry_url,
        services.data_store_url,
    )
    here = [url for url in urls if urlsplit(url).hostname in {"127.0.0.1", "localhost"}]
    return tuple(f"http://{name}:{urlsplit(url).port}" for url in here for name in ("127.0.0.1", "localhost"))


def _urls(services: Services) -> ServiceUrls:
    return ServiceUrls(
        manager=services.manager_url,
        coordinator=services.coordinator_url,
        model_registry=services.model_registry_url,
        data_store=services.data_store_url,
    )
