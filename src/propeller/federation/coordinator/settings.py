"""What a coordinator is told when it starts. Values only; where they come from is the caller's business."""

from dataclasses import dataclass, field

from propeller.core.retention import Retention
from propeller.wire.topics import Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSettings:
    """Addresses without trailing slash; `token_secret` is shared with the manager (empty: no tokens)."""

    topics: Topics
    registry_url: str
    aggregator_url: str
    share_files: bool = False
    """The aggregator sees this coordinator's blobs on its own disk: large updates go to it as paths."""
    own_url: str = ""
    """Where it finds them otherwise; empty: nowhere."""
    mirror: bool = True
    """Whether the older application's root topics are spoken too."""
    token_secret: bytes = field(default=b"", repr=False)
    retention: Retention = field(default_factory=Retention)
    """How long the tensors of updates are kept."""
    require_update_token: bool = False
    """Refuse HTTP updates, and MQTT ones on root topics, that carry no token."""
