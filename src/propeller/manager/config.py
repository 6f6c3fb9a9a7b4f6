"""What one manager is told at its start. Knows nothing of where the values came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from propeller import limits
from propeller.core.retention import Retention
from propeller.wire.topics import Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerConfig:
    """One manager's settings; URLs have no trailing slash, and an empty one switches its feature off."""

    topics: Topics
    instance_id: str = "manager"
    heartbeat_s: float = limits.HEARTBEAT_S
    """What proplets are asked to beat at; a proplet is alive for three of these."""
    public_url: str = "http://127.0.0.1:7070"
    """How proplets reach this manager: start messages name inline modules below it."""
    coordinator_url: str = ""
    model_registry_url: str = ""
    data_store_url: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """host:port as users write it → host:port as proplets reach it."""
    fl_secret: bytes = b""
    """Shared with the coordinator: signs update tokens. Empty: no tokens are sent."""
    mirror_root: bool = True
    """Whether the older application's root topics are spoken beside those below B."""
    chunk_bytes: int = limits.IMAGE_CHUNK_BYTES
    """How much of a module one message holds for proplets that reach only the broker (before base64)."""
    retention: Retention = field(default_factory=Retention)
    """How long what has ended is kept."""
    job_mode: str = "parallel"
    """How jobs run that do not say so themselves."""
