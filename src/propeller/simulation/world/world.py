"""The whole system in one process: manager, coordinator, aggregator, registry, data store, broker, proplets.

Every shell is the real one, on in-memory ports under a virtual clock. What a node keeps on disk survives its
crashes here too; everything else it forgets. The world is a pure function of its seed and climate.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from random import Random
from typing import Any, TypeVar

from propeller.bus.memory import MemoryBroker, MemoryBus
from propeller.core.retention import Keep, Retention
from propeller.errors import Bug
from propeller.federation.aggregator import app as aggregator
from propeller.federation.coordinator import app as coordinator
from propeller.federation.coordinator.settings import CoordinatorSettings
from propeller.federation.data_store import app as data_store
from propeller.federation.model_registry import app as model_registry
from propeller.federation.offload import inline
from propeller.http.memory import MemoryHttp
from propeller.http.reuse import Parsed, routes_parsed_once
from propeller.images.models import OciModels
from propeller.images.registry.app import RegistryApp
from propeller.images.registry.index import MemoryIndex
from propeller.manager.app import Manager
from propeller.manager.config import ManagerConfig
from propeller.proplet.offload import at_once
from propeller.proplet.parcel import Sizes
from propeller.proplet.place import Identity, PropletPorts
from propeller.proplet.services import Services
from propeller.proplet.settings import ServiceUrls
from propeller.proplet.shell import Proplet
from propeller.proplet.spool import MemorySpool
from propeller.simulation.world.chronicle import ROLES, Chronicle
from propeller.simulation.world.guests import VirtualData, VirtualImages, VirtualRuntime, rows_of
from propeller.simulation.world.loop import VirtualClock, VirtualLoop, run_virtual
from propeller.simulation.world.node import Brittle, Node
from propeller.simulation.world.rounds_witness import CoordinatorWitness
from propeller.simulation.world.weather import CALM, Climate, Weather
from propeller.simulation.world.witness import Witness
from propeller.storage.coordinator_memory import MemoryCoordinatorStore
from propeller.storage.dataset_store import MemoryDatasetStore
from propeller.storage.manager_memory import MemoryManagerStore
from propeller.storage.memory_blobs import MemoryBlobs
from propeller.storage.model_memory import MemoryModelStore
from propeller.telemetry.logs import logger
from propeller.wire.topics import Topics

T = TypeVar("T")

TOPICS = Topics("world", "fl")
MANAGER = "http://manager:7070"
COORDINATOR = "http://coordinator:8086"
AGGREGATOR = "http://aggregator:8085"
REGISTRY = "http://registry:8084"
DATA_STORE = "http://data-store:8083"
OCI = "oci:5000"
_URLS = ServiceUrls(manager=MANAGER, coordinator=COORDINATOR, model_registry=REGISTRY, data_store=DATA_STORE)
_SECRET = b"a world's secret"
_HEARTBEAT_S = 5.0
_SHORT = Keep(last=1, max_age_s=10.0)
_TIDY = Retention(models=_SHORT, updates=_SHORT, runs=_SHORT, events=_SHORT, metrics=_SHORT, every_s=0.0)
"""What a sweep leaves; nobody sweeps unless an errand asks for it."""
_ROUTES: Parsed = {}
"""The applications of this process; its worlds follow one another."""
_SIZES = Sizes(message=160, piece=64)
"""So small that every update by MQTT comes in pieces."""
_COMMIT_DEATH = 0.01
"""Chance that a commit is the moment of a crash, while the storm lasts."""


class World:
    """A running world. Make one with `running`; `nodes` can be crashed and started by name."""

    def __init__(
        self,
        seed: int,
        loop: VirtualLoop,
        *,
        proplets: int,
        climate: Climate,
        chronicle: Chronicle,
        lonely: bool = False,
    ) -> None:
        self.seed = seed
        self.clock = VirtualClock(loop)
        self.chronicle = chronicle
        chronicle.clock = loop.time
        self.witness = Witness()
        """Watches what the manager commits."""
        self.rounds = CoordinatorWitness()
        """Watches what the coordinator commits."""
        self.weather = Weather(
            climate, self._random("weather"), lambda what: chronicle.fault("network", what)
        )
        self.disks = Weather(climate, self._random("disks"))
        """Draws apart from the network's, so that one's bad luck does not shift the other's."""
        self.broker = MemoryBroker(decide=self.weather.deliveries)
        self.images = VirtualImages()
        self.http = MemoryHttp(self.weather.request)
        """What the nodes use; loses requests as the weather goes."""
        self.calm_http = MemoryHttp()
        """What the world's observer uses: to the same servers, without weather."""
        self.manager_store = MemoryManagerStore(self.clock)
        self.manager_blobs = MemoryBlobs()
        self.coordinator_store = MemoryCoordinatorStore()
        self.coordinator_blobs, self.coordinator_pieces = MemoryBlobs(), MemoryBlobs()
        self.coordinator_copies = MemoryBlobs()
        self.models = MemoryModelStore()
        oci = RegistryApp(MemoryBlobs(), MemoryIndex(), self.clock, self._random("oci"))
        self.http.register(f"http://{OCI}", oci)
        self.calm_http.register(f"http://{OCI}", oci)
        self.datasets = MemoryDatasetStore()
        self.proplet_ids = [f"proplet-{number}" for number in range(1, proplets + 1)]
        self.by_broker: set[str] = set()
        """Proplets that take their modules by the broker, from their next start on."""
        self.broker_only = self.proplet_ids[-1] if lonely else ""
        """This one, if any, reaches nothing but the broker; its data set is its own."""
        self.spools = {name: MemorySpool() for name in self.proplet_ids}
        self.nodes = {node.name: node for node in self._make_nodes()}
        self.manager: Manager | None = None
        self._storm = self._random("storm")
        self._commit_deaths = climate.crashes

    def _random(self, purpose: str) -> Random:
        """A generator of its own for each purpose, so that one's draws do not shift another's."""
        return Random(f"{self.seed}/{purpose}")  # noqa: S311 - a world must replay, not keep secrets

    def check_alive(self) -> None:
        """Raise `Bug` if a node ended without being killed: no message or fault may do that."""
        for node in self.nodes.values():
            if node.failure is not None:
                raise Bug(f"{node.name} died by itself in world {self.seed}") from node.failure

    # --- nodes -----------------------------------------------------------------------------------------

    def _make_nodes(self) -> list[Node]:
        return [
            Node("manager", self._live_manager, self._cuts("manager", MANAGER)),
            Node("coordinator", self._live_coordinator, self._cuts("coordinator", COORDINATOR)),
            Node("aggregator", self._live_aggregator, self._cuts("aggregator", AGGREGATOR)),
            Node("registry", self._live_registry, self._cuts("registry", REGISTRY)),
            Node("data-store", self._live_data_store, self._cuts("data-store", DATA_STORE)),
            *(Node(name, self._proplet_life(name), self._cuts(name)) for name in self.proplet_ids),
        ]

    def _cuts(self, name: str, origin: str | None = None) -> list[Callable[[], None]]:
        cuts: list[Callable[[], None]] = [lambda: self.broker.disconnect(name)]
        if origin is not None:
            cuts.append(lambda: self._unserve(origin))
        return cuts

    def _serve(self, origin: str, app: Any) -> None:
        self.http.register(origin, app)
        self.calm_http.register(origin, app)

    def _unserve(self, origin: str) -> None:
        self.http.unregister(origin)
        self.calm_http.unregister(origin)

    async def _serving(self, origin: str, app: Any, work: Awaitable[None] | None = None) -> None:
        self._serve(origin, app)
        try:
            await (work if work is not None else asyncio.Event().wait())
        finally:
            self._unserve(origin)

    def _dies(self, name: str) -> Callable[[], bool]:
        def dies() -> bool:
            raging = self.clock.now().mono_s < self.weather.climate.storm_s
            if not raging or not self._commit_deaths or self._storm.random() >= _COMMIT_DEATH:
                return False
            self._commit_deaths -= 1
            self.chronicle.fault(name, "dies at a commit")
            self.crash(name)
            return True

        return dies

    def _no_room(self, name: str) -> Callable[[], bool]:
        def no_room() -> bool:
            if not self.disks.no_room():
                return False
            self.chronicle.fault(name, "has no room for a commit")
            return True

        return no_room

    def _witnessed(self, changes: Any) -> None:
        self.witness.saw(changes, self.manager_store.tasks_by_id)

    async def _live_manager(self) -> None:
        config = ManagerConfig(
            topics=TOPICS,
            heartbeat_s=_HEARTBEAT_S,
            public_url=MANAGER,
            coordinator_url=COORDINATOR,
            model_registry_url=REGISTRY,
            data_store_url=DATA_STORE,
            fl_secret=_SECRET,
            retention=_TIDY,
        )
        boot = self.nodes["manager"].crashes
        manager = Manager(
            config,
            store=Brittle(
                self.manager_store, self._dies("manager"), self._no_room("manager"), self._witnessed
            ),
            blobs=self.manager_blobs,
            bus=MemoryBus(self.broker, "manager", random=self._random(f"manager bus {boot}")),
            images=self.images,
            http=self.http,
            clock=self.clock,
            random=self._random(f"manager {boot}"),
            offload=inline,
        )
        await manager.recover()
        self.manager = manager
        await self._serving(MANAGER, manager.app, manager.run())

    async def _live_coordinator(self) -> None:
        boot = self.nodes["coordinator"].crashes
        built, app = await coordinator.build(
            settings=CoordinatorSettings(
                topics=TOPICS,
                registry_url=REGISTRY,
                aggregator_url=AGGREGATOR,
                token_secret=_SECRET,
                retention=_TIDY,
            ),
            store=Brittle(
                self.coordinator_store,
                self._dies("coordinator"),
                self._no_room("coordinator"),
                self.rounds.saw,
            ),
            blobs=self.coordinator_blobs,
            pieces=self.coordinator_pieces,
            copies=self.coordinator_copies,
            bus=MemoryBus(self.broker, "coordinator", random=self._random(f"coordinator bus {boot}")),
            http=self.http,
            clock=self.clock,
            offload=inline,
            random=self._random(f"coordinator {boot}"),
        )
        await self._serving(COORDINATOR, app, built.run())

    async def _live_aggregator(self) -> None:
        await self._serving(AGGREGATOR, aggregator.build(offload=inline))

    async def _live_registry(self) -> None:
        await model_registry.seed(self.models, self.clock)
        keeping, holds, sweeper = model_registry.keeper(
            self.models,
            self.clock,
            self.http,
            coordinator_url=COORDINATOR,
            publish_to="",
            retention=_TIDY,
        )
        app = model_registry.build(
            store=self.models,
            clock=self.clock,
            offload=inline,
            artifacts=OciModels(self.http, insecure=[OCI], offload=inline),
            keeping=keeping,
            holds=holds,
            sweeper=sweeper,
        )
        await self._serving(REGISTRY, app)

    async def _live_data_store(self) -> None:
        await self._serving(DATA_STORE, data_store.build(store=self.datasets, offload=inline))

    def _proplet_life(self, name: str) -> Callable[[], Awaitable[None]]:
        async def live() -> None:
            boot = self.nodes[name].crashes
            alone = name == self.broker_only
            images = None if alone or name in self.by_broker else self.images
            ports = PropletPorts(
                bus=MemoryBus(self.broker, name, random=self._random(f"{name} bus {boot}")),
                http=None if alone else self.http,
                images=images,
                runtime=VirtualRuntime(self._random(f"{name} runtime {boot}")),
                spool=self.spools[name],
                clock=self.clock,
                random=self._random(f"{name} {boot}"),
                offload=at_once,
                log=logger(),
            )
            identity = Identity(id=name, topics=TOPICS, heartbeat_s=_HEARTBEAT_S)
            services = Services(ServiceUrls() if alone else _URLS)
            data = VirtualData(rows_of(self.proplet_ids.index(name))) if alone else None
            await Proplet(identity, ports, services=services, data=data, sizes=_SIZES).run()

        return live

    # --- trouble ---------------------------------------------------------------------------------------

    def crash(self, name: str, *, down_s: float | None = None) -> None:
        """Kill a node now and start it again after `down_s` virtual seconds (default: drawn)."""
        node = self.nodes[name]
        node.crash()
        pause_s = self._storm.uniform(0.1, 8.0) if down_s is None else down_s
        self.chronicle.fault(name, f"is killed, back in {pause_s:.1f} s")
        asyncio.get_running_loop().call_later(pause_s, node.start)

    async def _rage(self) -> None:
        """Crash and cut off nodes at drawn moments until the storm is over, then clear the sky."""
        climate = self.weather.climate
        troubles: dict[Callable[[], None], int] = {
            self._crash_one: climate.crashes,
            self._long_outage: climate.outages,
            self._cut_one: climate.cuts,
            self._lose_a_disk: climate.disks_lost,
            self._set_clocks: climate.clock_jumps,
        }
        moments = [
            (self._storm.uniform(2.0, climate.storm_s), trouble)
            for trouble, times in troubles.items()
            for _ in range(times)
        ]
        for at_s, trouble in sorted(moments, key=lambda moment: moment[0]):
            await asyncio.sleep(max(0.0, at_s - self.clock.now().mono_s))
            trouble()
        await asyncio.sleep(max(0.0, climate.storm_s - self.clock.now().mono_s))
        self.weather.clear()
        self.disks.clear()
        self.chronicle.fault("sky", "clears up")

    def _crash_one(self) -> None:
        self.crash(self._storm.choice(sorted(self.nodes)))

    def _long_outage(self) -> None:
        longest_s = self.weather.climate.outage_s_max
        self.crash(self._storm.choice(sorted(self.nodes)), down_s=self._storm.uniform(8.0, longest_s))

    def _cut_one(self) -> None:
        name, seconds = self._storm.choice(self.proplet_ids), self._storm.uniform(1.0, 40.0)
        self.chronicle.fault(name, f"is cut off from the broker for {seconds:.1f} s")
        self.broker.partition(name, seconds)

    def _lose_a_disk(self) -> None:
        name = self._storm.choice(self.proplet_ids)
        self.chronicle.fault(name, "loses its disk")
        self.crash(name)
        self.spools[name] = MemorySpool()

    def _set_clocks(self) -> None:
        self.clock.skew_s = self._storm.choice((-3600.0, 0.0, 3600.0, self._storm.uniform(-60.0, 60.0)))
        self.chronicle.fault("clocks", f"all wall clocks are now wrong by {self.clock.skew_s:.0f} s")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Every node started and the storm let loose, until the end of the block."""
        for node in self.nodes.values():
            node.start()
        async with asyncio.TaskGroup() as group:
            storm = group.create_task(self._rage())
            try:
                yield
            finally:
                storm.cancel()
                self.check_alive()


def run_world(
    seed: int,
    story: Callable[[World], Awaitable[T]],
    *,
    proplets: int = 3,
    climate: Climate = CALM,
    chronicle: Chronicle | None = None,
    lonely: bool = False,
) -> T:
    """Make the world of `seed`, live `story` in it, and return what the story returns.

    With a chronicle, what happens and what the roles log goes there. `lonely`: the last proplet has no HTTP.
    Raises `Bug` if a node dies by itself, and what the story raises.
    """
    loop = VirtualLoop()

    async def main() -> T:
        told = chronicle or Chronicle()
        world = World(seed, loop, proplets=proplets, climate=climate, chronicle=told, lonely=lonely)
        async with world.running():
            return await story(world)

    names = (*ROLES, *(f"proplet-{number}" for number in range(1, proplets + 1)))
    with routes_parsed_once(_ROUTES), chronicle.listening(names) if chronicle else nullcontext():
        return run_virtual(main(), loop)
