"""Whole fleets of emulated boards by `propeller emulate`: bad networks, little processor, deaths, mixes, end.

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


@pytest.mark.parametrize(
    ("told", "loss_by"),
    [(("--loss", "10%"), "iptables"), (("--bandwidth", "20kB", "--delay", "100ms"), "")],
)
def test_a_bad_network_makes_a_fleet_slower_and_nothing_else(builds, undisturbed, tmp_path, told, loss_by):
    """N4 N5 N6: with a tenth of all packets lost, or 20 kB/s and 200 ms, boards make proplets' models."""
    if loss_by == "iptables" and shutil.which("iptables") is None:
        pytest.skip("missing Debian package: iptables")
    seen = fleet(tmp_path, "--firmware", str(builds), "--devices", "2", *TOLD, *told)
    assert (seen["devices_ready"], seen["rounds"], seen["updates"], seen["panics"]) == (2, 2, 4, 0)
    assert seen["loss_by"] == loss_by
    # Without loss some are sent again, too: a full line looks like a lost segment to who waits for its end.
    assert not loss_by or seen["tcp_resent"] + seen["host_tcp_resent"] > 0
    assert models(seen) == undisturbed


def test_without_a_packet_filter_the_forwarder_loses(builds, undisturbed, tmp_path, monkeypatch):
    """N4: where the kernel's filter cannot be had, loss is waits of the forwarder, and the result says so."""
    (tmp_path / "iptables").write_text("#!/bin/sh\nexit 2\n")
    (tmp_path / "iptables").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told = ("--firmware", str(builds), "--devices", "2", "--loss", "5%")
    seen = fleet(tmp_path / "fleet", *told, *TOLD)
    assert (seen["loss_by"], seen["rounds"]) == ("proxy", 2)
    assert models(seen) == undisturbed


def test_boards_with_a_share_of_a_core_use_no_more(builds, undisturbed, tmp_path):
    """The kernel's group holds each board to its share, which makes it slower and nothing else."""
    told = ("--firmware", str(builds), "--devices", "2", "--cpu-share", "20%")
    seen = fleet(tmp_path, *told, *TOLD)
    assert seen["device_cpu_s"] <= 0.2 * seen["wall_s"] + 0.5
    assert models(seen) == undisturbed


def test_boards_that_die_in_a_round_are_back_for_the_next(builds, tmp_path):
    """Who loses its power is counted, boots again with what it is told again, and takes part again."""
    told = ("--firmware", str(builds), "--devices", "2", "--churn", "50%", "--timeout", "30s")
    seen = fleet(tmp_path, *told, "--rounds", "4", "--epochs", "1", "--seed", "3")
    assert seen["died"] == seen["returned"] > 0
    assert [one["participants"] for one in seen["history"]] == [2, 2, 2, 2]
    assert seen["updates"] >= 8 - seen["died"]


def test_boards_of_every_kind_train_together(builds, tmp_path):
    """x86, ARM and a small Linux computer in one fleet make the models of three ordinary proplets."""
    firmware_image("mps2_an385", builds)
    # Without a unit for floating point an emulated round takes 20 s, and minutes on a busy machine.
    mixed = ("--board", "qemu_x86=1,mps2_an385=1,linux-x86_64=1", "--timeout", "220s")
    seen = fleet(tmp_path / "mixed", "--firmware", str(builds), *mixed, *TOLD)
    assert (seen["devices_ready"], seen["rounds"], seen["updates"]) == (3, 2, 6)
    plain = fleet(tmp_path / "plain", "--board", "plain", "--devices", "3", *TOLD)
    assert models(seen) == models(plain)


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
