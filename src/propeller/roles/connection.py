"""Making a role's connection to the broker from its settings."""

import ssl
from random import SystemRandom

from propeller.bus.address import parse_address
from propeller.bus.mqtt import MqttBus
from propeller.roles.identity import Identity
from propeller.roles.settings import Mqtt
from propeller.wire.topics import Topics


def topics_of(identity: Identity) -> Topics:
    """All topics of the identity's channel."""
    return Topics(identity.domain_id, identity.channel_id)


def bus_of(mqtt: Mqtt) -> MqttBus:
    """The bus of one principal; TLS with the machine's own certificate authorities if the address says so."""
    address, identity = parse_address(mqtt.address), mqtt.identity
    return MqttBus(
        address.host,
        address.port,
        identity.client_id,
        identity.client_key,
        identity.client_id,
        random=SystemRandom(),
        tls=ssl.create_default_context() if address.tls else None,
    )
