"""Runs a proplet's agent on its ports: messages in, commands out, one event at a time. Decides nothing.

One owner (`Proplet.run`) feeds the agent; the bus and the work on attempts only put events into its inbox.
Commands are done in order, so what must be durable is durable before it is said. The same shell runs on a
device and inside a simulated world: time, randomness, threads, files and network are all ports.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial

from propeller.core.ids import new_id
from propeller.errors import EnvironmentError_, PropellerError
from propeller.ports import BusSession, GuestLimits, Message
from propeller.proplet import events as e
from propeller.proplet.account import Account
from propeller.proplet.agent import Agent
from propeller.proplet.counters import Counters
from propeller.proplet.data import LocalData
from propeller.proplet.functions import Functions
from propeller.proplet.inbound import read
from propeller.proplet.job import Fetched, Supply
from propeller.proplet.monitor import Monitor
from propeller.proplet.observe import Observer
from propeller.proplet.outbox import Outbox
from propeller.proplet.place import Identity, Offer, PropletPorts
from propeller.proplet.records import Held, Outcome
from propeller.proplet.services import Services
from propeller.proplet.update import Courier, Verdicts
from propeller.proplet.work import Bench, deliver_update, run_guest
from propeller.wire import codec
from propeller.wire.messages import (
    Alive,
    AttemptEvent,
    AttemptKey,
    HostMetrics,
    Invoke,
    LogChunk,
    TaskMetrics,
)
from propeller.wire.rounds import Verdict
from propeller.wire.topics import FromProplet

INBOX_MAX = 1024
"""Events that may wait; beyond it the bus is made to wait."""
GROUP_MAX = 64
"""Events that are decided together, and whose saves share a sync."""
FAREWELL_S = 2.0
"""The last message of a proplet that stops may take this long."""


class Proplet:
    """One proplet. `run` it once; a simulated crash is its cancellation without the farewell (`crash`)."""

    def __init__(
        self,
        identity: Identity,
        ports: PropletPorts,
        *,
        services: Services,
        data: LocalData | None = None,
        guest_limits: GuestLimits | None = None,
        offer: Offer | None = None,
    ) -> None:
        self.counters = Counters()
        self._account = Account(ports.log, self.counters)
        self._me = identity
        self._ports = ports
        self._boot = new_id(ports.random)
        self._agent = Agent(identity.id, slots=identity.slots, heartbeat_s=identity.heartbeat_s)
        self._verdicts = Verdicts()
        offer = offer or Offer()
        self._monitor = self._build_monitor(offer)
        self._functions = Functions(
            identity.id,
            ports.invoker or ports.runtime,
            workers=offer.call_workers,
            answer=lambda result: self._publish(FromProplet.INVOKE_RESULTS, codec.encode(result)),
        )
        self._bench = self._build_bench(services, data, guest_limits or GuestLimits(), offer)
        self._inbox: deque[e.Event] = deque()
        self._wake = asyncio.Event()
        self._outbox = Outbox(ports.bus, ports.log)
        self._room = asyncio.Event()
        self._tasks: dict[AttemptKey, asyncio.Task[e.UpdateMade | e.Serving | e.GuestEnded]] = {}
        self._calls: asyncio.TaskGroup | None = None
        self._polite = True

    @property
    def running_tasks(self) -> int:
        """Attempts being worked on."""
        return self._agent.running

    async def run(self) -> None:
        """Work until cancelled; then say that this proplet is offline and leave the rest to the spool.

        Raises `Conflict` if the spool is in use, `StorageBroken` if it is unusable, `Denied` if the broker
        refuses the credentials.
        """
        spool = self._ports.spool
        spooled = await spool.load()
        try:
            if self._ports.workspace is not None:
                await self._ports.offload(partial(self._ports.workspace.sweep, [h.key for h in spooled.held]))
            for name in spooled.broken:
                self._ports.log.error("spool record is broken and was moved aside", file=name)
            self._agent = Agent(
                self._me.id,
                slots=self._me.slots,
                heartbeat_s=self._me.heartbeat_s,
                held=spooled.held,
                tombstones=spooled.done,
            )
            await self._live()
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
        finally:
            spool.close()

    def crash(self, task: "asyncio.Task[None]") -> None:
        """End `task`, which runs this proplet, as a killed process would: without a word."""
        self._polite = False
        task.cancel()

    # --- life ------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        topics, me = self._me.topics, self._me.id
        session = BusSession(subscriptions=topics.proplet_subscriptions(me), will=self._offline())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ports.bus.run(session, self._on_message, self._on_connect))
            group.create_task(self._outbox.send())
            if self._monitor is not None:
                group.create_task(self._monitor.run())
            self._calls = group
            try:
                await self._decide(group)
            finally:
                # The bus is still up here: the group ends its tasks only after this block.
                if self._polite:
                    await self._farewell()

    async def _decide(self, group: asyncio.TaskGroup) -> None:
        await self._handle([e.Booted()], group)
        while True:
            await self._handle(await self._next(), group)

    async def _next(self) -> list[e.Event]:
        """What is next: a timer that is due goes before messages, so that no flood silences a proplet.

        Messages that wait are taken together, as what they have saved shares a sync of the disk.
        """
        while True:
            now_s = self._ports.clock.now().mono_s
            if self._agent.heartbeat_due_s <= now_s:
                return [e.HeartbeatDue()]
            if self._agent.resend_due_s <= now_s:
                return [e.ResendDue()]
            if self._inbox:
                self._room.set()
                return [self._inbox.popleft() for _ in range(min(len(self._inbox), GROUP_MAX))]
            self._wake.clear()
            due_s = min(self._agent.heartbeat_due_s, self._agent.resend_due_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due_s == float("inf") else due_s - now_s):
                    await self._wake.wait()

    async def _farewell(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._ports.bus.publish(self._offline())

    # --- in --------------------------------------------------------------------------------------------

    async def _on_connect(self) -> None:
        self.counters.connects += 1
        self._put(e.Connected())

    async def _on_message(self, message: Message) -> None:
        try:
            inbound = read(message, self._me.topics, self._me.id)
        except PropellerError as error:
            self.counters.ignore(error.code)
            self._ports.log.warning("message ignored", topic=message.topic[:200], reason=error.message)
            return
        if isinstance(inbound, Verdict):
            self._verdicts.put(inbound)
            return
        if isinstance(inbound, Invoke):
            if self._calls is not None:
                self._functions.invoke(inbound, self._calls.create_task)
            return
        while len(self._inbox) >= INBOX_MAX:
            self._room.clear()
            await self._room.wait()
        self._put(inbound)

    def _put(self, event: e.Event) -> None:
        self._inbox.append(event)
        self._wake.set()

    # --- out -------------------------------------------------------------------------------------------

    async def _handle(self, events: Sequence[e.Event], group: asyncio.TaskGroup) -> None:
        """Decide on events in order, save what that changed together, then do the rest in order."""
        decided: list[list[e.Command]] = []
        for event in events:
            self._account.note(event, self._agent)
            decided.append(self._agent.handle(event, self._ports.clock.now().mono_s))
        saves = [one.held for commands in decided for one in commands if isinstance(one, e.SaveHeld)]
        saved = len(saves) > 1 and await self._save(*saves) is None
        done: list[AttemptKey] = []
        for commands in decided:
            await self._carry_out(commands, group, done, saved=saved)
        if done:
            await self._bury(done)

    async def _carry_out(
        self, commands: Sequence[e.Command], group: asyncio.TaskGroup, done: list[AttemptKey], *, saved: bool
    ) -> None:
        """Do what follows from one event; unless all is saved, its saves have their turn one by one."""
        for command in commands:
            if isinstance(command, e.SaveHeld):
                if not saved and (failed := await self._save(command.held)) is not None:
                    await self._handle([failed], group)
                    if command.required:
                        return
            elif isinstance(command, e.Forget):
                done.append(command.key)
            else:
                self._do(command, group)

    def _do(self, command: e.Command, group: asyncio.TaskGroup) -> None:
        match command:
            case e.PublishEvent(key, started):
                event = AttemptEvent(
                    task_id=key.task_id,
                    run=key.run,
                    attempt=key.attempt,
                    kind="started" if started else "accepted",
                )
                self._publish(FromProplet.EVENTS, codec.encode(event), key)
            case e.PublishFinished(key, payload):
                self._publish(FromProplet.RESULTS, payload, key)
            case e.PublishAlive(attempts):
                alive = Alive(
                    proplet_id=self._me.id,
                    namespace=self._me.namespace,
                    attempts=list(attempts),
                    boot=self._boot,
                )
                self._publish(FromProplet.ALIVE, codec.encode(alive))
            case e.PublishCreate():
                self._announce()
            case e.Run(held):
                self._begin(held.key, run_guest(held, self._bench, self._put), group)
            case e.Deliver(held):
                self._begin(held.key, deliver_update(held, self._bench), group)
            case e.Kill(key):
                self._kill(key)
            case e.Ignored(why, task_id):
                self.counters.ignore(why)
                self._ports.log.info("order ignored", reason=why, task_id=task_id)

    def _publish(self, kind: FromProplet, payload: bytes, attempt: AttemptKey | None = None) -> None:
        """Say something on the directed lane, perhaps about an attempt."""
        message = Message(self._me.topics.from_proplet(kind, self._me.id), payload)
        self._outbox.put(message, attempt, renews=kind is FromProplet.ALIVE)

    def _announce(self) -> None:
        # Once the directed lane is open it is said there, where nobody else can say it.
        sender = self._me.id if self._agent.welcomed else None
        topic = self._me.topics.from_proplet(FromProplet.CREATE, sender)
        self._outbox.put(Message(topic, codec.encode(self._me.announcement)), renews=True)

    def _logged(self, chunk: LogChunk) -> bool:
        """Send a piece of a log, unless the bus is behind: nothing that matters may wait for it."""
        if self._outbox.behind:
            return False
        self._publish(FromProplet.LOGS, codec.encode(chunk))
        return True

    def _measured(self, found: HostMetrics | TaskMetrics) -> None:
        if not self._outbox.behind:
            kind = FromProplet.METRICS if isinstance(found, HostMetrics) else FromProplet.TASK_METRICS
            self._publish(kind, codec.encode(found))

    def _offline(self) -> Message:
        alive = Alive(proplet_id=self._me.id, status="offline", namespace=self._me.namespace, boot=self._boot)
        return Message(self._me.topics.from_proplet(FromProplet.ALIVE, self._me.id), codec.encode(alive))

    async def _save(self, *records: Held) -> e.SaveFailed | None:
        try:
            await self._ports.spool.save(*records)
        except EnvironmentError_ as error:
            if len(records) > 1:
                return e.SaveFailed(records[0].key, error.message)  # each of them is tried by itself
            (held,) = records
            self.counters.spool_errors += 1
            self._ports.log.warning("attempt not saved", task_id=held.key.task_id, reason=error.message)
            return e.SaveFailed(held.key, error.message)
        return None

    async def _bury(self, keys: Sequence[AttemptKey]) -> None:
        try:
            if self._ports.workspace is not None:
                await self._ports.offload(partial(self._ports.workspace.forget, keys))
            await self._ports.spool.bury(*keys)
        except EnvironmentError_ as error:
            self.counters.spool_errors += 1
            self._ports.log.warning("attempts not remembered", attempts=len(keys), reason=error.message)

    # --- work ------------------------------------------------------------------------------------------

    def _begin(
        self,
        key: AttemptKey,
        work: Coroutine[None, None, e.UpdateMade | e.Serving | e.GuestEnded],
        group: asyncio.TaskGroup,
    ) -> None:
        task = group.create_task(work)
        self._tasks[key] = task
        # A callback, because a task that is killed before its first step runs none of its own code.
        task.add_done_callback(lambda done: self._over(key, done))

    def _over(self, key: AttemptKey, task: "asyncio.Task[e.UpdateMade | e.Serving | e.GuestEnded]") -> None:
        del self._tasks[key]
        if task.cancelled():
            self._put(e.GuestEnded(key, Outcome(error="killed", failure="stopped")))
        elif task.exception() is None:
            self._put(task.result())

    def _kill(self, key: AttemptKey) -> None:
        """End the attempt's work; if it is over already, its event is in the inbox."""
        if (task := self._tasks.get(key)) is not None:
            task.cancel()
        self._functions.withdraw(key)

    def _build_monitor(self, offer: Offer) -> Monitor | None:
        if self._ports.gauges is None:
            return None
        return Monitor(
            self._me.id,
            self._me.namespace,
            self._ports.gauges,
            interval_s=offer.metrics_s,
            clock=self._ports.clock,
            send=self._measured,
        )

    def _build_bench(
        self, services: Services, data: LocalData | None, guest_limits: GuestLimits, offer: Offer
    ) -> Bench:
        ports, me = self._ports, self._me
        supply = Supply(
            proplet_id=me.id,
            http=ports.http,
            images=ports.images,
            services=services,
            data=data,
            limits=guest_limits,
            offload=ports.offload,
            folders=offer.folders,
            modules=ports.modules,
            workspace=ports.workspace,
            pack=ports.pack,
        )
        courier = Courier(
            proplet_id=me.id,
            http=ports.http,
            bus=ports.bus,
            topics=me.topics,
            services=services,
            verdicts=self._verdicts,
            workspace=ports.workspace,
        )
        return Bench(
            supply=supply,
            courier=courier,
            runtime=ports.runtime,
            clock=ports.clock,
            random=ports.random,
            offload=ports.offload,
            functions=self._functions,
            observe=Observer(clock=ports.clock, send=self._logged, monitor=self._monitor).watching,
            fetched=self._fetched,
            failed=self._defect,
        )

    # --- accounts --------------------------------------------------------------------------------------

    def _fetched(self, module: Fetched) -> None:
        self.counters.fetched_bytes += module.bytes_fetched

    def _defect(self, attempt: str, error: Exception) -> None:
        self._ports.log.error("defect while working on an attempt", task=attempt, exc_info=error)
