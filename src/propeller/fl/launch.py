"""A round as the manager knows it: which tasks it needs and how far their launch has come. Pure.

    intent ──the coordinator has the round──▶ launched ──the round ended──▶ closed
       └────the coordinator refused it──▶ (forgotten, with its tasks)

The intent and its held tasks are stored in one transaction before anybody is told, so that a crash at any
point is finished by running the same steps again: each of them is idempotent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import sha256

from propeller.errors import Bug


class LaunchState(StrEnum):
    """How far a launch has come."""

    INTENT = "intent"
    LAUNCHED = "launched"
    CLOSED = "closed"


TRANSITIONS: dict[LaunchState, frozenset[LaunchState]] = {
    LaunchState.INTENT: frozenset({LaunchState.LAUNCHED, LaunchState.CLOSED}),
    LaunchState.LAUNCHED: frozenset({LaunchState.CLOSED}),
    LaunchState.CLOSED: frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One round's launch: `body` as sent to the coordinator, `tasks` by participant."""

    round_id: str
    body: bytes
    tasks: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    announced: bool = False
    """Asked for by a message, so the coordinator may know the round already."""
    state: LaunchState = LaunchState.INTENT
    artifact: str = ""
    """The `model_ref` that was asked for, if it is an OCI registry's; the body has the version made of it."""

    def to(self, state: LaunchState) -> "Launch":
        """The launch in its next state; raises `Bug` on an unlawful transition."""
        if state not in TRANSITIONS[self.state]:
            raise Bug(f"launch of round {self.round_id}: {self.state} → {state}: {self!r}")
        return replace(self, state=state)


def trainer_seed(experiment_seed: int, round_id: str, participant: str) -> int:
    """A trainer's seed, the same on every attempt: 63 bits of SHA-256 over all three arguments."""
    text = f"{experiment_seed}\0{round_id}\0{participant}"
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1
