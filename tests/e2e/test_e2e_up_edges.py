"""The edges of `propeller up`: taken ports, a taken directory, an outside broker, a worker that dies."""

import os
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from walk_system import PROPELLER, alive, family, free_ports, started, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def _fails(*arguments: str) -> str:
    """The one line of a command that must fail."""
    done = subprocess.run(
        [str(PROPELLER), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("role", ["manager", "model-registry", "mqtt"])
def test_a_taken_port_is_one_line_and_nothing_starts(tmp_path: Path, role: str):
    """The line names the port and the flag that changes it; no other port was left listening."""
    ports = free_ports()
    flags = [part for name, port in ports.items() for part in (f"--{name}-port", str(port))]
    with closing(socket.create_server(("127.0.0.1", ports[role]))):
        line = _fails("up", "--data-dir", str(tmp_path / "d"), *flags)
    assert str(ports[role]) in line
    assert f"--{role}-port" in line
    assert not (tmp_path / "d" / "running.json").exists()
    for port in ports.values():
        with closing(socket.create_server(("127.0.0.1", port))):
            pass


def test_one_directory_has_one_system_and_the_same_workers_again(tmp_path: Path):
    """A second `up` is refused while the first runs; after it, the same identities come up again."""
    with started(tmp_path / "d", proplets=1) as system:
        before = system.proplets
        assert "--data-dir" in _fails("up", "--data-dir", str(tmp_path / "d"), "--free-ports")
        began_s = time.monotonic()
        system.process.send_signal(signal.SIGTERM)
        assert system.process.wait(10) == 0
        assert time.monotonic() - began_s < 5
        system.again()
        assert system.proplets == before


def test_workers_end_with_a_killed_system_and_start_again_alone(tmp_path: Path):
    """A killed worker is replaced, under the same identity; a killed `up` takes its workers with it."""
    with started(tmp_path / "d", proplets=1) as system:
        (first,) = system.children().values()
        os.kill(first, signal.SIGKILL)
        until("another process", lambda: set(system.children().values()) - {first})
        replacement = system.children()["proplet1"]

        def listed_alive() -> bool:
            return [one["alive"] for one in system.get("manager", "/proplets").body["proplets"]] == [True]

        until("alive again", listed_alive)
        had = family(system.process.pid)
        system.kill()
        until("workers gone", lambda: not any(map(alive, had)), 5.0)
        assert replacement in had


def test_an_outside_broker_needs_only_its_address_and_credentials(tmp_path: Path):
    """`provision` makes the credentials, another process is the broker, and a round completes over it."""
    config, ports = tmp_path / "config.toml", free_ports()
    made = ["provision", "-f", str(config), "--data-dir", str(tmp_path / "b"), "--proplets", "1"]
    subprocess.run([str(PROPELLER), *made], check=True, capture_output=True, timeout=60)
    broker = subprocess.Popen(
        [str(PROPELLER), "broker", "--data-dir", str(tmp_path / "b"), "--port", str(ports["mqtt"])],
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"tcp://127.0.0.1:{ports['mqtt']}"
        flags = ("--broker", address, "--config", str(config))
        with started(tmp_path / "d", *flags, proplets=1, ports=ports) as system:
            system.outside = ("mqtt",)
            system.push()
            image = f"localhost:{ports['registry']}/fl-client-wasm:latest"
            asked = system.begin_round("r1", participants=system.proplets, k_of_n=1, task_wasm_image=image)
            assert asked.status == 200, asked.body
            assert system.completed("r1")["completed"]
    finally:
        broker.terminate()
        broker.wait(10)


def test_a_broker_that_is_not_there_is_named(tmp_path: Path):
    """One line with the address, and not the proplets that never came."""
    line = _fails("up", "--data-dir", str(tmp_path / "d"), "--free-ports", "--broker", "tcp://127.0.0.1:9")
    assert "127.0.0.1:9" in line
    assert "--broker" in line
