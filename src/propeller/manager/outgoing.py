"""Sends what the engine asked for. Nothing here is remembered: what is lost is asked for again.

A start of a round that the manager did not launch itself (a task with `ROUND_ID` started by hand) first
joins the participant to that round at the coordinator; a refusal there ends the attempt.
"""

import asyncio
from collections.abc import Awaitable, Callable

from propeller.core import events as e
from propeller.core.engine import Engine
from propeller.errors import PeerUnavailable, PropellerError
from propeller.manager.config import ManagerConfig
from propeller.manager.coordinator import CoordinatorClient
from propeller.manager.dispatch import start_message, stop_message
from propeller.manager.shell import Effect
from propeller.ports import Blobs, Bus, Message
from propeller.stores import ManagerStore
from propeller.telemetry.logs import logger
from propeller.telemetry.metrics import RoleMetrics
from propeller.wire import codec
from propeller.wire.messages import Ack, AckItem, Welcome
from propeller.wire.topics import FromManager

SENDERS = 32
"""Messages on their way at the same time."""
QUEUE_EFFECTS_MAX = 20_000
"""Effects that may wait; beyond it new ones are dropped and counted, as every one of them is repeated."""


class Outgoing:
    """Performs effects with a few concurrent senders. `post` hands events back to the shell."""

    def __init__(
        self,
        *,
        config: ManagerConfig,
        bus: Bus,
        blobs: Blobs,
        store: ManagerStore,
        coordinator: CoordinatorClient | None,
        metrics: RoleMetrics,
        engine: Callable[[], Engine],
        post: Callable[[e.Event], Awaitable[None]],
    ) -> None:
        self._config = config
        self._bus = bus
        self._blobs = blobs
        self._store = store
        self._coordinator = coordinator
        self._engine = engine
        self._post = post
        self._queue: asyncio.Queue[Effect] = asyncio.Queue(QUEUE_EFFECTS_MAX)
        self._sent = metrics.counter("propeller_manager_messages_sent", "Messages published", ["kind"])
        self._dropped = metrics.counter(
            "propeller_manager_messages_dropped", "Messages not published; each is repeated", ["kind"]
        )

    async def perform(self, effect: Effect) -> None:
        """Queue one effect; never waits."""
        try:
            self._queue.put_nowait(effect)
        except asyncio.QueueFull:
            self._dropped.labels(type(effect).__name__).inc()

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(self._send_forever())

    async def _send_forever(self) -> None:
        while True:
            effect = await self._queue.get()
            kind = type(effect).__name__
            try:
                message = await self._message(effect)
                sent = message is not None and await self._bus.publish(message)
            except PropellerError as error:
                logger().warning("message not sent", kind=kind, error=error.message, code=error.reason)
                sent = False
            except Exception as error:  # noqa: BLE001 - one message must not end the manager
                logger().error("bug: message not sent", kind=kind, exc_info=error)
                sent = False
            (self._sent if sent else self._dropped).labels(kind).inc()

    async def _message(self, effect: Effect) -> Message | None:
        match effect:
            case e.SendStart():
                return await self._start(effect)
            case e.SendStop():
                return stop_message(effect, self._config)
            case e.SendAck():
                return _ack(effect, self._config)
            case e.SendWelcome():
                welcome = codec.encode(Welcome(protocol=2, heartbeat_s=self._config.heartbeat_s))
                topic = self._config.topics.from_manager(FromManager.WELCOME, effect.proplet_id)
                return Message(topic, welcome)

    async def _start(self, effect: e.SendStart) -> Message | None:
        task, attempt = effect.task, effect.run.attempts[-1]
        seed = 0
        if task.federated:
            launch = await self._store.launch(task.round_id)
            launched = launch is not None and task.id in launch.tasks.values()
            if launch is not None and launched:
                seed = launch.seed
            elif not await self._joined(effect, attempt.proplet_id):
                return None
        proplet = self._engine().ledger.proplets.get(attempt.proplet_id)
        return await start_message(effect, proplet, seed, self._config, self._blobs)

    async def _joined(self, effect: e.SendStart, participant: str) -> bool:
        """Whether the coordinator takes an update of this participant for the task's round."""
        if self._coordinator is None:
            return True
        try:
            await self._coordinator.join(effect.task, participant)
        except PeerUnavailable as error:
            logger().warning("round not joined yet", round_id=effect.task.round_id, error=error.message)
            return False
        except PropellerError as error:
            await self._post(_refusal(effect, error))
            return False
        return True


def _refusal(effect: e.SendStart, error: PropellerError) -> e.DispatchRefused:
    return e.DispatchRefused(
        task_id=effect.task.id,
        run=effect.run.number,
        attempt=effect.run.attempts[-1].number,
        error=error.message,
        failure=error.reason,
        cause="coordinator",
    )


def _ack(effect: e.SendAck, config: ManagerConfig) -> Message:
    report = effect.report
    item = AckItem(task_id=report.task_id, run=report.run, attempt=report.attempt, kind=report.kind)
    topic = config.topics.from_manager(FromManager.ACK, report.sender)
    return Message(topic, codec.encode(Ack(events=[item])))
