"""Peers on the same work, each in an environment of its own: NVIDIA FLARE's simulator, Flower's deployment.

A round lasts from the start of one to the start of the next, as ours do; the first, which waits for
everybody, does not count. Idle memory is weighed as ours is, before there is anything to do. What a peer
makes must read digits, or its times do not count. It knows nothing of our system.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from shutil import copytree
from statistics import median

from processes import memory_mb

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from environments import environment, say  # noqa: E402

PEERS = HERE / "peers"
WARM_UP = 1
STOP_S = 10.0
START_S = 120.0
SETTLE_S = 10.0
ALL_S = 600.0
ACCURACY_LEAST = 0.7
"""What a few rounds reach with ease, and a model that nobody trained never does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a peer is to do, and where it leaves its notes: a line with time and accuracy for every round."""

    python: Path
    folder: Path
    participants: int
    rounds: int

    @property
    def times(self) -> Path:
        """The notes."""
        return self.folder / "times"

    def begun(self) -> int:
        """How many rounds have begun."""
        return len(self.times.read_text().splitlines()) if self.times.exists() else 0


Contender = Callable[[Work], dict[str, object]]


def measure(participants: int, rounds: int) -> dict[str, object]:
    """`{peer}_round_s_p50` of each that ran, and what else it found; of the others, why not, on stderr."""
    found: dict[str, object] = {}
    for name, contender in CONTENDERS.items():
        python = environment(PEERS / name)
        if python is None:
            say(f"{name} cannot be installed here")
            continue
        say(f"{name}: {participants} participants, {rounds} rounds …")
        with tempfile.TemporaryDirectory(prefix="propeller-bench-peer-") as folder:
            # One more begins than counts: a round ends where the next one starts.
            work = Work(
                python=python, folder=Path(folder), participants=participants, rounds=rounds + WARM_UP + 1
            )
            try:
                more = contender(work)
                found |= {f"{name}_{key}": value for key, value in (_figures(work) | more).items()}
            except (OSError, ValueError, subprocess.SubprocessError, TimeoutError) as error:
                say(f"{name} did not run: {error}")
    return found


def _figures(work: Work) -> dict[str, object]:
    """What the notes say. Raises `ValueError` for a model that learned nothing."""
    notes = [[float(part) for part in line.split()] for line in work.times.read_text().splitlines()]
    lasted = [after[0] - before[0] for before, after in pairwise(notes)][WARM_UP:]
    if notes[-1][1] < ACCURACY_LEAST:
        raise ValueError(f"its model reads {notes[-1][1]:.0%} of the digits: it does other work")
    return {
        "round_s_p50": round(median(lasted), 3),
        "rounds": len(lasted),
        "accuracy": round(notes[-1][1], 4),
        "version": _version(work),
    }


def _version(work: Work) -> str:
    """What is installed, as the peer's list pins it."""
    return (work.python.parents[2] / "requirements.txt").read_text().partition("==")[2].split()[0]


# --- NVIDIA FLARE --------------------------------------------------------------------------------------


def _flare(work: Work) -> dict[str, object]:
    """The simulator: every participant is a thread's or a process's, as it chooses."""
    told = [
        *(str(work.python), str(PEERS / "flare" / "server.py"), str(PEERS), str(work.participants)),
        *(str(work.rounds), str(work.times), str(work.folder / "workspace")),
    ]
    log = work.folder / "run.log"
    with _running([told], _environment(work), [log]) as processes:
        _wait(lambda: work.begun() >= work.rounds, ALL_S, processes, [log])
    return {}


# --- Flower --------------------------------------------------------------------------------------------


def _flower(work: Work) -> dict[str, object]:
    """The deployment: a SuperLink, a SuperNode for each participant, an app that `flwr run` sends there."""
    app_io, fleet, control, *node_ports = _free_ports(3 + work.participants)
    link = [
        *(_program(work, "flower-superlink"), "--insecure"),
        *("--serverappio-api-address", _at(app_io)),
        *("--fleet-api-address", _at(fleet)),
        *("--control-api-address", _at(control)),
    ]
    nodes = [
        [
            *(_program(work, "flower-supernode"), "--insecure", "--superlink", _at(fleet)),
            *("--clientappio-api-address", _at(port)),
            *("--node-config", f"number={number} participants={work.participants}"),
        ]
        for number, port in enumerate(node_ports)
    ]
    env = _environment(work)
    link_log, run_log = work.folder / "superlink.log", work.folder / "run.log"
    node_logs = [work.folder / f"supernode-{number}.log" for number in range(len(nodes))]
    with ExitStack() as stack:
        links = stack.enter_context(_running([link], env, [link_log]))
        _wait(lambda: _open(fleet) and _open(control), START_S, links, [link_log])
        all_nodes = stack.enter_context(_running(nodes, env, node_logs))
        _wait(lambda: all(map(_open, node_ports)), START_S, all_nodes, node_logs)
        time.sleep(SETTLE_S)
        idle = sum(memory_mb(process.pid) for process in (*links, *all_nodes))
        _told(_flwr_run(work, control), env, run_log)
        _wait(lambda: work.begun() >= work.rounds, ALL_S, links, [link_log, *node_logs])
    return {"idle_mb": round(idle, 1)}


def _flwr_run(work: Work, control: int) -> list[str]:
    config = f"participants={work.participants} rounds={work.rounds} times='{work.times}'"
    where = f"address='{_at(control)}'"
    # A copy: it writes beside what it reads.
    app = copytree(PEERS / "flower" / "app", work.folder / "app")
    return [
        *(_program(work, "flwr"), "run", str(app), "bench"),
        *("--run-config", config, "--federation-config", where),
    ]


def _program(work: Work, name: str) -> str:
    return str(work.python.with_name(name))


def _at(port: int) -> str:
    return f"127.0.0.1:{port}"


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


CONTENDERS: dict[str, Contender] = {"flare": _flare, "flower": _flower}

# --- processes -----------------------------------------------------------------------------------------

Processes = Sequence["subprocess.Popen[bytes]"]


def _environment(work: Work) -> dict[str, str]:
    """Ours without our Python, and a home of the peer's own: it writes where it likes, and calls nobody."""
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return {
        **kept,
        "PATH": f"{work.python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": str(PEERS),
        "HOME": str(work.folder),
        "FLWR_HOME": str(work.folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
    }


def _told(command: list[str], env: dict[str, str], log: Path) -> None:
    """A command that ends by itself; raises `TimeoutError` with its words if it does not end well."""
    with _running([command], env, [log]) as processes:
        _wait(lambda: processes[0].poll() == 0, START_S, processes, [log])


def _wait(done: Callable[[], bool], most_s: float, processes: Processes, logs: Sequence[Path]) -> None:
    """Until what is wanted is there; raises `TimeoutError` if it never is, or a process ends before."""
    until_s = time.monotonic() + most_s
    while not done():
        ended = [one for one in processes if one.poll() is not None]
        if ended and not done():
            raise TimeoutError(f"ended with status {ended[0].returncode}: {_last_words(logs)}")
        if time.monotonic() > until_s:
            raise TimeoutError(f"took over {most_s:g} s: {_last_words(logs)}")
        time.sleep(0.2)


def _last_words(logs: Sequence[Path]) -> str:
    return "\n".join(log.read_text(errors="replace")[-2000:] for log in logs[:2])


@contextmanager
def _running(commands: Sequence[list[str]], env: dict[str, str], logs: Sequence[Path]) -> Iterator[Processes]:
    """Processes in sessions of their own, which end with the context, and their children with them."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command, log in zip(commands, logs, strict=True):
            with log.open("wb") as file:
                processes.append(
                    subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)
                )
        yield processes
    finally:
        _end(processes)


def _end(processes: Processes) -> None:
    """Ask the groups of all of them to end, wait for a while, and end what is left of those."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, sent)
        until_s = time.monotonic() + STOP_S
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, until_s - time.monotonic()))
