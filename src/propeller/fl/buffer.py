"""Asynchronous training: who trains from which version while rounds go on, and whose update counts. Pure.

Nguyen et al.: "Federated Learning with Buffered Asynchronous Aggregation" (FedBuff), AISTATS 2022. The server
keeps a buffer; whatever closes it is folded into a new version. Here a round is one filling of the buffer: it
asks every participant that is idle to train from the newest version, and counts whatever arrives while it is
open, also from those who were asked in an earlier round and train from an older version.

    IDLE ──a round opens──▶ TRAINING ──its update counts──▶ COUNTED ──that round ends──▶ IDLE
      ▲                        │
      └── it failed for good, or is more versions behind than are allowed

A participant trains on one version at a time, and once: training it again on the same version and data would
give the same update. With `late = "fold"` ordinary strategies live by the same rules.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from propeller.errors import Bug
from propeller.fl.model_ref import ModelRef


class Standing(StrEnum):
    """Where a participant stands."""

    IDLE = "idle"
    TRAINING = "training"
    COUNTED = "counted"


MOVES: Final[Mapping[Standing, frozenset[Standing]]] = {
    Standing.IDLE: frozenset({Standing.TRAINING}),
    Standing.TRAINING: frozenset({Standing.COUNTED, Standing.IDLE}),
    Standing.COUNTED: frozenset({Standing.IDLE}),
}
"""The whole life of a participant; any other move is a bug."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The round in which a participant was asked, and what it trains from."""

    round_id: str
    base: ModelRef
    base_hash: str
    made: int
    """Versions that the experiment had made before that round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One participant. `origin` is None exactly while it is idle."""

    standing: Standing = Standing.IDLE
    origin: Origin | None = None


IDLE: Final = Seat()


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """Everybody's standing. `staleness_max` is how many versions an update may be behind."""

    staleness_max: int
    made: int = 0
    """Versions made so far."""
    seats: Mapping[str, Seat] = field(default_factory=dict)

    def opened(
        self, participants: Collection[str], origin: Origin
    ) -> tuple["Buffer", list[str], dict[str, Origin]]:
        """The buffer as a round opens, whom the round asks, and who may still bring an older update."""
        fresh = self._without_the_stale()
        seats = dict(fresh.seats)
        asked = [name for name in participants if seats.get(name, IDLE).standing is Standing.IDLE]
        carried = {name: seat.origin for name, seat in seats.items() if seat.origin is not None}
        for name in asked:
            seats[name] = _moved(name, seats.get(name, IDLE), Standing.TRAINING, origin)
        return replace(fresh, seats=seats), asked, carried

    def closed(self, counted: Collection[str], lost: Collection[str], *, completed: bool) -> "Buffer":
        """The buffer after a round in which these counted, and these turned out to be lost."""
        seats = dict(self.seats)
        for name in counted:
            there = _moved(name, seats.get(name, IDLE), Standing.COUNTED)
            seats[name] = _moved(name, there, Standing.IDLE)
        for name in lost:
            seats[name] = _moved(name, seats.get(name, IDLE), Standing.IDLE)
        return replace(self, seats=seats, made=self.made + completed)

    def away(self) -> dict[str, Origin]:
        """Who trains, from what."""
        return {name: seat.origin for name, seat in self.seats.items() if seat.origin is not None}

    def _without_the_stale(self) -> "Buffer":
        """Nobody waits for an update that would be refused."""
        seats = {
            name: _moved(name, seat, Standing.IDLE)
            if seat.origin is not None and self.made - seat.origin.made > self.staleness_max
            else seat
            for name, seat in self.seats.items()
        }
        return replace(self, seats=seats)


def _moved(name: str, seat: Seat, to: Standing, origin: Origin | None = None) -> Seat:
    if to not in MOVES[seat.standing]:
        raise Bug(f"participant {name!r} cannot go from {seat.standing} to {to}: {seat!r}")
    return Seat(standing=to, origin=None if to is Standing.IDLE else origin or seat.origin)
