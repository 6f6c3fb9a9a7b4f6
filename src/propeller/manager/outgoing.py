"""Sends what the engine asked for. Nothing here is remembered: what is lost is asked for again.

A start of a round that the manager did not launch itself (a task with `ROUND_ID` started by hand) first
joins the participant to that round at the coordinator; a refusal there ends the attempt. Joining has senders
of its own, so that a coordinator that does not answer holds up nobody else's messages.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from propeller import limits
from propeller.core import events as e
from propeller.core.engine import Engine
from propeller.core.run import RunState
from propeller.errors import PeerUnavailable, PropellerError, TooLarge
from propeller.manager.config import ManagerConfig
from propeller.manager.coordinator import CoordinatorClient
from propeller.manager.dispatch import start_message, stop_message
from propeller.ports import Blobs, Bus, Message
from propeller.stores.manager import ManagerStore
from propeller.telemetry.logs import logger
from propeller.telemetry.metrics import RoleMetrics
from propeller.wire import codec
from propeller.wire.messages import Ack, AckItem, Welcome
from propeller.wire.topics import FromManager

SENDERS = 32
"""Messages on their way at the same time."""
ACKS_MAX = 256
"""Acknowledgements after which another message is queued."""
JOINERS = 8
"""Requests to join a round at the same time."""
QUEUE_EFFECTS_MAX = 20_000
"""Effects that may wait; beyond it new ones are dropped and counted, as every one of them is repeated."""


Sendable = e.SendStart | e.SendStop | e.SendAck | e.SendWelcome
AnySendable = TypeVar("AnySendable", bound=Sendable)


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
        self._queue: asyncio.Queue[Sendable] = asyncio.Queue(QUEUE_EFFECTS_MAX)
        self._acks: dict[str, list[AckItem]] = {}
        """Acknowledgements by proplet that share the next message to it, which is queued."""
        self._joins: asyncio.Queue[e.SendStart] = asyncio.Queue(QUEUE_EFFECTS_MAX)
        self._sent = metrics.counter("propeller_manager_messages_sent", "Messages published", ["kind"])
        self._dropped = metrics.counter(
            "propeller_manager_messages_dropped", "Messages not published; each is repeated", ["kind"]
        )

    async def perform(self, effect: Sendable) -> None:
        """Queue one effect; never waits. Acknowledgements for one proplet travel together."""
        if not isinstance(effect, e.SendAck):
            self._put(self._queue, effect)
            return
        waiting = self._acks.get(effect.report.sender)
        if waiting is not None and len(waiting) < ACKS_MAX:
            waiting.append(_item(effect))
        elif self._put(self._queue, effect):
            self._acks[effect.report.sender] = [*(waiting or ()), _item(effect)]

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(self._send_forever(self._queue, self._message))
            for _ in range(JOINERS):
                group.create_task(self._send_forever(self._joins, self._start_of_joined))

    def _put(self, queue: asyncio.Queue[AnySendable], effect: AnySendable) -> bool:
        try:
            queue.put_nowait(effect)
        except asyncio.QueueFull:
            self._dropped.labels(type(effect).__name__).inc()
            return False
        return True

    async def _send_forever(
        self, queue: asyncio.Queue[AnySendable], write: Callable[[AnySendable], Awaitable[Message | None]]
    ) -> None:
        while True:
            effect = await queue.get()
            kind = type(effect).__name__
            try:
                message = await write(effect)
                if message is None:
                    continue
                sent = await self._bus.publish(message)
            except PropellerError as error:
                logger().warning("message not sent", kind=kind, error=error.message, code=error.reason)
                sent = False
            except Exception as error:  # noqa: BLE001 - one message must not end the manager
                logger().error("bug: message not sent", kind=kind, exc_info=error)
                sent = False
            (self._sent if sent else self._dropped).labels(kind).inc()
            if not sent and isinstance(effect, e.SendStart):
                await self._post(_unsent(effect))

    async def _message(self, effect: Sendable) -> Message | None:
        match effect:
            case e.SendStart():
                return await self._start(effect)
            case e.SendStop():
                return stop_message(effect, self._config)
            case e.SendAck():
                return self._ack(effect.report.sender)
            case e.SendWelcome():
                welcome = codec.encode(Welcome(protocol=2, heartbeat_s=self._config.heartbeat_s))
                topic = self._config.topics.from_manager(FromManager.WELCOME, effect.proplet_id)
                return Message(topic, welcome)

    def _ack(self, sender: str) -> Message | None:
        """What is to be acknowledged to that proplet by now; None if an earlier message took it along."""
        items = self._acks.pop(sender, None)
        if items is None:
            return None
        topic = self._config.topics.from_manager(FromManager.ACK, sender)
        return Message(topic, codec.encode(Ack(events=items)))

    async def _start(self, effect: e.SendStart) -> Message | None:
        task, seed = effect.task, 0
        if not self._still_wanted(effect):
            return None
        if task.federated:
            launch = await self._store.launch(task.round_id)
            if launch is None or task.id not in launch.tasks.values():
                self._put(self._joins, effect)
                return None
            seed = launch.seed
        return await self._written(effect, seed)

    def _still_wanted(self, effect: e.SendStart) -> bool:
        """Whether the attempt is still the live one: its start may have waited here longer than it lived."""
        run = self._engine().ledger.runs.get(effect.task.id)
        attempt = run.live_attempt if run and run.number == effect.run.number else None
        return attempt is not None and attempt.number == effect.run.attempts[-1].number

    async def _start_of_joined(self, effect: e.SendStart) -> Message | None:
        if self._still_wanted(effect) and await self._joined(effect, effect.run.attempts[-1].proplet_id):
            return await self._written(effect, seed=0)
        return None

    async def _written(self, effect: e.SendStart, seed: int) -> Message | None:
        attempt = effect.run.attempts[-1]
        parents = await self._parent_results(effect) if effect.task.depends_on else None
        if parents is not None and sum(map(len, parents.values())) > limits.PARENT_RESULTS_BYTES_MAX:
            error = TooLarge(
                f"the results of its dependencies are over {limits.PARENT_RESULTS_BYTES_MAX} bytes together",
                code="parent_results",
            )
            await self._post(_refusal(effect, error, cause="dispatch"))
            return None
        proplet = self._engine().ledger.proplets.get(attempt.proplet_id)
        return await start_message(effect, proplet, seed, self._config, self._blobs, parents)

    async def _parent_results(self, effect: e.SendStart) -> dict[str, bytes]:
        """What the runs that this one answers to came to, where they completed."""
        found = {}
        for parent in dict.fromkeys(effect.task.depends_on):
            run = effect.run.answers.get(parent, 0)
            state = await self._store.run_state(parent, run)
            if state is RunState.COMPLETED:
                found[parent] = await self._store.results_of(parent, run) or b"null"
        return found

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
            if await self._took_part(self._coordinator, effect.task.round_id, participant):
                return True
            await self._post(_refusal(effect, error, cause="coordinator"))
            return False
        return True

    async def _took_part(self, coordinator: CoordinatorClient, round_id: str, participant: str) -> bool:
        """Whether it has joined that round already, which has closed since.

        An earlier start may be at work, and the round have closed because of it: a repetition ends nothing. A
        proplet that lost its disk trains again, and its update counts as the one that it is.
        """
        known = await coordinator.round(round_id)
        return known is not None and known.closed and participant in known.participants


def _unsent(effect: e.SendStart) -> e.StartUnsent:
    attempt = effect.run.attempts[-1].number
    return e.StartUnsent(
        task_id=effect.task.id, run=effect.run.number, attempt=attempt, cause="not published"
    )


def _refusal(effect: e.SendStart, error: PropellerError, *, cause: str) -> e.DispatchRefused:
    return e.DispatchRefused(
        task_id=effect.task.id,
        run=effect.run.number,
        attempt=effect.run.attempts[-1].number,
        error=error.message,
        failure=error.reason,
        cause=cause,
    )


def _item(effect: e.SendAck) -> AckItem:
    report = effect.report
    return AckItem(task_id=report.task_id, run=report.run, attempt=report.attempt, kind=report.kind)
