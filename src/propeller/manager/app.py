"""The manager wired together from ports: service, routes and the tasks that keep it going.

Whoever builds it (`roles/`, a simulated world) chooses the adapters, serves `app`, and runs `run`.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from litestar import Litestar

from propeller.core.events import PinImage, SaveRun
from propeller.errors import PropellerError
from propeller.http.server import Offload, create_app
from propeller.http.sweeping import Sweeper
from propeller.manager.api.flows import flow_routes
from propeller.manager.api.history import history_routes
from propeller.manager.api.invoke import invoke_routes
from propeller.manager.api.logs import log_routes
from propeller.manager.api.operation import operation_routes
from propeller.manager.api.proplets import proplet_routes
from propeller.manager.api.rounds import round_routes
from propeller.manager.api.services import service_routes
from propeller.manager.api.tasks import task_routes
from propeller.manager.chunks import ImageChunks
from propeller.manager.config import ManagerConfig
from propeller.manager.coordinator import CoordinatorClient
from propeller.manager.cron import Cron
from propeller.manager.flows import Flows
from propeller.manager.handles import Handles
from propeller.manager.invoke import Invocations
from propeller.manager.keeping import Keeping, policy_of
from propeller.manager.listen import Listener
from propeller.manager.logs import Logs, LogStore
from propeller.manager.losses import Losses
from propeller.manager.measures import Measures
from propeller.manager.outgoing import Outgoing
from propeller.manager.pins import Pins
from propeller.manager.rounds import Rounds
from propeller.manager.scaling import Scaling
from propeller.manager.shell import Effect, Shell
from propeller.manager.tasks import Tasks
from propeller.ports import BlobFiles, Bus, BusSession, Clock, Http, ImageSupply
from propeller.storage.blobs import FileBlobs
from propeller.storage.manager_store import ROLE as STORAGE_ROLE
from propeller.storage.manager_store import SqlManagerStore
from propeller.storage.opening import open_database
from propeller.storage.task_logs import FileTaskLogs, MemoryTaskLogs
from propeller.stores.manager import ManagerStore
from propeller.telemetry.logs import logger
from propeller.telemetry.metrics import RoleMetrics
from propeller.wire.topics import FromProplet

ROLE = "manager"
_BACKGROUND_MAX = 256
"""Round messages at work at the same time; each may wait for the coordinator."""


class Manager:
    """One manager. Call `recover`, then serve `app` and await `run` until it is cancelled."""

    def __init__(
        self,
        config: ManagerConfig,
        *,
        store: ManagerStore,
        blobs: BlobFiles,
        bus: Bus,
        http: Http,
        clock: Clock,
        random: Random,
        metrics: RoleMetrics | None = None,
        logs: LogStore | None = None,
        images: ImageSupply | None = None,
        offload: Offload = asyncio.to_thread,
    ) -> None:
        self._config = config
        self._bus = bus
        self._background: set[asyncio.Task[None]] = set()
        metrics = metrics or RoleMetrics(ROLE)
        coordinator = CoordinatorClient(http, config.coordinator_url) if config.coordinator_url else None
        self.shell = Shell(
            store=store,
            clock=clock,
            metrics=metrics,
            perform=self._perform,
            saved=self._saved,
            # Drawn for every event; the system's own randomness is a call of the kernel each time.
            luck=Random(random.getrandbits(64)).random,  # noqa: S311 - pauses, no secrets
            heartbeat_s=config.heartbeat_s,
            pins=images is not None,
        )
        self._pins = Pins(images, aliases=config.aliases, post=self.shell.post) if images else None
        self._chunks = ImageChunks(
            config=config, bus=bus, blobs=blobs, images=images, engine=lambda: self.shell.engine
        )
        self._outgoing = Outgoing(
            config=config,
            bus=bus,
            blobs=blobs,
            store=store,
            coordinator=coordinator,
            metrics=metrics,
            engine=lambda: self.shell.engine,
            post=self.shell.post,
        )
        self.tasks = Tasks(
            store=store,
            shell=self.shell,
            blobs=blobs,
            clock=clock,
            random=random,
            coordinator=coordinator,
            offload=offload,
        )
        self.flows = Flows(
            store=store, tasks=self.tasks, clock=clock, random=random, default_mode=config.job_mode
        )
        self.cron = Cron(store=store, tasks=self.tasks, clock=clock)
        self.rounds = Rounds(
            config=config,
            store=store,
            tasks=self.tasks,
            bus=bus,
            clock=clock,
            random=random,
            coordinator=coordinator,
            offload=offload,
        )
        self._losses = Losses(store=store, coordinator=coordinator)
        self.invocations = Invocations(
            topics=config.topics,
            bus=bus,
            store=store,
            clock=clock,
            random=random,
            engine=lambda: self.shell.engine,
        )
        log_store = logs or MemoryTaskLogs()
        self.logs = Logs(log_store, clock=clock, engine=lambda: self.shell.engine)
        self._measures = Measures(store=store, clock=clock, engine=lambda: self.shell.engine, metrics=metrics)
        self._scaling = Scaling(
            invocations=self.invocations,
            measures=self._measures,
            clock=clock,
            engine=lambda: self.shell.engine,
            post=self.shell.post,
        )
        policy = policy_of(config.retention)
        self._sweeper = Sweeper(
            {str(kind): keep for kind, keep in policy.items()},
            config.retention.every_s,
            Keeping(store, blobs, log_store, clock, policy).sweep,
        )
        self._listener = Listener(
            topics=config.topics,
            rounds=self.rounds,
            post=self.shell.post,
            spawn=self._spawn,
            mirror_root=config.mirror_root,
            wish=self._chunks.heard,
            answers={
                FromProplet.INVOKE_RESULTS: self.invocations.heard,
                FromProplet.LOGS: self.logs.heard,
                FromProplet.METRICS: self._measures.proplet,
                FromProplet.TASK_METRICS: self._measures.task,
            },
            metrics=metrics,
        )
        handles = Handles(self.tasks, coordinator)
        self.app: Litestar = create_app(
            ROLE,
            [
                *task_routes(self.tasks, handles, blobs),
                *service_routes(self.tasks, handles),
                *invoke_routes(self.invocations),
                *log_routes(self.logs, self.tasks),
                *flow_routes(self.flows),
                *history_routes(self.tasks, store),
                *operation_routes(self.tasks),
                *proplet_routes(self.tasks),
                *round_routes(self.rounds, coordinator),
                *self._sweeper.routes(),
            ],
            metrics,
            self._health,
            offload=offload,
            description="Takes tasks and gives them to proplets.",
        )

    async def recover(self) -> None:
        """Load what was live when the last manager on this store ended."""
        await self.shell.recover()

    async def run(self) -> None:
        """Work until cancelled."""
        session = BusSession(subscriptions=self._config.topics.manager_subscriptions())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.shell.run())
                group.create_task(self._outgoing.run())
                group.create_task(self._chunks.run())
                group.create_task(self.logs.run())
                group.create_task(self._bus.run(session, self._listener))
                group.create_task(self.rounds.resume())
                group.create_task(self._losses.run())
                group.create_task(self.flows.run())
                group.create_task(self.cron.run())
                group.create_task(self._measures.run())
                group.create_task(self._scaling.run())
                group.create_task(self._sweeper.run())
        finally:
            if self._pins:
                await self._pins.close()
            for task in self._background:
                task.cancel()

    def _saved(self, change: SaveRun) -> None:
        if change.flow_id:
            self.flows.changed(change.flow_id)
        self._losses.ended(change)

    async def _perform(self, effect: Effect) -> None:
        if not isinstance(effect, PinImage):
            await self._outgoing.perform(effect)
        elif self._pins:
            self._pins.ask(effect)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the message loop; its failure is logged, as nobody waits for it.

        Over the bound it is dropped: who asks for rounds repeats it.
        """
        if len(self._background) >= _BACKGROUND_MAX:
            work.close()
            logger().warning("round message dropped", at_work=len(self._background))
            return
        task = asyncio.create_task(_guarded(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _health(self) -> dict[str, Any]:
        return {
            "status": "pass",
            "description": "manager service",
            "commit": "none",
            "build_time": "unknown",
            "instance_id": self._config.instance_id,
        }


@asynccontextmanager
async def opened(
    config: ManagerConfig,
    data_dir: Path,
    *,
    bus: Bus,
    http: Http,
    clock: Clock,
    random: Random,
    images: ImageSupply | None = None,
    database_url: str = "",
    metrics: RoleMetrics | None = None,
) -> AsyncIterator[Manager]:
    """A recovered manager over `manager.db` and `manager-blobs` in `data_dir`, which are its alone meanwhile.

    With `images` every run of a tagged image has the digest that the tag had at its start; without, proplets
    look tags up. Raises what `open_database` raises. Bus and HTTP client stay the caller's to close.
    """
    database = await open_database(
        database_url, data_dir / "manager.db", role=STORAGE_ROLE, base=config.topics.base
    )
    try:
        blobs = FileBlobs(data_dir / "manager-blobs")
        await blobs.clear_unfinished()
        store = SqlManagerStore(database, clock)
        manager = Manager(
            config,
            store=store,
            blobs=blobs,
            bus=bus,
            http=http,
            clock=clock,
            random=random,
            metrics=metrics,
            logs=FileTaskLogs(data_dir / "task-logs"),
            images=images,
        )
        await manager.recover()
        yield manager
    finally:
        await database.close()


async def _guarded(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except PropellerError as error:
        logger().error("round work failed", error=error.message, code=error.reason)
    except Exception as error:  # noqa: BLE001 - the boundary of a task that nobody waits for
        logger().error("bug: round work failed", exc_info=error)
