"""What both buses do before a message leaves and between two connections. Knows no connection."""

from random import Random

from propeller import limits
from propeller.errors import BadInput, TooLarge
from propeller.ports import Message
from propeller.wire.filters import is_topic


def check_outgoing(message: Message) -> None:
    """Raise `BadInput` for a topic that nobody may publish on, `TooLarge` for a payload over the limit.

    Sending either again would fail again, so neither is a False from `publish`.
    """
    if not is_topic(message.topic):
        raise BadInput(f"{message.topic[:200]!r} is not a topic to publish on", code="bad_topic")
    if len(message.payload) > limits.MQTT_MESSAGE_BYTES_MAX:
        raise TooLarge(
            f"a message of {len(message.payload)} bytes on {message.topic}: at most "
            f"{limits.MQTT_MESSAGE_BYTES_MAX} travel by MQTT; larger content goes by HTTP or in chunks"
        )


class Backoff:
    """Pauses between attempts to connect, with full jitter: uniform in [0, min(max, base * 2**n)] seconds.

    n counts the attempts since the last connection that lasted: one that is cut at once, as when two
    programs share an identity, does not start the count anew.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._attempts = 0

    def next_s(self, lasted_s: float = 0.0) -> float:
        """The next pause in seconds, after an attempt whose connection lasted `lasted_s`."""
        if lasted_s > limits.MQTT_RECONNECT_MAX_S:
            self._attempts = 0
        ceiling_s = min(
            limits.MQTT_RECONNECT_MAX_S, limits.MQTT_RECONNECT_BASE_S * 2.0 ** min(self._attempts, 30)
        )
        self._attempts += 1
        return self._random.uniform(0.0, ceiling_s)
