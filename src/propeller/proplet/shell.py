"""Runs a proplet's agent on its ports: messages in, commands out, one event at a time. Decides nothing.

One owner (`Proplet.run`) feeds the agent; the bus and the work on attempts only put events into its inbox.
What is said of an attempt, and every delivery, waits in the saver until what must be durable is. The same
shell runs on a device and inside a simulated world: time, randomness, threads, files and network are ports.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial

from propeller.core.ids import new_id
from propeller.errors import Bug, PropellerError
from propeller.ports import BusSession, GuestLimits, Message
from propeller.proplet import events as e
from propeller.proplet.account import Account
from propeller.proplet.agent import Agent
from propeller.proplet.assembly import Means, Voice, assemble, build_monitor
from propeller.proplet.bell import Bell
from propeller.proplet.counters import Counters
from propeller.proplet.data import OwnData
from propeller.proplet.delivery import Verdicts
from propeller.proplet.ear import Ear
from propeller.proplet.functions import Functions
from propeller.proplet.inbound import read
from propeller.proplet.job import Fetched
from propeller.proplet.outbox import Outbox
from propeller.proplet.parcel import Sizes
from propeller.proplet.place import Identity, Offer, PropletPorts
from propeller.proplet.records import Outcome
from propeller.proplet.saving import Aftermath, Saver
from propeller.proplet.services import Services
from propeller.proplet.work import deliver_update, run_guest
from propeller.wire import codec
from propeller.wire.messages import (
    Alive,
    AttemptEvent,
    AttemptKey,
    HeldAttempt,
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
"""Events that are decided on before anybody else has a turn."""
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
        data: OwnData | None = None,
        guest_limits: GuestLimits | None = None,
        offer: Offer | None = None,
        sizes: Sizes | None = None,
    ) -> None:
        means = Means(
            services=services,
            data=data,
            guest_limits=guest_limits or GuestLimits(),
            offer=offer or Offer(),
            sizes=sizes or Sizes(),
        )
        self.counters = Counters()
        self._account = Account(ports.log, self.counters)
        self._me = identity
        self._ports = ports
        self._boot = new_id(ports.random)
        self._agent = Agent(identity.id, slots=identity.slots, heartbeat_s=identity.heartbeat_s)
        self._verdicts = Verdicts()
        self._ear = Ear(ports.bus, identity.topics)
        self._monitor = build_monitor(identity, ports, means.offer, self._measured)
        self._functions = Functions(
            identity.id,
            ports.invoker or ports.runtime,
            workers=means.offer.call_workers,
            answer=lambda result: self._publish(FromProplet.INVOKE_RESULTS, codec.encode(result)),
        )
        self._bench = assemble(
            identity,
            ports,
            means,
            ear=self._ear,
            verdicts=self._verdicts,
            functions=self._functions,
            monitor=self._monitor,
            voice=Voice(logged=self._logged, fetched=self._fetched, failed=self._defect),
        )
        self._inbox: deque[e.Event] = deque()
        self._wake = Bell()
        self._outbox = Outbox(ports.bus, ports.log)
        self._saver = Saver(
            ports.spool,
            ports.workspace,
            clock=ports.clock,
            offload=ports.offload,
            log=ports.log,
            counters=self.counters,
            aftermath=Aftermath(do=self._do, put=self._put, failed=self._handle, end=self._kill),
        )
        self._room = asyncio.Event()
        self._tasks: dict[AttemptKey, asyncio.Task[e.UpdateMade | e.Serving | e.GuestEnded]] = {}
        self._group: asyncio.TaskGroup | None = None
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
            group.create_task(self._saver.run())
            if self._monitor is not None:
                group.create_task(self._monitor.run())
            self._group = group
            try:
                await self._decide()
            finally:
                # The bus is still up here: the group ends its tasks only after this block.
                if self._polite:
                    await self._farewell()

    async def _decide(self) -> None:
        self._handle(e.Booted())
        while True:
            for event in await self._next():
                self._handle(event)
            # A flood of messages must not keep the rest of the loop from its turn.
            await asyncio.sleep(0)

    async def _next(self) -> list[e.Event]:
        """What is next: a timer that is due goes before messages, so that no flood silences a proplet."""
        while True:
            now_s = self._ports.clock.now().mono_s
            if self._agent.heartbeat_due_s <= now_s:
                return [e.HeartbeatDue()]
            if self._agent.resend_due_s <= now_s:
                return [e.ResendDue()]
            if self._inbox:
                self._room.set()
                return [self._inbox.popleft() for _ in range(min(len(self._inbox), GROUP_MAX))]
            await self._wake.wait(min(self._agent.heartbeat_due_s, self._agent.resend_due_s) - now_s)

    async def _farewell(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._ports.bus.publish(self._offline())

    # --- in --------------------------------------------------------------------------------------------

    async def _on_connect(self) -> None:
        self.counters.connects += 1
        self._put(e.Connected())

    async def _on_message(self, message: Message) -> None:
        if self._ear.hear(message):
            return
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
            if self._group is not None:
                self._functions.invoke(inbound, self._group.create_task)
            return
        while len(self._inbox) >= INBOX_MAX:
            self._room.clear()
            await self._room.wait()
        self._put(inbound)

    def _put(self, event: e.Event) -> None:
        self._inbox.append(event)
        self._wake.ring()

    # --- out -------------------------------------------------------------------------------------------

    def _handle(self, event: e.Event) -> None:
        """Decide on an event, and do what follows or leave it with what it waits for."""
        events = [event]
        match event:
            case e.GuestStarted(key) | e.Serving(key):
                if self._saver.hold_back(event, key):
                    return
            case e.UpdateMade(key=key) | e.GuestEnded(key):
                events = [*self._saver.held_back(key), event]
        for one in events:
            self._account.note(one, self._agent)
            for command in self._agent.handle(one, self._ports.clock.now().mono_s):
                self._follow(command)

    def _follow(self, command: e.Command) -> None:
        """Do a command, now or once what it follows from is durable."""
        saver = self._saver
        match command:
            case e.SaveHeld(held, required):
                saver.save(held, required=required)
            case e.Forget(key):
                saver.bury(key)
            case e.PublishEvent(key) | e.PublishFinished(key) if saver.then(key, command):
                pass
            case e.Deliver(held) if saver.then(held.key, command):
                pass
            case e.Run(held) if saver.in_trouble and saver.then(held.key, command):
                pass
            case _:
                self._do(command)

    def _do(self, command: e.Command) -> None:
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
                    attempts=[one for one in attempts if self._saver.taken(_key_of(one))],
                    boot=self._boot,
                )
                self._publish(FromProplet.ALIVE, codec.encode(alive))
            case e.PublishCreate():
                self._announce()
            case e.Run(held):
                self._begin(held.key, run_guest(held, self._bench, self._put))
            case e.Deliver(held):
                self._begin(held.key, deliver_update(held, self._bench))
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

    # --- work ------------------------------------------------------------------------------------------

    def _begin(
        self, key: AttemptKey, work: Coroutine[None, None, e.UpdateMade | e.Serving | e.GuestEnded]
    ) -> None:
        if self._group is None:
            raise Bug(f"work on {key} before the proplet lives")
        task = self._group.create_task(work)
        self._tasks[key] = task
        # A callback, because a task that is killed before its first step runs none of its own code.
        task.add_done_callback(lambda done: self._over(key, done))

    def _over(self, key: AttemptKey, task: "asyncio.Task[e.UpdateMade | e.Serving | e.GuestEnded]") -> None:
        del self._tasks[key]
        if task.cancelled():
            self._put(_killed(key))
        elif task.exception() is None:
            self._put(task.result())

    def _kill(self, key: AttemptKey) -> None:
        """End the attempt's work; if it is over already, its event is in the inbox."""
        if (task := self._tasks.get(key)) is not None:
            task.cancel()
        elif self._saver.recall(key):
            self._put(_killed(key))
        self._functions.withdraw(key)

    # --- accounts --------------------------------------------------------------------------------------

    def _fetched(self, module: Fetched) -> None:
        self.counters.fetched_bytes += module.bytes_fetched

    def _defect(self, attempt: str, error: Exception) -> None:
        self._ports.log.error("defect while working on an attempt", task=attempt, exc_info=error)


def _killed(key: AttemptKey) -> e.GuestEnded:
    return e.GuestEnded(key, Outcome(error="killed", failure="stopped"))


def _key_of(held: HeldAttempt) -> AttemptKey:
    return AttemptKey(task_id=held.task_id, run=held.run, attempt=held.attempt)
