"""Every MQTT topic of the system, built and parsed in one place. Knows no payloads.

`B` is `m/{domain}/c/{channel}`. A *shared* topic is the original's; the *directed* form has the proplet's id
as its last level, which the broker's ACL ties to the publisher, so that level is the sender's identity.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from propeller.core.ids import check_id


class FromProplet(StrEnum):
    """Last level (shared) or last but one (directed) of `B/control/proplet/…`."""

    CREATE = "create"
    ALIVE = "alive"
    RESULTS = "results"
    EVENTS = "events"
    INVOKE_RESULTS = "invoke_results"
    METRICS = "metrics"
    TASK_METRICS = "task_metrics"
    LOGS = "logs"


class FromManager(StrEnum):
    """Last level (shared) or last but one (directed) of `B/control/manager/…`."""

    START = "start"
    STOP = "stop"
    INVOKE = "invoke"
    WELCOME = "welcome"
    ACK = "ack"


_FROM_PROPLET = frozenset(kind.value for kind in FromProplet)
_FROM_MANAGER = frozenset(kind.value for kind in FromManager)


@dataclass(frozen=True, slots=True)
class ControlTopic:
    """A parsed `B/control/proplet/…` topic. `sender` is set on directed topics only."""

    kind: FromProplet
    sender: str | None


@dataclass(frozen=True, slots=True)
class RoundTopic:
    """A parsed FL round topic: `start` and `next` name no round, the others do."""

    kind: Literal[
        "start", "next", "launched", "complete", "closed", "updates", "manifests", "pieces", "verdicts"
    ]
    round_id: str = ""
    participant: str = ""
    root: bool = False
    """True if it came without the `B/` prefix (the older application's spelling)."""


@dataclass(frozen=True, slots=True)
class Topics:
    """All topics of one domain and channel."""

    domain: str
    channel: str

    def __post_init__(self) -> None:
        check_id(self.domain, "domain")
        check_id(self.channel, "channel")

    @property
    def base(self) -> str:
        """`B`, without a trailing slash."""
        return f"m/{self.domain}/c/{self.channel}"

    # control -------------------------------------------------------------------------------------------
    def from_proplet(self, kind: FromProplet, sender: str | None = None) -> str:
        """What a proplet publishes on: shared, or directed if `sender` is given."""
        return f"{self.base}/control/proplet/{kind}" + (f"/{sender}" if sender else "")

    def from_manager(self, kind: FromManager, to: str | None = None) -> str:
        """What the manager publishes on: shared, or directed to one proplet."""
        return f"{self.base}/control/manager/{kind}" + (f"/{to}" if to else "")

    def parse_control(self, topic: str) -> ControlTopic | None:
        """The meaning of a topic below `B/control/proplet/`, or None if it has none."""
        prefix = f"{self.base}/control/proplet/"
        if not topic.startswith(prefix):
            return None
        kind, _, sender = topic[len(prefix) :].partition("/")
        if kind not in _FROM_PROPLET or "/" in sender:
            return None
        return ControlTopic(FromProplet(kind), sender or None)

    def parse_manager(self, topic: str, me: str) -> FromManager | None:
        """The meaning to proplet `me` of a topic below `B/control/manager/`, or None."""
        prefix = f"{self.base}/control/manager/"
        if not topic.startswith(prefix):
            return None
        kind, _, to = topic[len(prefix) :].partition("/")
        return FromManager(kind) if kind in _FROM_MANAGER and to in {"", me} else None

    def manager_subscriptions(self) -> tuple[str, ...]:
        """Everything the manager listens to; round topics of both spellings included."""
        return (
            f"{self.base}/control/proplet/#",
            f"{self.base}/fl/rounds/start",
            f"{self.base}/fl/rounds/+/complete",
            "fl/rounds/start",
            "fl/rounds/+/updates/+",
            self.image_wishes(),
        )

    def proplet_subscriptions(self, me: str) -> tuple[str, ...]:
        """Directed orders to proplet `me`, and the verdicts on its updates."""
        return (f"{self.base}/control/manager/+/{me}", f"{self.base}/fl/rounds/+/verdicts/{me}")

    def coordinator_subscriptions(self) -> tuple[str, ...]:
        """Launch and closing acknowledgements, and updates that came by MQTT."""
        return (
            f"{self.base}/fl/rounds/+/launched",
            f"{self.base}/fl/rounds/+/closed",
            f"{self.base}/fl/rounds/+/updates/+",
            f"{self.base}/fl/rounds/+/manifests/+",
            f"{self.base}/fl/rounds/+/pieces/+",
            "fl/rounds/+/updates/+",
            self.forwarded_updates(),
            self.model_wishes(),
        )

    def image_wishes(self) -> str:
        """Proplets that reach only the broker ask for modules."""
        return f"{self.base}/registry/proplet"

    def image_chunks(self) -> str:
        """Modules in pieces, for all who asked."""
        return f"{self.base}/registry/server"

    def model(self, uri: str) -> str:
        """A model version, retained: itself as JSON, or a manifest of it (coordinator → anyone)."""
        return f"{self.base}/{uri}"

    def model_publish(self) -> str:
        """A model version that a round has just made (coordinator → anyone)."""
        return f"{self.base}/fl/models/publish"

    def model_wishes(self) -> str:
        """Asks for a piece of a model, or for its manifest (device → coordinator)."""
        return f"{self.base}/fl/models/wishes"

    def model_manifest(self, uri: str) -> str:
        """The manifest of a model of any size, for who asked (coordinator → anyone)."""
        return f"{self.base}/{uri}/manifest"

    def models(self) -> str:
        """What every topic of models begins with."""
        return f"{self.base}/fl/models/"

    def model_chunk(self, uri: str, chunk: int | Literal["+", ""]) -> str:
        """That piece, as bytes (coordinator → anyone); or the filter of all, or what they begin with."""
        return f"{self.base}/{uri}/chunks/{chunk}"

    def forwarded_updates(self) -> str:
        """The older application's: updates that its manager passes on to its coordinator."""
        return "fml/updates"

    # rounds --------------------------------------------------------------------------------------------
    def rounds_start(self) -> str:
        """A round asks for tasks (coordinator or any external trigger → manager)."""
        return f"{self.base}/fl/rounds/start"

    def rounds_next(self) -> str:
        """A new global model exists (coordinator → anyone)."""
        return f"{self.base}/fl/rounds/next"

    def round_launched(self, round_id: str) -> str:
        """The manager created the round's tasks (manager → coordinator)."""
        return f"{self.base}/fl/rounds/{round_id}/launched"

    def round_complete(self, round_id: str) -> str:
        """The round ended, well or not (coordinator → manager, repeated until `closed`)."""
        return f"{self.base}/fl/rounds/{round_id}/complete"

    def round_closed(self, round_id: str) -> str:
        """The manager saw the end and stopped the round's tasks (manager → coordinator)."""
        return f"{self.base}/fl/rounds/{round_id}/closed"

    def round_update(self, round_id: str, participant: str) -> str:
        """An update by MQTT (proplet → coordinator); the last level is the participant's identity."""
        return f"{self.base}/fl/rounds/{round_id}/updates/{participant}"

    def round_manifest(self, round_id: str, participant: str) -> str:
        """An update that comes in pieces: what they are (proplet → coordinator)."""
        return f"{self.base}/fl/rounds/{round_id}/manifests/{participant}"

    def round_pieces(self, round_id: str, participant: str) -> str:
        """One of these pieces, as bytes (proplet → coordinator)."""
        return f"{self.base}/fl/rounds/{round_id}/pieces/{participant}"

    def round_verdict(self, round_id: str, participant: str) -> str:
        """The coordinator's answer to an update that came by MQTT."""
        return f"{self.base}/fl/rounds/{round_id}/verdicts/{participant}"

    def root(self, topic: str) -> str:
        """The older application's spelling of a topic below `B/fl/`: without `B/`."""
        return topic.removeprefix(self.base + "/")

    def parse_round(self, topic: str) -> RoundTopic | None:
        """The meaning of a topic below `B/fl/rounds/` or root `fl/rounds/`, or None if it has none."""
        root = topic.startswith("fl/")
        path = topic if root else topic.removeprefix(self.base + "/")
        match path.split("/"):
            case ["fl", "rounds", ("start" | "next") as kind]:
                return RoundTopic(kind, root=root)
            case ["fl", "rounds", round_id, ("launched" | "complete" | "closed") as kind]:
                return RoundTopic(kind, round_id, root=root)
            case ["fl", "rounds", round_id, ("updates" | "verdicts") as kind, participant]:
                return RoundTopic(kind, round_id, participant, root=root)
            case ["fl", "rounds", round_id, ("manifests" | "pieces") as kind, participant] if not root:
                return RoundTopic(kind, round_id, participant)
            case _:
                return None
