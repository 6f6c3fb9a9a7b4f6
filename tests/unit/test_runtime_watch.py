"""The watch over a guest: which limit stops it, why, and never after its end."""

import time

from propeller import limits
from propeller.ports import GuestLimits
from propeller.runtime.watch import CHECK_S, Watch, own_bytes, resident_bytes


def watch(**given: float) -> tuple[Watch, list[int]]:
    """A watch with those limits, and the interruptions it makes."""
    ticks: list[int] = []
    return Watch(GuestLimits(**given), lambda: ticks.append(1)), ticks  # type: ignore[arg-type]


def test_nothing_is_counted_before_the_guest_begins():
    """Compiling is on nobody's account."""
    watched, ticks = watch(wall_s=1e-9, cpu_s=1e-9)
    assert watched.check()
    assert (watched.used(), ticks, watched.reason) == ((0.0, 0.0), [], None)


def test_wall_time_stops_once():
    """The first check after the limit interrupts; later ones do not again."""
    watched, ticks = watch(wall_s=1e-9)
    watched.begin()
    assert watched.check()
    assert watched.check()
    assert (watched.reason, ticks) == ("timeout", [1])


def test_processor_time_stops():
    """Processor seconds have their own reason."""
    watched, ticks = watch(cpu_s=1e-9)
    watched.begin()
    sum(range(10_000))
    watched.check()
    assert (watched.reason, ticks) == ("cpu", [1])


def test_the_first_reason_stays():
    """A guest that overflowed its output does not time out afterwards."""
    watched, ticks = watch(wall_s=1e-9)
    watched.begin()
    watched.stop("output")
    watched.check()
    assert (watched.reason, ticks) == ("output", [1])


def test_after_the_end_nobody_is_interrupted():
    """A late check must not hit the next guest of the same engine."""
    watched, ticks = watch(wall_s=1e-9)
    watched.begin()
    watched.finish()
    assert watched.check()
    watched.stop("output")
    assert (watched.reason, ticks) == (None, [])


def test_the_next_check_is_due_when_a_limit_is():
    """Long limits are checked often enough for memory, short ones on time."""
    watched, _ = watch(wall_s=100)
    watched.begin()
    assert watched.pause_s() == CHECK_S
    watched, _ = watch(wall_s=0.02)
    watched.begin()
    assert watched.pause_s() <= 0.02
    time.sleep(0.03)
    assert 0 < watched.pause_s() <= 0.01


def test_a_process_that_holds_too_much_fails_the_check():
    """Memory beyond the guest's and the host's share ends the process, whatever the engine counts."""
    watched, _ = watch(memory_bytes=1)
    watched.begin()
    held = b"\1" * (limits.GUEST_HOST_BYTES + 16 * 1024 * 1024)
    assert not watched.check()
    assert resident_bytes() > own_bytes() > len(held)
    del held
    assert watched.check()
