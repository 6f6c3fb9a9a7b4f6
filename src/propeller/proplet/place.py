"""Who a proplet is, and the ports it stands on. Types only: `app.py` or a simulated world fills them in."""

from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from propeller import limits
from propeller.ports import Blobs, Bus, Clock, Folder, HttpStreams, Images, Runtime
from propeller.proplet.gauges import Gauges
from propeller.proplet.offload import Offload
from propeller.proplet.packing import Packer, at_once
from propeller.proplet.spool import Spool
from propeller.proplet.workspace import Workspace
from propeller.wire.messages import Create, PropletMetadata
from propeller.wire.topics import Topics


class Log(Protocol):
    """What the shell writes its lines with (`telemetry.logs.logger()` is one)."""

    def info(self, event: str, **fields: object) -> object:
        """A line about something ordinary."""
        ...

    def warning(self, event: str, **fields: object) -> object:
        """A line about something that an operator may want to change."""
        ...

    def error(self, event: str, **fields: object) -> object:
        """A line about a defect or a loss."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who the proplet is on the bus, and what it says of itself."""

    id: str
    topics: Topics
    slots: int = 1
    heartbeat_s: float = limits.HEARTBEAT_S
    namespace: str = "default"
    metadata: PropletMetadata = field(default_factory=PropletMetadata)

    @property
    def announcement(self) -> Create:
        """What it says when it joins; protocol 2 asks for a welcome."""
        return Create(
            proplet_id=self.id,
            namespace=self.namespace,
            metadata=self.metadata,
            protocol=2,
            slots=self.slots,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a proplet offers beyond running guests one by one.

    `folders` are directories that every guest sees; `call_workers` run the calls of latent tasks at once;
    every `metrics_s` seconds the host is measured, 0 for never.
    """

    folders: tuple[Folder, ...] = ()
    call_workers: int = 1
    metrics_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PropletPorts:
    """The world of a proplet.

    Without `images` every module, an inline one too, comes by the broker; without `http` a proplet lives by
    the broker alone, and has no `images`. Without `invoker` the calls of latent tasks run on `runtime`, in
    turn with the rest; without `gauges` nothing is measured; without `workspace` guests have no files;
    without `modules` inline modules are fetched anew by every process.
    """

    bus: Bus
    http: HttpStreams | None
    images: Images | None
    runtime: Runtime
    spool: Spool
    clock: Clock
    random: Random
    offload: Offload
    log: Log
    invoker: Runtime | None = None
    gauges: Gauges | None = None
    workspace: Workspace | None = None
    pack: Packer = at_once
    modules: Blobs | None = None
