"""A peer on the same work: NVIDIA FLARE's simulator, in an environment of its own.

A round lasts from the start of one to the start of the next, as ours do. It knows nothing of our system.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from environments import environment, say  # noqa: E402

PEERS = HERE / "peers"
STOP_S = 10.0
ALL_S = 600.0


def measure(participants: int, rounds: int) -> dict[str, object]:
    """`{peer}_round_s_p50` of each that ran; of others, why not."""
    python = environment(HERE)
    if python is None:
        return {"peers": "cannot be installed here"}
    found: dict[str, object] = {}
    for name, contender in CONTENDERS.items():
        say(f"{name}: {participants} participants, {rounds} rounds …")
        with tempfile.TemporaryDirectory(prefix="propeller-bench-peer-") as folder:
            times = Path(folder) / "times"
            try:
                contender(python, Path(folder), times, participants, rounds)
                starts = [float(line) for line in times.read_text().split()]
            except (OSError, subprocess.SubprocessError, TimeoutError) as error:
                say(f"{name} did not run: {error}")
                continue
        lasted = [after - before for before, after in pairwise(starts)]
        if lasted:
            found[f"{name}_round_s_p50"] = round(median(lasted), 3)
            found[f"{name}_rounds"] = len(lasted)
    return found


def _flare(python: Path, folder: Path, times: Path, participants: int, rounds: int) -> None:
    """The simulator: every participant is a thread's or a process's, as it chooses."""
    told = [
        *(str(python), str(PEERS / "flare_server.py"), str(PEERS), str(participants), str(rounds + 1)),
        *(str(times), str(folder / "workspace")),
    ]
    _run(told, _environment(PYTHONPATH=str(PEERS)), folder / "run.log", lambda: _lines(times) > rounds)


CONTENDERS: dict[str, Callable[[Path, Path, Path, int, int], None]] = {"flare": _flare}


def _run(command: list[str], env: dict[str, str], log: Path, done: Callable[[], bool]) -> None:
    """Run a command until what is wanted of it is there; raises `TimeoutError` if it never is."""
    with _running(command, env, log) as process:
        until_s = time.monotonic() + ALL_S
        while not done():
            if process.poll() is not None and not done():
                raise TimeoutError(f"ended with status {process.returncode}: {log.read_text()[-2000:]}")
            if time.monotonic() > until_s:
                raise TimeoutError(f"took over {ALL_S:g} s: {log.read_text()[-2000:]}")
            time.sleep(0.2)


@contextmanager
def _running(command: list[str], env: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in a session of its own, which ends with the context, its children with it."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)
    try:
        yield process
    finally:
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, sent)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return {**kept, "FLWR_TELEMETRY_ENABLED": "0", **more}


def _lines(path: Path) -> int:
    return len(path.read_text().split()) if path.exists() else 0
