"""E5 to E8: few descriptors, little address space, a read-only disk, an end in the middle of the start."""

import base64
import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from walk_system import PROPELLER, alive, command_line, family, free_ports, listening, request, started, until
from wasmtime import wat2wasm

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
ADD = "AGFzbQEAAAABBwFgAn9/AX8DAgEABwgBBG1haW4AAAoJAQcAIAAgAWoL"
"""`main(i32, i32) -> i32`, the sum, as base64."""
MEMORY = '(module (memory 16 1024) (func (export "main") (result i32) (memory.grow (i32.const 512))))'
"""Wants 32 MiB more, and may come to have 64."""
DESCRIPTORS = 64
ADDRESS_BYTES = 3_000_000_000


def limited(limits: str) -> tuple[str, ...]:
    """A command that sets limits and becomes another."""
    return ("sh", "-c", f'{limits}; exec "$@"', "sh")


@contextlib.contextmanager
def manager(data: Path, *prefix: str) -> Iterator[tuple[int, subprocess.Popen]]:
    """A broker and a manager alone; `prefix` is a command that becomes the manager. Its port and process."""
    ports, config = free_ports(), data / "config.toml"
    made = ["provision", "-f", str(config), "--data-dir", str(data), "--proplets", "1"]
    made += ["--mqtt-port", str(ports["mqtt"])]
    subprocess.run([str(PROPELLER), *made], check=True, capture_output=True, timeout=60)
    broker = [str(PROPELLER), "broker", "--data-dir", str(data), "--port", str(ports["mqtt"])]
    command = [*prefix, str(PROPELLER), "manager", "--config", str(config), "--data-dir", str(data)]
    told = ["--port", str(ports["manager"])]

    with (data / "manager.log").open("wb") as log:
        processes = [
            subprocess.Popen(broker, stderr=subprocess.DEVNULL),
            subprocess.Popen([*command, *told], stderr=log),
        ]
    try:
        yield ports["manager"], processes[1]
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(20)


def healthy(port: int) -> bool:
    """Whether the manager there answers within a second."""
    with contextlib.suppress(OSError):
        return request(f"http://127.0.0.1:{port}/health").status == 200
    return False


def test_a_manager_with_64_descriptors_outlives_a_flood(tmp_path: Path):
    """E5: more connections than it has descriptors: it waits, and answers as soon as they are gone."""
    with manager(tmp_path, *limited(f"ulimit -n {DESCRIPTORS}")) as (port, process):
        until("health", lambda: healthy(port))
        with contextlib.ExitStack() as stack:
            for _ in range(2 * DESCRIPTORS):
                stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", port))))
            assert process.poll() is None
        until("health after the flood", lambda: healthy(port))
        body = {"name": "main", "image_url": "a"}
        assert request(f"http://127.0.0.1:{port}/tasks", body).status == 201
        assert process.poll() is None


def test_too_few_descriptors_for_everything_are_named(tmp_path: Path):
    """E5: `up` says how many it needs and where to ask for them, instead of starting halfway."""
    command = f"ulimit -n {DESCRIPTORS}; exec {PROPELLER} up --data-dir {tmp_path / 'd'} --free-ports"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "descriptors" in done.stderr
    assert "ulimit -n" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "d" / "running.json").exists()


def test_little_address_space_fails_the_task_and_not_the_worker(tmp_path: Path):
    """E6: a guest cannot be given its memory: its task fails with a reason, and the next one is tried too."""
    prefix = limited(f"ulimit -v {ADDRESS_BYTES // 1024}")
    file = base64.b64encode(wat2wasm(MEMORY)).decode()
    with started(tmp_path / "d", proplets=1, prefix=prefix) as system:
        for _ in range(2):
            ended = system.run(name="main", file=file, reschedule={"attempts": 0})
            assert ended["state"] == 3 or ended["failure"] not in {"", "internal", "lost"}, ended
        assert len(system.children()) == 1
        body = b'{"name": "x", "file": "' + b"A" * 90_000_000 + b'"}'
        answer = request(system.url("manager", "/tasks"), body)
        assert answer.status in {400, 413, 503, 507}, answer.status
        assert system.get("manager", "/health").status == 200


def read_only(data: Path) -> tuple[str, ...]:
    """A command that runs another with `data` mounted read-only; skips where that is not allowed."""
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    trial = ["unshare", "-rm", "sh", "-c", script, str(data), "true"]
    if shutil.which("unshare") is None or subprocess.run(trial, check=False, capture_output=True).returncode:
        pytest.skip("missing capability: mount namespaces (unshare -rm) are not allowed here")
    return tuple(trial[:-1])


@pytest.mark.parametrize("role", ["up", "manager", "coordinator", "model-registry", "data-store", "registry"])
def test_a_read_only_disk_is_said_at_once(tmp_path: Path, role: str):
    """E7: every role that keeps data refuses to start, in one line that names the place."""
    data = tmp_path / "d"
    data.mkdir()
    config = tmp_path / "config.toml"
    made = ["provision", "-f", str(config), "--data-dir", str(tmp_path / "other")]
    subprocess.run([str(PROPELLER), *made], check=True, capture_output=True, timeout=60)
    told = ["--free-ports"] if role == "up" else ["--port", "0"]
    if role in {"manager", "coordinator"}:
        told += ["--config", str(config)]
    command = [*read_only(data), str(PROPELLER), role, "--data-dir", str(data), *told]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert str(data) in last
    assert "ead-only" in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "moments_s",
    [(0.3, 0.9), pytest.param([0.1 * step for step in range(30)], marks=pytest.mark.long)],
    ids=["two", "thirty"],
)
def test_an_end_in_any_phase_of_the_start_is_clean(tmp_path: Path, moments_s):
    """E8: SIGTERM at any moment leaves no process, no port and no lock; the next start is like any other."""
    data, ports = tmp_path / "d", free_ports()
    flags = [part for role, port in ports.items() for part in (f"--{role}-port", str(port))]
    command = [str(PROPELLER), "up", "--data-dir", str(data), "--proplets", "1", *flags]
    for moment_s in moments_s:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(moment_s)
        had = family(process.pid)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
        assert process.returncode in {0, 130, -signal.SIGTERM}, (moment_s, process.returncode, said)
        assert "Traceback" not in said, (moment_s, said)
        until("the end of what it started", lambda had=had: not any(map(_runs, had)), 10.0)
        assert not [role for role, port in ports.items() if listening(port)], moment_s
    with started(data, proplets=1, ports=ports) as system:
        assert system.run(name="main", file=ADD, inputs=["40", "2"])["results"] == "42"


def _runs(pid: int) -> bool:
    return alive(pid) and "propeller" in command_line(pid)
