"""The process from which the proplets of `up` are forked: `python -m propeller.roles.nursery`, told by stdin.

A proplet's code is imported once, and its pages are shared by all: ten proplets start in the time of one and
in a third of the memory. Each is a process of its own all the same, started again if it ends. Nothing here
runs a loop or a thread before it forks. It ends with its parent, and its children end with it.
"""

import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec

from propeller.errors import PropellerError
from propeller.proplet.app import run_proplet
from propeller.roles.children import Child, Told
from propeller.roles.process import end_with_parent, run
from propeller.roles.proplet import of_child
from propeller.telemetry import logs

RESTART_S = 1.0
RESTART_S_MAX = 30.0
"""A proplet that ended is started again after this; each further pause doubles, up to the second number."""
STEADY_S = 60.0
"""Having run for this long, a proplet's next pause is the short one again."""
STOP_S = 3.0
"""A proplet that was asked to end has this long to say goodbye."""
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


@dataclass(slots=True)
class _Place:
    """One proplet's process, or the moment when it starts again. Seconds are monotonic."""

    child: Child
    pid: int = 0
    started_s: float = 0.0
    pause_s: float = RESTART_S
    due_s: float = 0.0


class Nursery:
    """Keeps one process per child until it is told to stop. Single-threaded, so that forking is safe."""

    def __init__(self, told: Sequence[Child]) -> None:
        self._places = [_Place(child) for child in told]

    def run(self) -> None:
        """Start all, start again whoever ends, and on SIGTERM stop all."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        while True:
            self._start_due()
            arrived = signal.sigtimedwait(_SIGNALS, self._wait_s())
            if arrived is not None and arrived.si_signo != signal.SIGCHLD:
                break
            self._reap()
        self._stop()

    def _start_due(self) -> None:
        now_s = time.monotonic()
        for place in self._places:
            if not place.pid and place.due_s <= now_s:
                place.started_s = now_s
                place.pid = os.fork() or _become(place.child)
                _pid_file(place.child).write_text(f"{place.pid}\n", encoding="ascii")

    def _wait_s(self) -> float:
        """Until the next start, or long: a signal ends the wait."""
        due = [place.due_s for place in self._places if not place.pid]
        return max(0.0, min(due) - time.monotonic()) if due else STEADY_S

    def _reap(self) -> None:
        """Note who has ended, and when it is due again."""
        for place in self._places:
            if place.pid and (ended := os.waitpid(place.pid, os.WNOHANG))[0]:
                now_s = time.monotonic()
                if now_s - place.started_s > STEADY_S:
                    place.pause_s = RESTART_S
                _say(place.child, "proplet ended; starting it again", status=ended[1], pause_s=place.pause_s)
                place.pid, place.due_s = 0, now_s + place.pause_s
                place.pause_s = min(RESTART_S_MAX, place.pause_s * 2)

    def _stop(self) -> None:
        deadline_s = time.monotonic() + STOP_S
        for place in self._running():
            os.kill(place.pid, signal.SIGTERM)
        while (left := self._running()) and time.monotonic() < deadline_s:
            signal.sigtimedwait({signal.SIGCHLD}, deadline_s - time.monotonic())
            for place in left:
                if os.waitpid(place.pid, os.WNOHANG)[0]:
                    place.pid = 0
        for place in self._running():
            os.kill(place.pid, signal.SIGKILL)
            os.waitpid(place.pid, 0)

    def _running(self) -> list[_Place]:
        return [place for place in self._places if place.pid]


def _become(child: Child) -> NoReturn:
    """In the forked process: be the proplet until told to stop, and never return to the nursery's code."""
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        log = Path(child.log).open("ab", buffering=0)  # noqa: SIM115 - stdout and stderr for this process's life
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
        status = _proplet(child)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _proplet(child: Child) -> int:
    """Run the proplet; its exit status."""
    logs.configure(child.section, child.level, logs.LogFile(Path(child.log)))
    with logs.role_context(child.section):
        try:
            run(lambda: run_proplet(of_child(child)))
        except PropellerError as error:
            logs.logger().error("proplet cannot go on", error=error.message, code=error.reason)
            return 1
    return 0


def _say(child: Child, event: str, *, status: int, pause_s: float) -> None:
    """A line in the proplet's own log."""
    file = logs.LogFile(Path(child.log))
    logs.configure(child.section, child.level, file)
    with logs.role_context(child.section):
        logs.logger().error(event, status=os.waitstatus_to_exitcode(status), pause_s=pause_s)
    logs.forget(child.section)
    file.close()


def _pid_file(child: Child) -> Path:
    directory = Path(child.directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory / "pid"


def main() -> None:
    """Read what to run from stdin, and run it until told to stop."""
    told = msgspec.json.decode(sys.stdin.buffer.read(), type=Told)
    end_with_parent(told.parent)
    # Objects of imported code never die: kept out of the collector, their pages stay shared.
    gc.collect()
    gc.freeze()
    Nursery(told.children).run()


if __name__ == "__main__":
    main()
