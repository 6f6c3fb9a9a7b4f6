"""What the coordinator hears over MQTT: acknowledgements, and updates of devices that have no HTTP.

Hearing never waits for anything slow: acknowledgements and updates go to bounded queues, and each update is
answered with a verdict. A full queue drops a message; its sender tries again. Who sent by the older topics
hears no verdict, so what could not be taken for a passing reason is tried again here.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from propeller import limits
from propeller.errors import CallerError, PropellerError
from propeller.federation.coordinator.engine import Engine
from propeller.federation.coordinator.intake import Decide, Intake
from propeller.federation.coordinator.reading import Sender
from propeller.federation.coordinator.settings import CoordinatorSettings
from propeller.federation.coordinator.uploads import Uploads
from propeller.ports import Bus, Message
from propeller.telemetry.logs import about, logger
from propeller.wire import codec
from propeller.wire.rounds import RoundLaunched, Verdict
from propeller.wire.topics import RoundTopic

WORKERS = 4
"""Updates in progress at once: each waits for the disk, so several share one fsync."""
_PASSING = frozenset({429, 503, 507})
"""Answers of HTTP that may be others later."""


class _Heard(NamedTuple):
    """A message that waits to be taken."""

    topic: RoundTopic
    payload: bytes
    tries: int = 0
    """How often it could not be taken."""


_Inbox = asyncio.Queue[_Heard]


class Listener:
    """Give `hear` to the bus, and `start` it in the role's task group."""

    def __init__(
        self,
        *,
        settings: CoordinatorSettings,
        bus: Bus,
        engine: Engine,
        intake: Intake,
        uploads: Uploads,
        decide: Decide,
        wish: Callable[[bytes], None],
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._engine = engine
        self._intake = intake
        self._uploads = uploads
        self._decide = decide
        self._wish = wish
        self._updates: _Inbox = asyncio.Queue(limits.UPDATE_INBOX_MAX)
        self._pieces: _Inbox = asyncio.Queue(limits.UPDATE_PIECES_INBOX_MAX)
        self._notes: _Inbox = asyncio.Queue(limits.MQTT_INBOX_MESSAGES_MAX)
        self._again = 0
        """Updates that will be tried again."""
        self._queues = {
            "updates": self._updates,
            "manifests": self._pieces,
            "pieces": self._pieces,
            "launched": self._notes,
            "closed": self._notes,
        }

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to work off what is heard."""
        for _ in range(WORKERS):
            tasks.create_task(self._take_updates(self._updates))
            tasks.create_task(self._take_updates(self._pieces))
            tasks.create_task(self._take_notes())
        tasks.create_task(self._uploads.sweep())

    async def hear(self, message: Message) -> None:
        """Sort one message into a queue; what means nothing to us is ignored."""
        topics = self._settings.topics
        if message.topic == topics.model_wishes():
            self._wish(message.payload)
            return
        topic = topics.parse_round(message.topic)
        if message.topic == topics.forwarded_updates():
            # It says itself whose it is: the older manager took that from the topic it came by.
            topic = RoundTopic("updates", root=True)
        if topic is None or (topic.root and not self._settings.mirror):
            return
        queue = self._queues.get(topic.kind)
        if queue is None or (topic.root and topic.kind != "updates"):
            return
        self._put(queue, _Heard(topic, message.payload))

    def _put(self, queue: "_Inbox", heard: "_Heard") -> None:
        try:
            queue.put_nowait(heard)
        except asyncio.QueueFull:
            topic = heard.topic
            logger().warning("message dropped: too many wait", round_id=topic.round_id, kind=topic.kind)

    async def _take_notes(self) -> None:
        while True:
            heard = await self._notes.get()
            with about(round_id=heard.topic.round_id):
                try:
                    await self._note(heard.topic, heard.payload)
                except PropellerError as error:
                    logger().warning("message not taken", kind=heard.topic.kind, error=error.message)

    async def _note(self, topic: RoundTopic, payload: bytes) -> None:
        if topic.kind == "closed":
            await self._decide(lambda batch, _now: self._engine.closed(topic.round_id, batch=batch))
            return
        refused = codec.decode(RoundLaunched, payload, what="the launch report").refused[
            : limits.REASON_CHARS_MAX
        ]
        await self._decide(
            lambda batch, now: self._engine.launched(topic.round_id, refused, batch=batch, now=now)
        )

    async def _take_updates(self, queue: "_Inbox") -> None:
        while True:
            heard = await queue.get()
            topic = heard.topic
            with about(round_id=topic.round_id):
                verdict = await self._verdict(topic, heard.payload)
                if verdict is not None and not topic.root:
                    answer = self._settings.topics.round_verdict(topic.round_id, topic.participant)
                    await self._bus.publish(Message(answer, codec.encode(verdict)))
                elif verdict is not None and verdict.status in _PASSING:
                    self._try_again(queue, heard)

    def _try_again(self, queue: "_Inbox", heard: "_Heard") -> None:
        """Take it once more after a while: its sender believes that it has been delivered."""
        if heard.tries == limits.UPDATE_AGAIN_TRIES_MAX or self._again == limits.UPDATE_INBOX_MAX:
            logger().warning("update given up", topic=heard.topic.kind, tries=heard.tries)
            return
        self._again += 1

        def put() -> None:
            self._again -= 1
            self._put(queue, _Heard(heard.topic, heard.payload, heard.tries + 1))

        asyncio.get_running_loop().call_later(limits.UPDATE_AGAIN_S * 2**heard.tries, put)

    async def _verdict(self, topic: RoundTopic, payload: bytes) -> Verdict | None:
        """What the sender is told; None if it hears later."""
        # The broker ties the last level of our own topics to the publisher; root topics anyone may use.
        sender = Sender(round_id=topic.round_id, participant=topic.participant, proven=not topic.root)
        try:
            if len(payload) > limits.MQTT_MESSAGE_BYTES_MAX:
                return _refusal(topic, 413, "the message is over the limit", "too_large")
            if topic.kind == "manifests":
                return await self._uploads.announced(payload, sender)
            if topic.kind == "pieces":
                return await self._uploads.arrived(payload, sender)
            await self._intake.take(payload, "json", sender)
        except PropellerError as error:
            if not isinstance(error, CallerError):
                logger().warning("update not taken", error=error.message)
            return _refusal(topic, error.http_status, error.message, error.reason)
        except Exception as error:  # noqa: BLE001 - the boundary of one message: its sender is told
            logger().error("bug", exc_info=error)
            return _refusal(topic, 500, "internal error; the coordinator's log has the details", "bug")
        return Verdict(round_id=topic.round_id, status=200)


def _refusal(topic: RoundTopic, status: int, error: str, reason: str) -> Verdict:
    return Verdict(round_id=topic.round_id, status=status, error=error, reason=reason)
