"""The system under measurement: broker, manager and proplets, each a process of its own, as users start them.

It must not know what is measured.
"""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import machine
from peers import HttpConnection

from propeller.broker.credentials import CredentialStore
from propeller.broker.principals import Kind
from propeller.roles.identity import Config
from propeller.roles.provision import Wanted, ensure
from propeller.wire.topics import Topics

START_S = 60.0
STOP_S = 10.0


@dataclass(kw_only=True)
class System:
    """One running system; `broker` is its kind. `pids` names the processes by role."""

    broker: str
    home: Path
    config: Config
    mqtt_port: int
    http_port: int
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def topics(self) -> Topics:
        """The topics of its channel."""
        manager = self.config.identity("manager")
        return Topics(manager.domain_id, manager.channel_id)

    def pids(self, *roles: str) -> list[int]:
        """The processes of these roles, their children included; of all without any."""
        return [
            pid
            for role, process in self.processes.items()
            if not roles or role.startswith(roles)
            for pid in machine.family(process.pid)
        ]

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds by role; `load` is this program."""
        found = {role: machine.cpu_s(self.pids(role)) for role in ("manager", "broker", "proplet")}
        return found | {"load": machine.cpu_s([os.getpid()])}

    async def http(self) -> HttpConnection:
        """A connection to the manager."""
        return await HttpConnection.open(self.http_port)

    def spawn(self, role: str, *words: str) -> "subprocess.Popen[bytes]":
        """Start a role of this system; its log goes to a file of its name."""
        command = [sys.executable, "-m", "propeller", *words]
        with (self.home / f"{role}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=_environment(), cwd=self.home)
        self.processes[role] = process
        return process

    def start_broker(self) -> None:
        """Start the broker."""
        self.spawn(
            "broker", "broker", "--kind", self.broker, "--port", str(self.mqtt_port),
            "--data-dir", str(self.home),
        )  # fmt: skip

    async def until_broker(self) -> None:
        """Wait until the broker listens."""
        await _listening(self.mqtt_port)

    def start_manager(self) -> None:
        """Start the manager."""
        self.spawn(
            "manager", "manager", "--port", str(self.http_port), "--data-dir", str(self.home),
            "--config", str(self.home / "config.toml"), "--mqtt-address", self.mqtt_address,
        )  # fmt: skip

    def start_proplet(self, number: int, slots: int) -> None:
        """Start a real proplet."""
        self.spawn(
            f"proplet{number}", "proplet", "--config", str(self.home / "config.toml"),
            "--section", f"proplet{number}", "--data-dir", str(self.home), "--slots", str(slots),
            "--mqtt-address", self.mqtt_address, "--manager-url", f"http://127.0.0.1:{self.http_port}",
            "--no-metrics",
        )  # fmt: skip

    @property
    def mqtt_address(self) -> str:
        """Where the broker listens."""
        return f"tcp://127.0.0.1:{self.mqtt_port}"

    def enlist(self, count: int) -> dict[str, str]:
        """Let `count` further proplets in; their keys by id. Call it before the broker starts."""
        keys = {f"light-{number:05}": secrets.token_urlsafe(32) for number in range(count)}
        CredentialStore(self.home / "broker").add_all(Kind.PROPLET, keys)
        return keys

    def stop(self, role: str) -> None:
        """End a process and wait for it."""
        process = self.processes.pop(role)
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)

    def check(self) -> None:
        """Raise if a process has ended."""
        for role, process in self.processes.items():
            if process.poll() is not None:
                said = (self.home / f"{role}.log").read_text()[-2000:]
                raise RuntimeError(f"{role} ended with status {process.returncode}: {said}")

    async def answering(self) -> HttpConnection:
        """A connection to the manager, as soon as it is healthy."""
        deadline_s = time.monotonic() + START_S
        while True:
            self.check()
            try:
                connection = await self.http()
                status, _ = await connection.request("GET", "/health")
            except OSError:
                status = 0
            if status == 200:  # noqa: PLR2004 - HTTP
                return connection
            if time.monotonic() > deadline_s:
                raise TimeoutError("the manager does not answer")
            await asyncio.sleep(0.005)

    async def until_alive(self, count: int) -> None:
        """Wait until so many proplets are alive."""
        connection = await self.answering()
        deadline_s = time.monotonic() + START_S
        while (await connection.json("GET", "/proplets?status=active&limit=1"))["total"] < count:
            self.check()
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{count} proplets are not alive")
            await asyncio.sleep(0.1)
        connection.close()


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def made(home: Path, broker: str, proplets: int) -> System:
    """A system that has identities, and of which nothing runs yet."""
    home.mkdir(parents=True, mode=0o700)
    config = ensure(home / "config.toml", home / "broker", Wanted(proplets=proplets))
    return System(broker=broker, home=home, config=config, mqtt_port=free_port(), http_port=free_port())


@asynccontextmanager
async def running(home: Path, broker: str, *, proplets: int = 0, slots: int = 1) -> AsyncIterator[System]:
    """A system that is ready for work, for the life of the context."""
    system = made(home, broker, proplets)
    async with stopping(system):
        await begin(system, proplets=proplets, slots=slots)
        yield system


async def begin(system: System, *, proplets: int = 0, slots: int = 1) -> None:
    """Start broker, manager and proplets, and wait until all are ready."""
    system.start_broker()
    await system.until_broker()
    system.start_manager()
    (await system.answering()).close()
    for number in range(1, proplets + 1):
        system.start_proplet(number, slots)
    await system.until_alive(proplets)


@asynccontextmanager
async def stopping(system: System) -> AsyncIterator[None]:
    """End whatever of the system runs when the context ends."""
    try:
        yield
    finally:
        for role in reversed(list(system.processes)):
            system.stop(role)


async def _listening(port: int) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(0.02)
            continue
        writer.close()
        await writer.wait_closed()
        return


def _environment() -> dict[str, str]:
    """Ours without settings that would name another identity or place, or keep modules uncompiled."""
    foreign = ("PROP", "MANAGER_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"PATH": kept.get("PATH", "") + os.pathsep + "/usr/sbin"}
