"""A proplet as the manager knows it: which lane it speaks, whether it is alive. Pure records.

    unknown ──create──▶ legacy lane ──(create with protocol 2, then a first directed message)──▶ directed lane

The directed lane is entered only by a directed message, because only there the topic proves the sender; a
`create` without protocol 2 returns to legacy only while the proplet is not alive on the directed lane, so
that nobody can talk a live proplet down by publishing in its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from propeller.core.run import Lane

_EMBEDDED = frozenset({"embedded", "wamr"})
"""How the original's microcontrollers call their environment and their runtime."""
HISTORY_MAX = 10
"""Heartbeats kept for the alive history, as the original keeps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proplet:
    """One proplet. `alive_until_mono_s` is the moment its heartbeats run out (monotonic seconds)."""

    id: str
    name: str
    lane: Lane = "legacy"
    namespace: str = "default"
    metadata: Mapping[str, object] = field(default_factory=dict)
    slots: int = 1
    boot: str = ""
    registered_at_s: float
    last_alive_at_s: float = 0.0
    alive_until_mono_s: float = float("-inf")
    lost_at_mono_s: float = float("inf")
    """When its running attempts count as lost, unless it is heard of before (monotonic seconds)."""
    history: tuple[float, ...] = ()
    """Wall times of the latest heartbeats, oldest first."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What operators call it; constraints and preferences of tasks can ask for it."""
    cordoned: bool = False
    """Whether it gets no new work."""
    draining: bool = False
    """Whether, beyond that, what can run elsewhere is moved away."""

    @property
    def embedded(self) -> bool:
        """Whether it is one of the original's microcontrollers, which read some messages their own way."""
        said = (self.metadata.get("environment"), self.metadata.get("wasm_runtime"))
        return self.lane == "legacy" and not _EMBEDDED.isdisjoint(map(str, said))

    @property
    def open(self) -> bool:
        """Whether operators let it have new work."""
        return not (self.cordoned or self.draining)

    def alive(self, mono_s: float) -> bool:
        """Whether a heartbeat within three intervals has been seen and no farewell since."""
        return mono_s < self.alive_until_mono_s
