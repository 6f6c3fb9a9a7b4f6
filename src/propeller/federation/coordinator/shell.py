"""The coordinator at work: decisions in batches, one commit for each, then their consequences.

One task owns the engine. A decision waits in the inbox, is made together with its neighbours, and its caller
hears of it once the store has committed all of them. If the store cannot, nothing was decided: the engine is
loaded anew and every caller gets the error. Knows no HTTP routes; `experiments` and `intake` are its doors.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any, TypeVar

from propeller import limits
from propeller.errors import Bug, CallerError, Denied, PeerRefused, PropellerError
from propeller.federation.coordinator.bodies import Work
from propeller.federation.coordinator.engine import Engine
from propeller.federation.coordinator.experiments import Experiments
from propeller.federation.coordinator.intake import Intake
from propeller.federation.coordinator.keeping import Keeping
from propeller.federation.coordinator.listener import Listener
from propeller.federation.coordinator.live import Batch
from propeller.federation.coordinator.model_topics import ModelTopics
from propeller.federation.coordinator.outbox import Outbox
from propeller.federation.coordinator.peers import Made, Peers
from propeller.federation.coordinator.settings import CoordinatorSettings
from propeller.federation.coordinator.uploads import Uploads
from propeller.federation.offload import Offload
from propeller.fl.model_ref import ModelRef
from propeller.fl.round import Round, RoundState
from propeller.fl.round_events import Aggregated, AggregationFailed
from propeller.fl.strategies.registry import strategy
from propeller.fl.token import make_token, verify_token
from propeller.fl.update import mean_metrics
from propeller.http.sweeping import Sweeper
from propeller.ports import BlobFiles, Bus, BusSession, Clock, HttpStreams, Instant
from propeller.stores.coordinator import Changes, CoordinatorStore, NoticeKind, StoredUpdate
from propeller.telemetry.logs import about, logger
from propeller.telemetry.metrics import RoleMetrics
from propeller.wire.models import EvaluatedModel, ObjectiveBody, UpdateSource

T = TypeVar("T")
BLOB = "blob"
"""What stands for the round in the token of a blob that the aggregator fetches."""


@dataclass(slots=True)
class _Item:
    """A decision to make, and who waits for it."""

    decision: Callable[[Batch, Instant], Any]
    answer: asyncio.Future[Any]
    result: Any = None
    error: CallerError | None = None


class Coordinator:
    """The role, over ports. `load` once, then `run` until cancelled; answer requests in between."""

    def __init__(
        self,
        *,
        settings: CoordinatorSettings,
        store: CoordinatorStore,
        blobs: BlobFiles,
        pieces: BlobFiles,
        copies: BlobFiles,
        bus: Bus,
        http: HttpStreams,
        clock: Clock,
        offload: Offload,
        random: Random,
        metrics: RoleMetrics,
    ) -> None:
        self.settings = settings
        self.store = store
        self.clock = clock
        self.engine = Engine()
        self._blobs = blobs
        self._bus = bus
        self._peers = Peers(
            http=http,
            registry_url=settings.registry_url,
            aggregator_url=settings.aggregator_url,
            offload=offload,
            copies=copies,
        )
        self.outbox = Outbox(bus=bus, topics=settings.topics, mirror=settings.mirror, clock=clock)
        self._models = ModelTopics(
            bus=bus, topics=settings.topics, mirror=settings.mirror, peers=self._peers, offload=offload
        )
        self.intake = Intake(
            settings=settings,
            engine=self.engine,
            store=store,
            blobs=blobs,
            peers=self._peers,
            offload=offload,
            decide=self.decide,
        )
        self.experiments = Experiments(
            engine=self.engine,
            store=store,
            peers=self._peers,
            decide=self.decide,
            random=random,
            show=self._models.show,
        )
        self._listener = Listener(
            settings=settings,
            bus=bus,
            engine=self.engine,
            intake=self.intake,
            uploads=Uploads(pieces=pieces, intake=self.intake, clock=clock),
            decide=self.decide,
            wish=self._models.hear,
        )
        keeping = Keeping(store, blobs, clock, settings.retention.updates)
        self.sweeper = Sweeper(
            {"updates": settings.retention.updates}, settings.retention.every_s, keeping.sweep
        )
        self._inbox: asyncio.Queue[_Item] = asyncio.Queue(limits.COORDINATOR_INBOX_MAX)
        self._woken = asyncio.Event()
        self._aggregating: dict[str, asyncio.Task[None]] = {}
        self._ended = metrics.counter("propeller_rounds_ended", "Rounds that ended", ["state"])
        self._counted = metrics.counter("propeller_updates_accepted", "Updates that count")
        metrics.gauge("propeller_rounds_live", "Rounds that have not ended").set_function(
            lambda: len(self.engine.rounds)
        )

    async def load(self) -> None:
        """Take up what the store holds. Call before `run`, and before requests are answered."""
        await self._peers.clear_copies()
        live = await self.store.live()
        self.engine.load(live, self.clock.now())
        self.outbox.replace(live.notices)
        for one in self.engine.rounds.values():
            self._models.show(one.round.spec.base)
        last = await self.store.last_completed()
        if last is not None and last.version is not None:
            # Its round may have been told of as over, and the model not been shown before the end came.
            self._models.show(ModelRef(name=last.spec.base.name, version=last.version))
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled."""
        session = BusSession(subscriptions=self.settings.topics.coordinator_subscriptions())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._decide_batches(tasks))
            tasks.create_task(self._watch_deadlines())
            tasks.create_task(self._expire_notices())
            tasks.create_task(self.outbox.run())
            tasks.create_task(self._models.run())
            tasks.create_task(self.sweeper.run())
            self._listener.start(tasks)
            tasks.create_task(self._bus.run(session, self._listener.hear, self._connected))

    async def decide(self, decision: Callable[[Batch, Instant], T], /) -> T:
        """Have `decision` made; returns its result once it is on disk, raises what it raised."""
        item = _Item(decision, asyncio.get_running_loop().create_future())
        await self._inbox.put(item)
        return await item.answer  # type: ignore[no-any-return]

    async def blob(self, digest: str, token: str) -> memoryview:
        """An accepted update's file. Raises `Denied` without the right token, `NotFound`."""
        secret = self.settings.token_secret
        if not secret or not verify_token(secret, BLOB, digest, token):
            raise Denied("this file is for the aggregator, which is told a token for it", code="bad_token")
        return await self._blobs.mapped(digest)

    # --- batches -------------------------------------------------------------------------------------------

    async def _decide_batches(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            items = [await self._inbox.get()]
            while len(items) < limits.COORDINATOR_BATCH_MAX and not self._inbox.empty():
                items.append(self._inbox.get_nowait())
            try:
                batch, changes = await self._commit(items)
            except Exception as error:  # noqa: BLE001 - the boundary of a batch: its callers are told
                await self._start_over(items, error)
                continue
            self._follow_up(batch, changes, tasks)
            for item in items:
                _answer(item)

    async def _commit(self, items: list[_Item]) -> tuple[Batch, Changes]:
        batch, now = Batch(), self.clock.now()
        for item in items:
            try:
                item.result = item.decision(batch, now)
            except CallerError as error:
                item.error = error
        changes = batch.changes(now)
        if changes:
            await self.store.commit(changes)
        self.engine.settle(batch)
        return batch, changes

    async def _start_over(self, items: list[_Item], error: Exception) -> None:
        """Nothing of the batch counts: forget it, and tell everyone in it."""
        logger().error("batch not committed", exc_info=error)
        loaded = await self._loaded()
        told = error if isinstance(error, PropellerError) else Bug(f"the coordinator failed: {error!r}")
        for item in items:
            if not item.answer.done():
                item.answer.set_exception(told)
        while not loaded:
            await asyncio.sleep(limits.STORAGE_RETRY_S)
            loaded = await self._loaded()

    async def _loaded(self) -> bool:
        """Whether the store's word could be taken, after a commit that was not kept."""
        try:
            await self.load()
        except Exception as error:  # noqa: BLE001 - the next try may read what this one could not
            logger().error("cannot load yet", exc_info=error)
            return False
        return True

    def _follow_up(self, batch: Batch, changes: Changes, tasks: asyncio.TaskGroup) -> None:
        self.outbox.update(changes.notices, changes.done)
        for record in changes.rounds:
            _tell_round(record.spec.round_id, record.state, record.reason, record.num_updates)
            if record.ended_wall_s is not None:
                self._ended.labels(record.state.value).inc()
            if record.state is RoundState.FAILED and (task := self._aggregating.get(record.spec.round_id)):
                task.cancel()
        for update in changes.updates:
            self._counted.inc()
            _tell_update(update)
        for round_id, participants in batch.aggregate.items():
            if round_id not in self._aggregating:
                self._aggregating[round_id] = tasks.create_task(self._aggregate(round_id, participants))
        self._woken.set()

    # --- time and acknowledgement --------------------------------------------------------------------------

    async def _watch_deadlines(self) -> None:
        while True:
            self._woken.clear()
            due = self.engine.due_mono_s()
            pause_s = None if due is None else max(0.0, due - self.clock.now().mono_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()
            except TimeoutError:
                await self._quietly(lambda batch, now: self.engine.tick(batch=batch, now=now))

    async def _expire_notices(self) -> None:
        while True:
            await self._expire(await self.outbox.expired.get())

    async def _expire(self, key: tuple[str, NoticeKind]) -> None:
        await self._quietly(lambda batch, _now: self.engine.expire(key, batch=batch))

    async def _quietly(self, decision: Callable[[Batch, Instant], None]) -> None:
        """Nobody waits for these; the store's trouble is logged where it happens, and time brings a retry."""
        try:
            await self.decide(decision)
        except PropellerError as error:
            logger().warning("put off", error=error.message)
            await asyncio.sleep(limits.ROUND_NOTICE_RETRY_S)

    async def _connected(self) -> None:
        self.outbox.hurry()
        self._models.again()

    # --- aggregation ---------------------------------------------------------------------------------------

    async def _aggregate(self, round_id: str, participants: tuple[str, ...]) -> None:
        with about(round_id=round_id):
            event: Aggregated | AggregationFailed
            try:
                event = await self._result(round_id, participants)
            except PropellerError as error:
                logger().warning("aggregation failed", error=error.message, retryable=error.retryable)
                event = AggregationFailed(
                    reason=f"{error.reason}: {error.message}"[:500], retryable=error.retryable
                )
            except Exception as error:  # noqa: BLE001 - the boundary of a task: the round gets the event
                logger().error("aggregation failed", exc_info=error)
                event = AggregationFailed(reason=f"bug: {error!r}"[:500], retryable=False)
            finally:
                # Before the event: a retry that it causes must find the place free.
                self._aggregating.pop(round_id, None)
            await self._quietly(
                lambda batch, now: self.engine.aggregation(round_id, event, batch=batch, now=now)
            )

    async def _result(self, round_id: str, participants: tuple[str, ...]) -> Aggregated:
        live = self.engine.rounds.get(round_id)
        stored = {one.record.accepted.participant: one for one in await self.store.contents(round_id)}
        if live is None or not stored.keys() >= set(participants):
            raise PeerRefused(f"round {round_id!r} lost updates of its closed set", code="updates_lost")
        chosen = [stored[participant] for participant in participants]
        if live.round.spec.mode == "evaluate":
            return await self._measured(live.round, chosen)
        return await self._made(live.round, chosen)

    async def _measured(self, round_: Round, chosen: list[StoredUpdate]) -> Aggregated:
        """What devices measured, written beside the version that it is of."""
        metrics = _mean_metrics(chosen)
        told = EvaluatedModel(
            round_id=round_.spec.round_id, metrics=_bounded(metrics), samples=round_.samples
        )
        try:
            await self._peers.evaluated(round_.spec.base, told)
        except PeerRefused as error:
            # The version is gone, or its registry is an older one; what was measured stays on record here.
            logger().warning("evaluation not kept with its model", error=error.message)
        return Aggregated(metrics=metrics)

    async def _made(self, round_: Round, chosen: list[StoredUpdate]) -> Aggregated:
        spec = self.engine.experiments[round_.spec.series].experiment.spec
        metrics, stopping = _mean_metrics(chosen), spec.stopping
        large = (await self._peers.base(round_.spec.base)).large
        made: Made = await self._peers.make(
            Work(
                round_id=round_.spec.round_id,
                base=round_.spec.base,
                participants=[one.record.accepted.participant for one in chosen],
                samples=[one.record.accepted.samples for one in chosen],
                staleness=[one.record.staleness for one in chosen],
                contents=() if large else [await self._content(one) for one in chosen],
                files=[await self._file(one) for one in chosen] if large else (),
                strategy=spec.strategy,
                strategy_version=strategy(spec.strategy).version,
                options=spec.options,
                metrics=_bounded(metrics),
                objective=ObjectiveBody(metric=stopping.metric, direction=stopping.direction)
                if stopping.metric
                else None,
            )
        )
        self._models.show(ModelRef(name=round_.spec.base.name, version=made.version), new=True)
        return Aggregated(version=made.version, model_hash=made.model_hash, metrics=metrics)

    async def _content(self, update: StoredUpdate) -> bytes:
        inline = update.content.inline
        return inline if inline is not None else await self._blobs.get(update.content.blob)

    async def _file(self, update: StoredUpdate) -> UpdateSource:
        """Where the aggregator finds the update: on a disk that both see, else here."""
        accepted, digest = update.record.accepted, update.content.blob
        path = self._blobs.file_of(digest) if self.settings.share_files else None
        token = make_token(self.settings.token_secret, BLOB, digest) if self.settings.token_secret else ""
        return UpdateSource(
            url=path.absolute().as_uri() if path else f"{self.settings.own_url}/blobs/{digest}?token={token}",
            bytes=await self._blobs.size(digest),
            sha256=digest,
            participant=accepted.participant,
            samples=accepted.samples,
            staleness=accepted.staleness,
        )


def _mean_metrics(updates: Iterable[StoredUpdate]) -> dict[str, float]:
    return mean_metrics((one.record.accepted.samples, one.record.accepted.metrics) for one in updates)


def _bounded(metrics: Mapping[str, float]) -> dict[str, float]:
    """As many as a version may have."""
    return dict(islice(metrics.items(), limits.UPDATE_METRICS_MAX))


def _answer(item: _Item) -> None:
    if item.answer.done():
        return  # its caller gave up; what was decided stands
    if item.error is not None:
        item.answer.set_exception(item.error)
    else:
        item.answer.set_result(item.result)


def _tell_round(round_id: str, state: str, reason: str, updates: int) -> None:
    more = {"reason": reason} if reason else {}
    logger().info("round " + state, round_id=round_id, num_updates=updates, **more)


def _tell_update(update: StoredUpdate) -> None:
    record = update.record
    logger().info(
        "update accepted",
        round_id=record.round_id,
        participant=record.accepted.participant,
        samples=record.accepted.samples,
        bytes=record.bytes,
    )
