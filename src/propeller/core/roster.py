"""All proplets and what each of them holds: who is alive, who has room, whose turn it is.

Every question of one event is answered in constant time, however many proplets and runs there are; a fleet
sends a heartbeat each few milliseconds. It decides nothing and knows no tasks but their ids.
"""

from collections import OrderedDict
from collections.abc import Iterable

from propeller.core.proplet import Proplet


class Roster:
    """The proplets by id, in order of registration, with indexes over them.

    Heartbeats all last equally long, so the order of the latest ones is the order in which they run out.
    """

    def __init__(self) -> None:
        self.proplets: dict[str, Proplet] = {}
        self._held: dict[str, dict[str, bool]] = {}
        """Task ids by the proplet that has their live attempt, and whether each takes one of its slots."""
        self._slots_taken: dict[str, int] = {}
        self._alive: OrderedDict[str, None] = OrderedDict()
        """Those that were alive when last looked at, the one to run out first in front."""
        self._free: OrderedDict[str, None] = OrderedDict()
        """Those that may have room, the one whose turn it is in front; the dead leave when they are met."""
        self._stirred: dict[str, None] = {}

    def put(self, proplet: Proplet) -> None:
        """Add a proplet at the end of the order, or replace it where it stands."""
        self.proplets[proplet.id] = proplet
        self._offer(proplet.id)

    def beat(self, proplet: Proplet) -> None:
        """Like `put`, of a proplet that has just been heard."""
        self._alive[proplet.id] = None
        self._alive.move_to_end(proplet.id)
        self.put(proplet)

    def fade(self, proplet: Proplet) -> None:
        """Like `put`, of a proplet that has just said farewell."""
        self._alive.pop(proplet.id, None)
        self._free.pop(proplet.id, None)
        self.proplets[proplet.id] = proplet

    def restore(self, proplets: Iterable[Proplet]) -> None:
        """Fill an empty roster; `proplets` come in order of registration."""
        found = list(proplets)
        self.proplets = {proplet.id: proplet for proplet in found}
        for proplet in sorted(found, key=lambda one: one.alive_until_mono_s):
            self.beat(proplet)

    def drop(self, proplet_id: str) -> None:
        """Forget a proplet that holds nothing."""
        del self.proplets[proplet_id]
        for index in (self._alive, self._free, self._stirred):
            index.pop(proplet_id, None)

    def hold(self, proplet_id: str, task_id: str, *, slot: bool = True) -> None:
        """Note that the proplet has the task's live attempt, and whether that takes a slot."""
        self._held.setdefault(proplet_id, {})[task_id] = slot
        self._slots_taken[proplet_id] = self._slots_taken.get(proplet_id, 0) + slot

    def release(self, proplet_id: str, task_id: str) -> None:
        """Note that it no longer has it."""
        held = self._held[proplet_id]
        self._slots_taken[proplet_id] -= held.pop(task_id)
        if not held:
            del self._held[proplet_id], self._slots_taken[proplet_id]
        self._offer(proplet_id)

    def held(self, proplet_id: str) -> list[str]:
        """The tasks whose live attempt is on that proplet, in the order in which it got them."""
        return list(self._held.get(proplet_id, ()))

    def count(self, proplet_id: str) -> int:
        """How many live attempts that proplet has."""
        return len(self._held.get(proplet_id, ()))

    def alive_count(self, mono_s: float) -> int:
        """How many proplets are alive."""
        while self._alive:
            oldest = next(iter(self._alive))
            if self.proplets[oldest].alive(mono_s):
                break
            del self._alive[oldest]
        return len(self._alive)

    def has_room(self, proplet_id: str, mono_s: float) -> bool:
        """Whether that proplet is alive and can take one more attempt."""
        proplet = self.proplets.get(proplet_id)
        return (
            proplet is not None
            and proplet.open
            and proplet.alive(mono_s)
            and self._slots_taken.get(proplet_id, 0) < proplet.slots
        )

    def next_with_room(self, mono_s: float) -> str | None:
        """The proplet whose turn it is; its next turn comes after all others'. None if nobody has room."""
        while self._free:
            proplet_id = next(iter(self._free))
            if self.has_room(proplet_id, mono_s):
                self._free.move_to_end(proplet_id)
                return proplet_id
            del self._free[proplet_id]
        return None

    def all_with_room(self, mono_s: float) -> list[str]:
        """Every proplet with room, the one whose turn it is in front."""
        return [proplet_id for proplet_id in self._free if self.has_room(proplet_id, mono_s)]

    def had_turn(self, proplet_id: str) -> None:
        """Let all others come first from now on."""
        if proplet_id in self._free:
            self._free.move_to_end(proplet_id)

    def stir(self, proplet_id: str) -> None:
        """Have the proplet looked at when runs are placed next."""
        self._stirred[proplet_id] = None

    def take_stirred(self) -> list[str]:
        """The proplets to look at: those with news since the last call."""
        stirred, self._stirred = list(self._stirred), {}
        return stirred

    def _offer(self, proplet_id: str) -> None:
        proplet = self.proplets.get(proplet_id)
        taken = self._slots_taken.get(proplet_id, 0)
        if proplet is not None and proplet.open and taken < proplet.slots:
            self._free.setdefault(proplet_id)
            self.stir(proplet_id)
