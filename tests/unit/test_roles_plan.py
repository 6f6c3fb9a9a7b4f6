"""What the roles of one machine are told: addresses, aliases, secrets where others can reach it."""

from pathlib import Path

import pytest

from propeller.roles import plan
from propeller.roles.identity import Config, Identity
from propeller.roles.layout import DataDir
from propeller.roles.place import Place
from propeller.roles.settings import PORTS, UpRole

HTTP_PORTS = {role: port for role, port in PORTS.items() if role != "mqtt"}


def _identity(name: str) -> Identity:
    return Identity(domain_id="d", channel_id="c", client_id=name, client_key=f"{name}-key")


def _machine(**changes: object) -> tuple[UpRole, Config, Place]:
    up = UpRole(data=DataDir(Path("data")), proplets=2, **changes)
    address = up.advertise or "127.0.0.1"
    place = Place(address=address, ports=HTTP_PORTS, mqtt_address=f"tcp://{address}:1883")
    names = ("manager", "coordinator", "operator", "proplet1", "proplet2")
    return up, Config(identities={name: _identity(name) for name in names}, services=place.services()), place


def test_published_names_are_aliases_of_this_machine():
    """Every container name of the walk-through means a local role, and users may add or replace some."""
    up, config, place = _machine(aliases={"store:1": "10.0.0.9:2", "manager:7070": "10.0.0.9:3"})
    told = plan.manager(up, config, place, b"secret")
    assert told.aliases == {
        "coordinator-http:8080": "127.0.0.1:8086",
        "model-registry:8081": "127.0.0.1:8084",
        "aggregator:8082": "127.0.0.1:8085",
        "local-data-store:8083": "127.0.0.1:8083",
        "local-registry:5000": "127.0.0.1:5000",
        "manager:7070": "10.0.0.9:3",
        "store:1": "10.0.0.9:2",
    }


def test_workers_elsewhere_get_the_advertised_address_and_roles_here_use_loopback():
    """What travels in start messages must be reachable from a device; what stays here need not leave."""
    up, config, place = _machine(host="0.0.0.0", advertise="10.0.0.7")  # noqa: S104 - a value, nothing is bound
    assert plan.manager(up, config, place, b"").public_url == "http://10.0.0.7:7070"
    assert plan.manager(up, config, place, b"").coordinator_url == "http://10.0.0.7:8086"
    assert plan.coordinator(up, config, place, b"").aggregator_url == "http://127.0.0.1:8085"
    assert {"http://10.0.0.7:8086", "http://localhost:8086", "http://127.0.0.1:8086"} <= set(place.origins())


@pytest.mark.parametrize(("host", "reachable"), [("127.0.0.1", False), ("0.0.0.0", True), ("10.0.0.7", True)])  # noqa: S104
def test_beyond_loopback_updates_and_data_need_proof(host, reachable):
    """On one machine a walk by hand needs no token; where others can come, everything asks for it."""
    up, config, place = _machine(host=host)
    assert plan.coordinator(up, config, place, b"").require_update_token is reachable
    assert (plan.data_store(up, config).credentials is not None) is reachable


def test_the_data_store_makes_data_for_this_machines_proplets_only():
    """Synthetic data are for trying `up`: nobody else gets any."""
    up, config, _ = _machine()
    assert plan.data_store(up, config).seeded == ("proplet1", "proplet2")


def test_the_environment_file_names_what_published_commands_use():
    """Ids of the proplets by both spellings, the operator's MQTT credentials, and every URL."""
    up, config, place = _machine()
    env = plan.environment(config, place, up)
    assert (env["PROPLET_CLIENT_ID"], env["PROPLET_2_CLIENT_ID"]) == ("proplet1", "proplet2")
    assert (env["PROPLET_ENTITY_ID"], env["PROPLET_2_ENTITY_ID"]) == ("proplet1", "proplet2")
    assert (env["MQTT_HOST"], env["MQTT_PORT"]) == ("127.0.0.1", "1883")
    assert (env["MQTT_USERNAME"], env["MQTT_PASSWORD"]) == ("operator", "operator-key")
    assert (env["DOMAIN_ID"], env["CHANNEL_ID"]) == ("d", "c")
    assert env["MODEL_REGISTRY_URL"] == "http://127.0.0.1:8084"


def test_a_child_is_told_no_secret():
    """Keys stay in the private file: what a process is told may be seen by others."""
    up, _, place = _machine()
    told = plan.child(up, "config.toml", place, "proplet1")
    assert "key" not in str(told)
    assert told.directory.endswith("proplets/proplet1")
