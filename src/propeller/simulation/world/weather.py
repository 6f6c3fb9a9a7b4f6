"""What goes wrong in a world: messages, requests and processes, all of it drawn from one seed.

It decides when something fails, never what follows from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from propeller.bus.memory import Delivery
from propeller.http.memory import NO_FAULT, Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Climate:
    """How bad the weather gets. Chances are per message, request or commit; numbers are per world."""

    message_lost: float = 0.1
    message_repeated: float = 0.1
    message_late: float = 0.2
    late_s_max: float = 5.0
    request_lost: float = 0.05
    response_lost: float = 0.05
    crashes: int = 6
    outages: int = 1
    """Times that a process is away for long: up to `outage_s_max`."""
    outage_s_max: float = 40.0
    cuts: int = 2
    """Times that a proplet is cut off from the broker."""
    commit_failed: float = 0.01
    """Chance that the disk of manager or coordinator has no room for a commit."""
    disks_lost: int = 1
    """Times that a proplet is killed and comes back with an empty disk."""
    clock_jumps: int = 3
    """Times that everybody's wall clock is set wrong, by an hour at most."""
    storm_s: float = 60.0
    """After this the sky is clear, so that every promise can be seen to be kept."""


CALM = Climate(
    message_lost=0,
    message_repeated=0,
    message_late=0,
    request_lost=0,
    response_lost=0,
    crashes=0,
    outages=0,
    cuts=0,
    commit_failed=0,
    disks_lost=0,
    clock_jumps=0,
)
"""No faults at all: the control."""


_AT_ONCE = (0.0,)


def _told(delivery: Delivery) -> str:
    levels = delivery.message.topic.split("/")
    return f"{delivery.sender or 'retained'} → {delivery.receiver}, {'/'.join(levels[4:]) or levels[-1]}"


class Weather:
    """Draws faults from `random` until `clear` is called; each is told to `note`."""

    def __init__(
        self, climate: Climate, random: Random, note: Callable[[str], None] = lambda _what: None
    ) -> None:
        self.climate = climate
        self._random = random
        self._note = note
        self._clear = False

    def clear(self) -> None:
        """No faults from now on."""
        self._clear = True

    def deliveries(self, delivery: Delivery) -> Sequence[float]:
        """The delays (seconds) of each copy of a message that arrives; none if it is lost."""
        if self._clear:
            return _AT_ONCE
        if self._chance(self.climate.message_lost):
            self._note(f"lost: {_told(delivery)}")
            return ()
        copies = 1 + (self._random.randint(1, 4) if self._chance(self.climate.message_repeated) else 0)
        delays = tuple(self._delay() for _ in range(copies))
        if delays != _AT_ONCE:
            shown = ", ".join(f"{delay_s:.1f}" for delay_s in delays)
            self._note(f"arrives after {shown} s: {_told(delivery)}")
        return delays

    def request(self, method: str, url: str) -> Fault:
        """The fate of one HTTP request."""
        if self._clear:
            return NO_FAULT
        if self._chance(self.climate.request_lost):
            self._note(f"lost: {method} {url}")
            return Fault(lose="request")
        if self._chance(self.climate.response_lost):
            self._note(f"lost: the answer to {method} {url}")
            return Fault(lose="response")
        return Fault(request_s=self._delay() / 10, response_s=self._delay() / 10)

    def no_room(self) -> bool:
        """Whether this commit finds the disk full."""
        return not self._clear and self._chance(self.climate.commit_failed)

    def _chance(self, of_one: float) -> bool:
        return self._random.random() < of_one

    def _delay(self) -> float:
        if not self._chance(self.climate.message_late):
            return 0.0
        return self._random.uniform(0.0, self.climate.late_s_max)
