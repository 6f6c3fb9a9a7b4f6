"""What the manager does with each MQTT message. What is unlawful is dropped and counted."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from propeller.core import events as e
from propeller.errors import DecodeError, PropellerError
from propeller.manager.intake import read_event
from propeller.manager.rounds import Rounds
from propeller.ports import Message
from propeller.telemetry.logs import logger
from propeller.telemetry.metrics import RoleMetrics
from propeller.wire import codec
from propeller.wire.rounds import RoundComplete, RoundStart
from propeller.wire.topics import ControlTopic, FromProplet, RoundTopic, Topics

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class Listener:
    """Sorts messages: control messages go to the shell, round messages to `rounds` in tasks of their own."""

    def __init__(
        self,
        *,
        topics: Topics,
        rounds: Rounds,
        post: Callable[[e.Event], Awaitable[None]],
        spawn: Spawn,
        mirror_root: bool,
        wish: Callable[[bytes], None],
        answers: Mapping[FromProplet, Callable[[ControlTopic, bytes], None]] | None = None,
        metrics: RoleMetrics,
    ) -> None:
        self._topics = topics
        self._rounds = rounds
        self._post = post
        self._spawn = spawn
        self._mirror_root = mirror_root
        self._wish = wish
        self._answers = answers or {}
        """Control messages that are not the engine's business, by kind."""
        self._received = metrics.counter("propeller_manager_messages_received", "Messages received")
        self._poison = metrics.counter(
            "propeller_manager_messages_unlawful", "Messages that are not what their topic says"
        )

    async def __call__(self, message: Message) -> None:
        """Take one message; never raises for what it holds."""
        self._received.inc()
        try:
            await self._sort(message)
        except PropellerError as error:
            self._poison.inc()
            logger().warning("message dropped", topic=message.topic, error=error.message, code=error.reason)
        except Exception as error:  # noqa: BLE001 - one message must not end the manager
            self._poison.inc()
            logger().error("bug: message dropped", topic=message.topic, exc_info=error)

    async def _sort(self, message: Message) -> None:
        if message.retain:
            # Nobody of ours asks a broker to keep one: it would revive the dead at every reconnection.
            raise DecodeError("a retained message says what was, not what is")
        control = self._topics.parse_control(message.topic)
        if control is not None:
            await self._control(control, message.payload)
            return
        if message.topic == self._topics.image_wishes():
            self._wish(message.payload)
            return
        round_topic = self._topics.parse_round(message.topic)
        if round_topic is None:
            raise DecodeError(f"nothing of ours travels on {message.topic}")
        self._round(round_topic, message.payload)

    async def _control(self, topic: ControlTopic, payload: bytes) -> None:
        answer = self._answers.get(topic.kind)
        if answer is not None:
            answer(topic, payload)
            return
        event = read_event(topic, payload)
        if event is not None:
            await self._post(event)

    def _round(self, topic: RoundTopic, payload: bytes) -> None:
        if topic.kind == "start" and (self._mirror_root or not topic.root):
            self._spawn(self._rounds.announced(codec.decode(RoundStart, payload, what="rounds/start")))
        elif topic.kind == "updates" and topic.root and self._mirror_root:
            self._spawn(self._rounds.forward(topic, payload))
        elif topic.kind == "complete" and not topic.root:
            end = codec.decode(RoundComplete, payload, what="round complete")
            if end.round_id == topic.round_id:
                self._spawn(self._rounds.completed(end))
