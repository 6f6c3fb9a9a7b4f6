"""What a proplet works on attempts with, put together from its ports. Decides nothing.

Without HTTP everything comes and goes by the broker; that choice is made here, once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from propeller.ports import GuestLimits
from propeller.proplet.by_broker import ByBroker, NoHttp
from propeller.proplet.data import OwnData
from propeller.proplet.delivery import Courier, Verdicts
from propeller.proplet.ear import Ear
from propeller.proplet.functions import Functions
from propeller.proplet.job import Fetched, Supply
from propeller.proplet.monitor import Monitor
from propeller.proplet.observe import Observer
from propeller.proplet.parcel import Sizes
from propeller.proplet.pieces import BrokerImages
from propeller.proplet.place import Identity, Offer, PropletPorts
from propeller.proplet.services import Services
from propeller.proplet.work import Bench
from propeller.wire.messages import HostMetrics, LogChunk, TaskMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a proplet is given beside its ports."""

    services: Services
    data: OwnData | None = None
    guest_limits: GuestLimits = field(default_factory=GuestLimits)
    offer: Offer = field(default_factory=Offer)
    sizes: Sizes = field(default_factory=Sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """How the work on attempts tells the shell of itself."""

    logged: Callable[[LogChunk], bool]
    fetched: Callable[[Fetched], None]
    failed: Callable[[str, Exception], None]


def assemble(
    me: Identity,
    ports: PropletPorts,
    means: Means,
    *,
    ear: Ear,
    verdicts: Verdicts,
    functions: Functions,
    monitor: Monitor | None,
    voice: Voice,
) -> Bench:
    """The bench on which every attempt is worked on."""
    by_broker = ByBroker(bus=ports.bus, topics=me.topics, ear=ear, offload=ports.offload, clock=ports.clock)
    alone = ports.http is None
    http = ports.http or NoHttp()
    supply = Supply(
        proplet_id=me.id,
        http=http,
        images=ports.images
        or BrokerImages(ports.bus, me.topics, ear, ports.modules, ports.log, ports.offload),
        services=means.services,
        data=means.data,
        limits=means.guest_limits,
        offload=ports.offload,
        folders=means.offer.folders,
        modules=ports.modules,
        workspace=ports.workspace,
        pack=ports.pack,
        by_broker=ports.images is None,
        only_broker=by_broker if alone else None,
    )
    courier = Courier(
        proplet_id=me.id,
        http=http,
        bus=ports.bus,
        topics=me.topics,
        services=means.services,
        verdicts=verdicts,
        workspace=ports.workspace,
        offload=ports.offload,
        by_broker=alone,
        sizes=means.sizes,
    )
    return Bench(
        supply=supply,
        courier=courier,
        runtime=ports.runtime,
        clock=ports.clock,
        random=ports.random,
        offload=ports.offload,
        functions=functions,
        observe=Observer(clock=ports.clock, send=voice.logged, monitor=monitor).watching,
        fetched=voice.fetched,
        failed=voice.failed,
    )


def build_monitor(
    me: Identity, ports: PropletPorts, offer: Offer, send: Callable[[HostMetrics | TaskMetrics], None]
) -> Monitor | None:
    """What measures the host and its guests, if anything can."""
    if ports.gauges is None:
        return None
    return Monitor(
        me.id, me.namespace, ports.gauges, interval_s=offer.metrics_s, clock=ports.clock, send=send
    )
