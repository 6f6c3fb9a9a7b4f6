"""What a proplet is told before it starts. Reads no files, no environment; `cli` and `roles` fill it in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from propeller import limits
from propeller.core.ids import check_id
from propeller.errors import BadInput
from propeller.ports import Folder, GuestLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceUrls:
    """Where the services are, as this device knows them; empty means unknown. No trailing slash needed."""

    manager: str = ""
    coordinator: str = ""
    model_registry: str = ""
    data_store: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PropletSettings:
    """One proplet. `id` is its entity, `api_key` its password at the broker.

    `spool` is a directory of its own, `cache` one for modules and compiled code (shared by any number of
    proplets of one user). `data` is the device's own data set: a file or a directory.
    `allowed_origins` are service origins beyond those of `urls` that tasks may name (`http://host:port`,
    or `*` for any). `insecure_registries` are `host:port` reached by plain HTTP.
    `metrics_port` None: no server; 0: any free port.
    """

    id: str
    api_key: str = ""
    domain: str
    channel: str
    broker: str = "tcp://localhost:1883"
    broker_ca: Path | None = None
    """Certificates (PEM) that a broker with TLS is checked against, instead of the machine's own."""
    heartbeat_s: float = limits.HEARTBEAT_S
    slots: int = 1
    spool: Path
    cache: Path
    data: Path | None = None
    mqtt_only: bool = False
    """Nothing but the broker is within reach: models and modules come by it, updates go by it."""
    urls: ServiceUrls = field(default_factory=ServiceUrls)
    allowed_origins: tuple[str, ...] = ()
    modules_by: Literal["http", "mqtt"] = "http"
    """How modules come: from registries and the manager, or from the manager by the broker alone."""
    insecure_registries: tuple[str, ...] = ()
    registry_auth: Path | None = None
    """Credentials for OCI registries, as Docker and Podman keep them."""
    image_cache_bytes: int = limits.IMAGE_CACHE_BYTES
    """What `cache` may hold of images; several proplets that share it should say the same."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    namespace: str = "default"
    description: str = ""
    location: str = ""
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    """What tasks may ask for, such as `zone: north`."""
    folders: tuple[Folder, ...] = ()
    """Directories of this device that every guest may see."""
    call_workers: int = 1
    """Calls of latent tasks that run at once, each in a process of its own."""
    metrics_s: float = limits.PROPLET_METRICS_S
    """How often host metrics go to the manager (seconds); 0: never, and no guest is measured either."""
    limits: GuestLimits = field(default_factory=GuestLimits)
    """What a task gets that asks for nothing."""
    end_with_parent: bool = False
    """Stop when the process that started this one is gone."""

    def __post_init__(self) -> None:
        check_id(self.id, "proplet id")
        if self.mqtt_only:
            self._check_mqtt_only()
        if self.slots < 1:
            raise BadInput(f"slots is {self.slots}; a proplet needs at least 1")
        if self.call_workers < 1:
            raise BadInput(f"call_workers is {self.call_workers}; a proplet needs at least 1")
        if self.image_cache_bytes < 0:
            raise BadInput(f"image_cache_bytes is {self.image_cache_bytes}; it must be 0 or more")
        if self.metrics_s < 0:
            raise BadInput(f"metrics_s is {self.metrics_s}; it must be positive, or 0 for never")
        if self.heartbeat_s <= 0:
            raise BadInput(f"heartbeat_s is {self.heartbeat_s}; it must be positive")

    def _check_mqtt_only(self) -> None:
        """Refuse settings that would have no effect."""
        urls = self.urls
        given = {
            "service URLs": any((urls.manager, urls.coordinator, urls.model_registry, urls.data_store)),
            "allowed_origins": bool(self.allowed_origins),
            "insecure_registries": bool(self.insecure_registries),
            "registry_auth": self.registry_auth is not None,
        }
        if wrong := [name for name, said in given.items() if said]:
            raise BadInput(
                f"mqtt_only: this proplet speaks no HTTP; leave out {', '.join(wrong)}, or mqtt_only",
                code="bad_setting",
            )
