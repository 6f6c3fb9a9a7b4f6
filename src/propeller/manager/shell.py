"""Runs the engine: events in, one commit for many, then the messages. The only owner of the engine.

The order is the promise: what an event changed is on disk before anybody hears of it. If a commit fails, or
an event shows a bug of ours, the engine is rebuilt from the store as after a crash, and who waits is told: no
event and no disk ends the manager.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from propeller import limits
from propeller.core import events as e
from propeller.core.engine import Engine
from propeller.core.ledger import Now
from propeller.errors import Bug, CallerError, PropellerError
from propeller.ports import Clock
from propeller.stores.manager import ManagerChange, ManagerStore
from propeller.telemetry.logs import logger, say
from propeller.telemetry.metrics import RoleMetrics

BATCH_EVENTS_MAX = 512
"""Events that share one commit."""
INBOX_EVENTS_MAX = 20_000
"""Events that may wait; beyond it senders wait too, which slows intake down rather than losing anything."""
_DECIDE_S_MAX = 0.02
"""How long one batch may hold the loop; what is left of it is the next batch."""

Effect = e.PinImage | e.SendStart | e.SendStop | e.SendAck | e.SendWelcome
_SAVES = (e.SaveTask, e.SaveService, e.SaveRun, e.SaveProplet, e.DropProplet)
_EFFECTS = (e.PinImage, e.SendStart, e.SendStop, e.SendAck, e.SendWelcome)


@dataclass(slots=True)
class _Item:
    event: e.Event
    done: asyncio.Future[None] | None = None


@dataclass(slots=True)
class _Batch:
    """What a batch of events came to."""

    changes: list[ManagerChange] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    broken: bool = False
    """Whether an event left the engine in doubt."""


class Shell:
    """Feeds one engine from an inbox; after commits `saved` hears of runs, `perform` sends the effects."""

    def __init__(
        self,
        *,
        store: ManagerStore,
        clock: Clock,
        metrics: RoleMetrics,
        perform: Callable[[Effect], Awaitable[None]],
        saved: Callable[[e.SaveRun], None] = lambda _saved: None,
        luck: Callable[[], float] = lambda: 0.5,
        heartbeat_s: float,
        pins: bool = False,
    ) -> None:
        self._store = store
        self._clock = clock
        self._perform = perform
        self._saved = saved
        self._luck = luck
        self._heartbeat_s = heartbeat_s
        self._pins = pins
        self._left: list[_Item] = []
        """Taken from the inbox and not yet decided."""
        self._inbox: asyncio.Queue[_Item] = asyncio.Queue(INBOX_EVENTS_MAX)
        self._ignored = metrics.counter(
            "propeller_manager_events_ignored", "Events that must not count", ["why"]
        )
        self._batches = metrics.histogram(
            "propeller_manager_batch_events", "Events per commit", buckets=(1, 2, 4, 8, 16, 64, 256, 512)
        )
        metrics.gauge("propeller_manager_inbox_events", "Events waiting").set_function(self._inbox.qsize)
        metrics.gauge("propeller_manager_live_runs", "Runs that have not ended").set_function(
            lambda: len(self.engine.ledger.runs)
        )
        self.engine = Engine(heartbeat_s=heartbeat_s, pins=pins)

    async def recover(self) -> None:
        """Rebuild the engine from the store: at start, and after a commit that failed."""
        now = self._clock.now()
        self.engine = Engine.restore(
            await self._store.live(now),
            await self._store.proplets(),
            Now(mono_s=now.mono_s, wall_s=now.wall_s),
            heartbeat_s=self._heartbeat_s,
            pins=self._pins,
            heard=self.engine.ledger.proplets,
            services=await self._store.services(),
        )

    async def post(self, event: e.Event) -> None:
        """Hand over an event and go on; waits only when the inbox is full."""
        await self._inbox.put(_Item(event))

    async def submit(self, event: e.Event) -> None:
        """Hand over an event and wait until what it changed is on disk; raises what it was refused for."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._inbox.put(_Item(event, done))
        await done

    async def run(self) -> None:
        """Work until cancelled. `recover` must have been called."""
        while True:
            items = await self._next_items()
            batch = self._decide(items)
            self._batches.observe(len(items))
            if await self._commit(batch):
                for change in batch.changes:
                    if isinstance(change, e.SaveRun):
                        self._saved(change)
                for done in batch.waiting:
                    _settle(done, None)
                for effect in batch.effects:
                    await self._perform(effect)
            if batch.broken:
                await self._recover_patiently()

    async def _next_items(self) -> list[_Item]:
        """At least one event, which is a tick if a deadline comes first."""
        if self._left:
            items, self._left = self._left, []
            return items
        pause_s = max(0.0, self.engine.next_deadline() - self._clock.now().mono_s)
        try:
            async with asyncio.timeout(None if pause_s == float("inf") else pause_s):
                items = [await self._inbox.get()]
        except TimeoutError:
            items = [_Item(e.Tick())]
        while len(items) < BATCH_EVENTS_MAX and not self._inbox.empty():
            items.append(self._inbox.get_nowait())
        return items

    def _decide(self, items: Sequence[_Item]) -> _Batch:
        batch = _Batch()
        until_s = self._clock.now().mono_s + _DECIDE_S_MAX
        for at, item in enumerate(items, start=1):
            self._decide_one(item, batch)
            if batch.broken or self._clock.now().mono_s > until_s:
                self._left = list(items[at:])
                break
        return batch

    def _decide_one(self, item: _Item, batch: _Batch) -> None:
        now = self._clock.now()
        try:
            moment = Now(mono_s=now.mono_s, wall_s=now.wall_s, luck=self._luck())
            commands = self.engine.handle(item.event, moment)
        except CallerError as error:
            _settle(item.done, error)
        except Exception as error:  # noqa: BLE001 - one event must not end the manager
            logger().error("bug: event dropped", event_kind=type(item.event).__name__, exc_info=error)
            _settle(
                item.done, Bug(f"{type(item.event).__name__} could not be decided; the log has the details")
            )
            batch.broken = True
        else:
            if item.done is not None:
                batch.waiting.append(item.done)
            self._sort(commands, batch)

    def _sort(self, commands: Sequence[e.Command], batch: _Batch) -> None:
        for command in commands:
            if isinstance(command, _SAVES):
                batch.changes.append(command)
                _tell(command)
            elif isinstance(command, _EFFECTS):
                batch.effects.append(command)
            elif isinstance(command, e.Ignored):
                self._ignored.labels(command.why).inc()
                logger().info("event ignored", why=command.why, cause=command.event.cause)

    async def _commit(self, batch: _Batch) -> bool:
        if not batch.changes:
            return True
        try:
            await self._store.commit(batch.changes)
        except PropellerError as error:
            logger().error("commit failed", error=error.message, code=error.reason)
            failure = error
        except Exception as error:  # noqa: BLE001 - one record must not end the manager
            logger().error("bug: commit failed", exc_info=error)
            failure = Bug("the change could not be stored; the log of this role has the details")
        else:
            return True
        for done in batch.waiting:
            _settle(done, failure)
        await self._recover_patiently()
        return False

    async def _recover_patiently(self) -> None:
        """The engine ran ahead of the disk: take the disk's word, as soon as it can be read."""
        while True:
            try:
                await self.recover()
            except PropellerError as error:
                logger().error("cannot recover yet", error=error.message, code=error.reason)
                await asyncio.sleep(limits.STORAGE_RETRY_S)
            except Exception as error:  # noqa: BLE001 - the next try may read what this one could not
                logger().error("bug: cannot recover yet", exc_info=error)
                await asyncio.sleep(limits.STORAGE_RETRY_S)
            else:
                return


def _settle(done: asyncio.Future[None] | None, error: PropellerError | None) -> None:
    if done is None or done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _tell(command: e.SaveTask | e.SaveService | e.SaveRun | e.SaveProplet | e.DropProplet) -> None:
    """One log line per change of a run: the story of a task can be read off the log."""
    if not isinstance(command, e.SaveRun):
        return
    run, attempt = command.run, command.run.attempt
    say(
        "run",
        task_id=run.task_id,
        run=run.number,
        state=str(run.state),
        attempt=attempt.number if attempt else 0,
        attempt_state=str(attempt.state) if attempt else "",
        proplet_id=attempt.proplet_id if attempt else "",
        reason=run.reason,
        cause=command.cause,
        **({"round_id": command.round_id} if command.round_id else {}),
    )
