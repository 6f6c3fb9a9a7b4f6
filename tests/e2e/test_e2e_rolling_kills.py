"""R4, the long tier: everything is killed again and again while tasks and rounds go on.

`PROPELLER_LONG_S` says for how long (600 s), `PROPELLER_LONG_SEED` which kills (1).
"""

import http.client
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from outside_broker import Broker
from walk_system import PROPELLER, TERMINAL, Answer, System, free_ports, request, started, until

LONG_S = float(os.environ.get("PROPELLER_LONG_S", "600"))
SEED = int(os.environ.get("PROPELLER_LONG_SEED", "1"))
ADD = "AGFzbQEAAAABBwFgAn9/AX8DAgEABwgBBG1haW4AAAoJAQcAIAAgAWoL"
PAUSE_S = (5.0, 15.0)
SETTLE_S = 180.0

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(int(2 * LONG_S + 400))]


def asked(url: str, body: Any = None, method: str = "") -> Answer | None:
    """The answer, or None from whoever is dead at the moment."""
    try:
        return request(url, body, method=method)
    except (OSError, http.client.HTTPException):
        return None


class Load:
    """Tasks and rounds, one after the other, and what was accepted of them."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.tasks: list[str] = []
        self.rounds: list[str] = []
        self._number = 0

    def step(self) -> None:
        """Ask for one more task, and for one more round if the last is over."""
        self._number += 1
        name = f"t{self._number}"
        body = {"id": name, "name": "main", "file": ADD, "inputs": ["40", "2"]}
        if self._accepted("/tasks", body) and self._accepted(f"/tasks/{name}/start"):
            self.tasks.append(name)
        if self._number % 20 == 1 and (not self.rounds or self._over(self.rounds[-1])):
            self._round(f"r{self._number}")

    def _accepted(self, path: str, body: Any = b"") -> bool:
        """Whether it was: an answer may be lost, and the same again is then a conflict."""
        for _ in range(3):
            answer = asked(self._system.url("manager", path), body, "POST")
            if answer is not None and answer.status < 500:
                assert answer.status in {200, 201, 409}, answer
                return True
            time.sleep(0.2)
        return False

    def _round(self, name: str) -> None:
        try:
            image = f"localhost:{self._system.ports['registry']}/fl-client-wasm:latest"
            answer = self._system.begin_round(name, timeout_s=120, task_wasm_image=image)
        except (OSError, http.client.HTTPException):
            return
        if answer.status == 200:
            self.rounds.append(name)

    def _over(self, name: str) -> bool:
        answer = asked(self._system.url("coordinator", f"/rounds/{name}/complete"))
        return answer is not None and answer.status == 200 and answer.body["state"] in {"completed", "failed"}

    def check(self) -> None:
        """Everything accepted has ended, and what ended well ended once."""
        states = [self._system.ended(name, SETTLE_S) for name in self.tasks]
        for task in states:
            numbers = [one["attempt"] for one in task["attempts"]]
            assert numbers == sorted(set(numbers)), task
            assert task["state"] in TERMINAL
            assert task["state"] != 3 or task["results"] == "42", task
            assert task["state"] == 3 or task["failure"] in {"lost", "unplaced"}, task
        done = sum(task["state"] == 3 for task in states)
        assert done >= 0.9 * len(states), f"{done} of {len(states)} tasks completed"
        for name in self.rounds:
            until(f"round {name} is over", lambda name=name: self._over(name), SETTLE_S)
            detail = self._system.get("coordinator", f"/rounds/{name}").body
            who = [one["participant"] for one in detail["updates"]]
            assert len(who) == len(set(who)), name
        print(f"{done} of {len(states)} tasks completed, {len(self.rounds)} rounds over")


def test_rolling_kills(tmp_path: Path):
    """Every 5 to 15 s the broker, all services or a proplet: nothing accepted is lost or counted twice."""
    luck = random.Random(SEED)  # noqa: S311 - a run must replay
    config, ports = tmp_path / "config.toml", free_ports()
    made = ["provision", "-f", str(config), "--data-dir", str(tmp_path / "b"), "--proplets", "3"]
    subprocess.run([str(PROPELLER), *made], check=True, capture_output=True, timeout=60)
    broker = Broker(tmp_path / "b", ports["mqtt"], "embedded")
    flags = ("--broker", f"tcp://127.0.0.1:{ports['mqtt']}", "--config", str(config), "--heartbeat", "1s")
    try:
        with started(tmp_path / "d", *flags, ports=ports) as system:
            system.outside = ("mqtt",)
            system.push(name="fl-client-wasm:latest")
            load = Load(system)
            _storm(system, broker, load, luck)
            load.check()
            _grows_not(system, Load(system))
    finally:
        broker.kill()


def _storm(system: System, broker: Broker, load: Load, luck: random.Random) -> None:
    ends_s = time.monotonic() + LONG_S
    while time.monotonic() < ends_s:
        next_s = time.monotonic() + luck.uniform(*PAUSE_S)
        while time.monotonic() < min(next_s, ends_s):
            load.step()
            time.sleep(0.2)
        match luck.choice(["broker", "services", "proplet", "proplet"]):
            case "broker":
                broker.kill()
                time.sleep(luck.uniform(0.0, 3.0))
                broker.start()
            case "services":
                system.check_gone(system.kill())
                system.again()
            case _:
                if children := sorted(system.children().values()):
                    os.kill(luck.choice(children), signal.SIGKILL)


def _used(pid: int) -> tuple[int, int, int]:
    """Descriptors, threads and resident kilobytes of a process."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return descriptors, int(status["Threads"]), int(status["VmRSS"].split()[0])


def _grows_not(system: System, load: Load) -> None:
    """After the storm a hundred tasks cost the services no descriptor and no thread, and little memory."""
    load._number = 1_000_000
    samples = []
    for _ in range(3):
        for _ in range(50):
            load.step()
        load.check()
        samples.append(_used(system.process.pid))
    print(f"descriptors, threads, kB after 50, 100 and 150 tasks: {samples}")
    first, last = samples[0], samples[-1]
    assert last[0] <= first[0] + 8
    assert last[1] <= first[1] + 4
    assert last[2] <= first[2] + 20_000
