"""A whole system in real processes on free ports, and the hands that use it. No test lives here.

`started` runs `propeller up` as a user would, `System` speaks to it by HTTP, curl and the command line, and
the end of the context proves that nothing is left: no process, and no port that somebody still listens on.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

T = TypeVar("T")
PROPELLER = Path(sys.executable).with_name("propeller")
ROOT = Path(__file__).parents[2]
TRAINER = ROOT / "src" / "propeller" / "roles" / "assets" / "logreg.wasm"
SBIN = ":/usr/sbin:/sbin"
IMAGE = "local-registry:5000/fl-client-wasm:latest"
PORTS = {
    "manager": 7070,
    "coordinator": 8086,
    "aggregator": 8085,
    "model-registry": 8084,
    "data-store": 8083,
    "registry": 5000,
    "mqtt": 1883,
}
"""The published ports, by the name in the flag that changes each."""
JSON = "application/json"
START_S = 40.0
STOP_S = 20.0
POLL_S = 0.05
TERMINAL = {3, 4, 5, 6}


class Answer(NamedTuple):
    """One HTTP answer; `body` is decoded JSON, or text where it is none."""

    status: int
    body: Any


def need(program: str, package: str) -> str:
    """Where a Debian program is; skip the test without it."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + SBIN)
    if found is None:
        pytest.skip(f"missing Debian package: {package}")
    return found


def until(what: str, ask: Callable[[], T], timeout_s: float = 20.0) -> T:
    """The first true answer of `ask`, or a failure that shows the last one."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {timeout_s} s; last answer: {answer!r}")
        time.sleep(POLL_S)


def free_ports() -> dict[str, int]:
    """A free port for every role, all different."""
    probes = {role: socket.socket() for role in PORTS}
    try:
        for probe in probes.values():
            probe.bind(("127.0.0.1", 0))
        return {role: int(probe.getsockname()[1]) for role, probe in probes.items()}
    finally:
        for probe in probes.values():
            probe.close()


def listening(port: int) -> bool:
    """Whether anybody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def family(pid: int) -> list[int]:
    """Every process that `pid` started, and theirs."""
    parents = _parents()
    found, edge = [], [pid]
    while edge:
        edge = [child for child, parent in parents.items() if parent in edge]
        found += edge
    return found


def command_line(pid: int) -> str:
    """What the process was started with."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def request(
    url: str, body: Any = None, *, method: str = "", headers: Mapping[str, str] | None = None
) -> Answer:
    """One request; `body` is sent as JSON unless it is bytes."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(url, data=data, method=method or None, headers=dict(headers or {}))  # noqa: S310 - our own URLs
    if data is not None and not asked.has_header("Content-type"):
        asked.add_header("Content-Type", JSON)
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310 - as above
            return Answer(answer.status, _decoded(answer.read()))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _decoded(error.read()))


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


def read_env_file(path: Path) -> dict[str, str]:
    """What a shell has after reading the env file: read by a real one."""
    shell = f". {path}; env -0"
    output = subprocess.run(["sh", "-c", shell], env={}, capture_output=True, check=True).stdout
    return dict(line.split("=", 1) for line in output.decode().split("\0") if line)


@dataclass(kw_only=True)
class System:
    """One `propeller up`: where it is, and what to ask it."""

    data: Path
    ports: dict[str, int]
    flags: list[str]
    process: subprocess.Popen[bytes]
    env: dict[str, str] = field(default_factory=dict)
    outside: tuple[str, ...] = ()
    """Roles whose port belongs to a process that is not ours to stop."""

    # --- asking

    def url(self, role: str, path: str = "") -> str:
        """A URL of a role."""
        return f"http://localhost:{self.ports[role]}{path}"

    def get(self, role: str, path: str) -> Answer:
        """GET."""
        return request(self.url(role, path))

    def post(self, role: str, path: str, body: Any = b"") -> Answer:
        """POST of JSON; without a body, an empty one."""
        return request(self.url(role, path), body, method="POST")

    def published(self, text: str) -> str:
        """A published command with this system's ports for the published ones."""
        for role, port in PORTS.items():
            text = text.replace(f"localhost:{port}", f"localhost:{self.ports[role]}")
        return text

    def curl(self, *arguments: str) -> Answer:
        """What curl answers to arguments as published."""
        command = [need("curl", "curl"), "-sS", "-w", "\n%{http_code}"]
        command += [self.published(argument) for argument in arguments]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        body, _, status = output.rpartition("\n")
        return Answer(int(status), _decoded(body.encode()))

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run our command line, its roles being this system's."""
        services = ("manager", "coordinator", "aggregator", "model-registry", "data-store")
        where = [part for role in services for part in (f"--{role}-url", self.url(role))]
        command = [str(PROPELLER), *where, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    @property
    def proplets(self) -> list[str]:
        """The ids of the proplets that `up` made, from the env file as a shell reads them."""
        names = [name for name in self.env if name.startswith("PROPLET_") and name.endswith("CLIENT_ID")]
        return [self.env[name] for name in sorted(names, key=lambda name: (len(name), name))]

    # --- doing

    def push(self, file: Path = TRAINER, name: str = "fl-client-wasm:latest") -> None:
        """Push a module to the registry with our own command."""
        self.cli("image", "push", str(file), f"localhost:{self.ports['registry']}/{name}")

    def task(self, **fields: Any) -> str:
        """Create a task; its id."""
        status, body = self.post("manager", "/tasks", fields)
        assert status == 201, body
        return body["id"]

    def run(self, **fields: Any) -> dict[str, Any]:
        """Create and start a task, and wait for its end."""
        task_id = self.task(**fields)
        started = self.post("manager", f"/tasks/{task_id}/start")
        assert started == (200, {"started": True}), started
        return self.ended(task_id)

    def ended(self, task_id: str, timeout_s: float = 20.0) -> dict[str, Any]:
        """The task once it is in a terminal state."""
        return self.in_state(task_id, TERMINAL, timeout_s)

    def in_state(self, task_id: str, states: set[int], timeout_s: float = 20.0) -> dict[str, Any]:
        """The task once it is in one of `states`."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.update(self.get("manager", f"/tasks/{task_id}").body)
            return seen["state"] in states

        until(f"task {task_id} in {states}", lambda: look() or not seen.get("id"), timeout_s)
        return seen

    def begin_round(self, round_id: str, **fields: Any) -> Answer:
        """`POST /fl/experiments` as published, over all proplets, with `fields` changed."""
        body = {
            "experiment_id": f"exp-{round_id}",
            "round_id": round_id,
            "model_ref": "fl/models/global_model_v0",
            "participants": self.proplets[:3],
            "hyperparams": {"epochs": 1, "lr": 0.01, "batch_size": 16},
            "k_of_n": 3,
            "timeout_s": 60,
            "task_wasm_image": IMAGE,
        }
        return self.post("manager", "/fl/experiments", body | fields)

    def status(self, round_id: str) -> dict[str, Any]:
        """How far the round is."""
        status, body = self.get("coordinator", f"/rounds/{round_id}/complete")
        assert status == 200, body
        return body

    def completed(self, round_id: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """The round's status once it is over."""

        def over() -> dict[str, Any]:
            found = self.status(round_id)
            return found if found["state"] in {"completed", "failed"} else {}

        return until(f"round {round_id} is over", over, timeout_s)

    # --- life

    def log(self, role: str) -> str:
        """A role's log file."""
        return (self.data / "logs" / f"{role}.log").read_text()

    def children(self) -> dict[str, int]:
        """The proplets' processes, by section, as their pid files name them."""
        files = sorted(self.data.glob("proplets/*/pid"))
        pids = {file.parent.name: int(file.read_text() or 0) for file in files}
        return {section: pid for section, pid in pids.items() if pid and alive(pid)}

    def kill(self) -> list[int]:
        """SIGKILL the process of `up`; the processes that it had started."""
        had = family(self.process.pid)
        self.process.kill()
        self.process.wait(STOP_S)
        return had

    def again(self) -> None:
        """Start `up` on the same data directory and ports, and wait until it is ready."""
        self.process = _up(self.data, self.ports, self.flags)
        self.env = _ready(self.process, self.data)

    def stop(self) -> None:
        """End it as Ctrl-C does, and prove that nothing is left."""
        had = family(self.process.pid)
        begun_s = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(STOP_S)
        self.check_gone([self.process.pid, *had])
        assert status in {0, 130}, (status, _errors(self.data))
        assert time.monotonic() - begun_s < 10, "stopping took 10 s"
        assert not (self.data / "running.json").exists()

    def check_gone(self, pids: list[int]) -> None:
        """Fail if one of the processes lives or one of our ports is listened on, after a moment."""
        until(f"end of {pids}", lambda: not any(map(alive, pids)), 5.0)
        left = [role for role, port in self.ports.items() if role not in self.outside and listening(port)]
        assert not left, f"somebody still listens for {left}"


def _up(
    data: Path, ports: Mapping[str, int], flags: list[str], prefix: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    data.mkdir(parents=True, exist_ok=True)
    env_file = data / "env"
    env_file.unlink(missing_ok=True)
    command = [*prefix, str(PROPELLER), "up", "--data-dir", str(data), "--env-file", str(env_file), *flags]
    command += [part for role, port in ports.items() for part in (f"--{role}-port", str(port))]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROP")}
    environment["PATH"] = environment.get("PATH", "") + SBIN
    with (data / "stdout").open("wb") as stdout, (data / "stderr").open("wb") as stderr:
        return subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment)


def _errors(data: Path) -> str:
    return (data / "stderr").read_text()


def _ready(process: subprocess.Popen[bytes], data: Path) -> dict[str, str]:
    def said() -> bool:
        assert process.poll() is None, _errors(data)
        return "Everything runs" in (data / "stdout").read_text()

    until("up is ready", said, START_S)
    return read_env_file(data / "env")


@contextmanager
def started(
    data: Path,
    *flags: str,
    proplets: int = 3,
    ports: dict[str, int] | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[System]:
    """A running system for the life of the context; then a proof that it is gone.

    `prefix` is a command that becomes it, such as a shell that sets limits.
    """
    told = ["--proplets", str(proplets), *flags]
    ports = ports or free_ports()
    system = System(data=data, ports=ports, flags=told, process=_up(data, ports, told, prefix))
    try:
        system.env = _ready(system.process, data)
        yield system
    except BaseException:
        system.process.terminate()
        system.process.wait(STOP_S)
        raise
    if system.process.poll() is None:
        system.stop()


@contextmanager
def joined(system: System, config: Path, home: Path, *flags: str) -> Iterator[str]:
    """Another worker, as in another terminal: `propeller proplet`, alive at the manager; its id."""
    with config.open("rb") as text:
        (identity,) = [one for name, one in tomllib.load(text).items() if name.startswith("proplet")]
    proplet_id = str(identity["client_id"])
    command = [str(PROPELLER), "proplet", "--config", str(config), "--data-dir", str(home), *flags]
    with (home / "proplet.log").open("ab") as log:
        process = subprocess.Popen([*command, "--metrics-port", "0"], stdout=log, stderr=log)

    def is_alive() -> bool:
        assert process.poll() is None, (home / "proplet.log").read_text()
        answer = system.get("manager", f"/proplets/{proplet_id}")
        return answer.status == 200 and answer.body["alive"]

    try:
        until("the worker has joined", is_alive)
        yield proplet_id
    finally:
        process.terminate()
        process.wait(STOP_S)
