"""Where the services of one machine are, as proplets, users and the published names have it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from propeller.roles.identity import Services
from propeller.roles.settings import ALIASES

LOOPBACK = "127.0.0.1"
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """`address` is how proplets reach this machine; `ports` are by role name, HTTP roles only."""

    address: str
    ports: Mapping[str, int]
    mqtt_address: str

    def url(self, role: str) -> str:
        """The base URL of an HTTP role, for proplets and people."""
        return f"http://{self.address}:{self.ports[role]}"

    def local_url(self, role: str) -> str:
        """The base URL of an HTTP role, for the other roles of this machine."""
        return f"http://{LOOPBACK}:{self.ports[role]}"

    def urls(self) -> dict[str, str]:
        """Every HTTP role's URL."""
        return {role: self.url(role) for role in self.ports}

    def services(self) -> Services:
        """The `[services]` of a `config.toml` for this machine."""
        return Services(
            mqtt_address=self.mqtt_address,
            manager_url=self.url("manager"),
            coordinator_url=self.url("coordinator"),
            model_registry_url=self.url("model-registry"),
            data_store_url=self.url("data-store"),
            registry=f"{self.address}:{self.ports['registry']}",
        )

    def aliases(self, more: Mapping[str, str]) -> dict[str, str]:
        """What the published names stand for here; `more` adds to them or replaces them."""
        known = {name: f"{self.address}:{self.ports[role]}" for name, role in ALIASES.items()}
        return {**known, **more}

    def origins(self) -> tuple[str, ...]:
        """Every origin of our services that a task may name: any spelling of this machine."""
        hosts = dict.fromkeys((self.address, LOOPBACK, "localhost"))
        return tuple(f"http://{host}:{port}" for host in hosts for port in self.ports.values())

    def registries(self) -> tuple[str, ...]:
        """Our OCI registry as `host:port`, in every spelling of this machine."""
        hosts = dict.fromkeys((self.address, LOOPBACK, "localhost"))
        return tuple(f"{host}:{self.ports['registry']}" for host in hosts)


def is_local(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    return host in _LOCAL
