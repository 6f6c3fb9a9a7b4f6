"""Which participants a round gets: drawn from those connected, in an order that the seed decides. Pure.

Every candidate has a lot for each round, SHA-256 over (seed, round, candidate); the lowest lots are drawn. So
a draw can be repeated, it does not depend on the order in which candidates are listed, and one candidate's
absence moves nobody else's lot.
"""

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from propeller import limits
from propeller.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """How the participants of each round are found. Of `clients` and `fraction` at most one is given."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """Candidates have all of these, where the experiment names no participants."""
    clients: int = 0
    """How many updates are wanted; 0: see `fraction`."""
    fraction: float = 0.0
    """The same as a share of the candidates; 0: all of them."""
    min_connected: int = 0
    """The round waits until so many candidates are connected; 0: as many as close its set. With fewer than
    close it, all who are there are asked, and all of them close it."""
    over_sampling: float = 1.0
    """So many times more participants are asked than updates are wanted."""
    k_of_n: int = 0
    """How many updates close the set; 0: all that are wanted."""

    def wanted(self, candidates: int) -> int:
        """How many updates a round over so many candidates wants."""
        share = math.ceil(self.fraction * candidates - 1e-9) if self.fraction else candidates
        return self.clients or max(1, share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A round's participants, in ascending order, and how many updates close its set."""

    participants: tuple[str, ...]
    k: int


def check_selection(selection: Selection) -> Selection:
    """Return `selection` if it is lawful, else raise `BadInput` `bad_selector` naming the field."""
    for name, value, low, high in (
        ("clients", selection.clients, 0, limits.PARTICIPANTS_MAX),
        ("fraction", selection.fraction, 0, 1),
        ("min_connected", selection.min_connected, 0, limits.PARTICIPANTS_MAX),
        ("over_sampling", selection.over_sampling, 1, limits.OVER_SAMPLING_MAX),
        ("k_of_n", selection.k_of_n, 0, limits.PARTICIPANTS_MAX),
    ):
        if not low <= value <= high:
            raise BadInput(
                f"selector.{name} is {value}; it must be from {low} to {high}", code="bad_selector"
            )
    if selection.clients and selection.fraction:
        raise BadInput("selector says both clients and fraction; give one of them", code="bad_selector")
    if selection.clients and selection.k_of_n > selection.clients:
        raise BadInput(
            f"k_of_n is {selection.k_of_n}, with {selection.clients} clients wanted", code="bad_k_of_n"
        )
    return selection


def draw(
    selection: Selection, candidates: Collection[str], connected: Collection[str], *, seed: int, round_id: str
) -> Drawn | None:
    """The participants of a round among the `connected` candidates; None while too few are connected."""
    wanted = selection.wanted(len(candidates))
    k = min(selection.k_of_n or wanted, wanted)
    if len(connected) < max(selection.min_connected or k, 1):
        return None
    asked = min(math.ceil(wanted * selection.over_sampling - 1e-9), len(connected))
    lots = sorted(connected, key=lambda candidate: _lot(seed, round_id, candidate))
    return Drawn(participants=tuple(sorted(lots[:asked])), k=min(k, asked))


def _lot(seed: int, round_id: str, candidate: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{round_id}\0{candidate}".encode()).digest()
