"""The clock over one guest: wall time, processor time, resident memory, and the reason why it was stopped.

A guest is stopped softly by one tick of its engine's epoch. The watch must not know what runs: the job's
thread begins and finishes it, the worker's main thread checks it, output callbacks may stop it. The alarm is
what wakes that thread: most guests end before it rings, and then it has cost two system calls.
"""

import ctypes
import math
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Final

from propeller import limits
from propeller.ports import FailureKind, GuestLimits

CHECK_S: Final = 0.05
"""Longest pause between two checks: how late an overrun of memory is seen."""
_CLOCK_MONOTONIC: Final = 1
_NANOSECONDS: Final = 1_000_000_000
_libc: Final = ctypes.CDLL(None, use_errno=True)
_PAGE_BYTES: Final = resource.getpagesize()
_STATM: Final = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


class Alarm:
    """A timer of the kernel (`timerfd_create(2)`): set by one thread, waited for by another in `poll`."""

    def __init__(self) -> None:
        self.descriptor = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"no timer for the watch over guests: {os.strerror(code)}")

    def set(self, pause_s: float) -> None:
        """Ring once after so long, instead of whenever it was to ring; 0 never."""
        # Less than a nanosecond is not never.
        seconds, part = divmod(math.ceil(pause_s * _NANOSECONDS), _NANOSECONDS)
        _libc.timerfd_settime(self.descriptor, 0, (ctypes.c_long * 4)(0, 0, seconds, part), None)

    def quiet(self) -> None:
        """Take note that it has rung; harmless if it has not."""
        with suppress(BlockingIOError):
            os.read(self.descriptor, 8)


class Watch:
    """Watches one job against its limits; `interrupt` ticks the engine's epoch.

    `reason` is why the guest was stopped, None if it was not. All methods may be called from any thread.
    """

    def __init__(self, job_limits: GuestLimits, interrupt: Callable[[], None]) -> None:
        self.reason: FailureKind | None = None
        self._limits = job_limits
        self._interrupt = interrupt
        self._lock = Lock()
        self._finished = False
        self._begun: tuple[float, float] | None = None
        self._resident_bytes_max = resident_bytes() + limits.GUEST_COMPILE_BYTES

    def begin(self) -> None:
        """The module is loaded: the guest's own time and memory count from here."""
        with self._lock:
            self._begun = (time.monotonic(), time.process_time())
            self._resident_bytes_max = resident_bytes() + self._limits.memory_bytes + limits.GUEST_HOST_BYTES

    def finish(self) -> None:
        """The guest ended: nothing may interrupt the engine any more, for the next guest would feel it."""
        with self._lock:
            self._finished = True

    def stop(self, reason: FailureKind) -> None:
        """Stop the guest softly, for `reason`; the first reason stays."""
        with self._lock:
            if not self._finished and self.reason is None:
                self.reason = reason
                self._interrupt()

    def used(self) -> tuple[float, float]:
        """Wall and processor seconds since `begin`; zeros before it."""
        if self._begun is None:
            return 0.0, 0.0
        return time.monotonic() - self._begun[0], time.process_time() - self._begun[1]

    def pause_s(self) -> float:
        """How long the next check may wait. Processor time never runs faster than the wall here."""
        if self._finished or self._begun is None:
            return CHECK_S
        wall_s, cpu_s = self.used()
        left_s = min(self._limits.wall_s - wall_s, self._limits.cpu_s - cpu_s)
        return min(max(left_s, 0.001), CHECK_S)

    def check(self) -> bool:
        """Stop the guest if a time limit has passed; False if the process itself holds too much memory."""
        wall_s, cpu_s = self.used()
        if wall_s >= self._limits.wall_s:
            self.stop("timeout")
        elif cpu_s >= self._limits.cpu_s:
            self.stop("cpu")
        return self._finished or resident_bytes() <= self._resident_bytes_max


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(_statm()[1]) * _PAGE_BYTES


def own_bytes() -> int:
    """Resident anonymous memory of this process: what no other process shares and no file backs."""
    _, resident, shared, *_ = _statm()
    return (int(resident) - int(shared)) * _PAGE_BYTES


def _statm() -> list[bytes]:
    """Asked for several times per job, so the file stays open."""
    return os.pread(_STATM, 256, 0).split()
