"""Emulated Linux gateways for real: Debian's kernel in QEMU, this Python, and the ordinary proplet."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from propeller.emulation import boards, gateway
from propeller.errors import EnvironmentError_

CACHE = Path.home() / ".cache" / "propeller"
PROPELLER = Path(sys.executable).with_name("propeller")

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("emulation")]


def _board(name: str) -> boards.Board:
    """The board, where this machine can emulate it."""
    board = boards.board(name)
    if shutil.which(board.program) is None:
        pytest.skip(f"missing Debian package: {board.package}")
    return board


def _fleet(directory: Path, *more: str) -> dict:
    command = [PROPELLER, "emulate", "--network", "user", "--json"]
    done = subprocess.run(
        [*command, "--data-dir", directory, *more], capture_output=True, text=True, check=False, timeout=500
    )
    if "missing Debian package" in done.stderr:
        pytest.skip(done.stderr[done.stderr.index("missing Debian package") :].strip())
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "name", ["linux-x86_64", pytest.param("linux-aarch64", marks=pytest.mark.long)]
)  # the second: 40 MB of packages and wheels
def test_two_gateways_train_as_plain_proplets_do(name, tmp_path):
    """Two emulated computers finish rounds, and their models are plain proplets' to the last bit."""
    told = ("--rounds", "2", "--epochs", "1")
    fleet = _fleet(tmp_path / "fleet", *told, "--board", f"{_board(name).name}=2")
    assert (fleet["devices_ready"], fleet["rounds"], fleet["updates"], fleet["panics"]) == (2, 2, 4, 0)
    assert fleet["device_mb"] > 0
    assert fleet["received_bytes"] > fleet["sent_bytes"] > 0
    assert not list((tmp_path / "fleet").glob("*.in")), "the consoles are still there"
    plain = _fleet(tmp_path / "plain", *told, "--board", "plain", "--devices", "2")
    assert [one["model"] for one in fleet["history"]] == [one["model"] for one in plain["history"]]


def test_the_file_system_has_what_a_proplet_imports_and_is_made_once():
    """The archive holds this interpreter and our proplet; with the same inputs it stays as it is."""
    _board("linux-x86_64")
    try:
        image = gateway.build(boards.LINUX_X86, CACHE)
    except EnvironmentError_ as error:
        pytest.skip(error.message)
    names = {name for name, _, _ in gateway._contents("/python", gateway.own_files(), {})}
    assert "init" in names
    assert {"site/propeller/proplet/app.pyc", "site/wasmtime/__init__.pyc"} <= names
    made_ns = image.initrd.stat().st_mtime_ns
    assert gateway.build(boards.LINUX_X86, CACHE).initrd.stat().st_mtime_ns == made_ns
