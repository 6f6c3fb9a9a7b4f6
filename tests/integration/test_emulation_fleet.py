"""Whole fleets of emulated boards by `propeller emulate`: on a network that loses packets, and how they end.

A few boards stand for many; the Zephyr and WAMR trees say whether any are there.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from firmware_images import firmware_image

PROPELLER = Path(sys.executable).with_name("propeller")
TOLD = ("--rounds", "2", "--epochs", "1")

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.xdist_group("firmware_qemu")]


@pytest.fixture(scope="module")
def builds(tmp_path_factory) -> Path:
    """Where the boards' firmware is built."""
    if os.geteuid() != 0:
        pytest.skip("missing capability: a bridge in a network namespace (root)")
    if shutil.which("ip") is None:
        pytest.skip("missing Debian package: iproute2")
    if shutil.which("iptables") is None:
        pytest.skip("missing Debian package: iptables")
    return firmware_image("qemu_x86", tmp_path_factory.getbasetemp()).kernel.parents[2]


def fleet(directory: Path, *told: str) -> dict[str, Any]:
    """The result of one run."""
    command = [PROPELLER, "emulate", "--json", "--data-dir", directory, *told]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def models(result: dict[str, Any]) -> list[str]:
    """The hash of each round's model."""
    return [one["model"] for one in result["history"]]


@pytest.fixture(scope="module")
def undisturbed(builds, tmp_path_factory) -> list[str]:
    """The models of two ordinary proplets."""
    told = ("--board", "plain", "--devices", "2")
    return models(fleet(tmp_path_factory.mktemp("plain"), *told, *TOLD))


def test_a_tenth_of_all_packets_lost_makes_a_fleet_slower_and_nothing_else(builds, undisturbed, tmp_path):
    """N4: with every tenth packet dropped each way, boards make the models of ordinary proplets."""
    told = ("--firmware", str(builds), "--devices", "2", "--loss", "10%")
    seen = fleet(tmp_path, *told, *TOLD)
    assert (seen["devices_ready"], seen["rounds"], seen["updates"], seen["panics"]) == (2, 2, 4, 0)
    assert seen["loss_by"] == "iptables"
    assert seen["tcp_resent"] + seen["host_tcp_resent"] > 0
    assert models(seen) == undisturbed


@pytest.fixture
def running(builds, tmp_path) -> Iterator["subprocess.Popen[str]"]:
    """A fleet in the middle of its rounds."""
    told = (
        "--firmware",
        str(builds),
        "--devices",
        "2",
        "--rounds",
        "1000",
        "--epochs",
        "1",
        "--cpu-share",
        "0.9",
    )
    process = subprocess.Popen(
        [PROPELLER, "emulate", "--data-dir", tmp_path, *told], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("round 1"):
            break
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def left_of(directory: Path) -> list[str]:
    """The commands of processes that name the directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in command:
            found.append(command)
    return found


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_a_fleet_ends_nothing_of_it_is_left(running, tmp_path, by):
    """After Ctrl-C, SIGTERM or kill -9 there is no device, no service, no network and no group."""
    told = subprocess.run(
        [PROPELLER, "emulate", "console", "2", "--data-dir", tmp_path],
        input="status\n", capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert '"welcomed":true' in told.stdout
    assert len(left_of(tmp_path)) > 3
    running.send_signal(by)
    running.stdout.read()
    assert running.wait(60) == (130 if by != signal.SIGKILL else -by)
    deadline = time.monotonic() + 60
    while left := left_of(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    if by != signal.SIGKILL:
        assert not [path for path in tmp_path.iterdir() if path.is_fifo() or path.is_socket()]
        assert not list(Path("/sys/fs/cgroup").glob(f"**/propeller-fleet-{running.pid}"))
