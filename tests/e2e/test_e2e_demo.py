"""`propeller demo` in real processes: the numbers that it promises, and that it leaves nothing behind."""

import json
import os
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from walk_system import PROPELLER

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def _demo(*arguments: str, scratch: Path) -> tuple[dict[str, object], str]:
    """The demo's last line of stdout, decoded, and what it said on stderr."""
    done = subprocess.run(
        [str(PROPELLER), "demo", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_the_demo_keeps_its_promises(tmp_path: Path):
    """Federated is within 1.5 points of central, each round made a model, taken ports are no obstacle."""
    with _default_port_taken():
        told, progress = _demo("--plot", str(tmp_path / "demo.png"), scratch=tmp_path)
    assert told["rounds"] == 20
    assert told["updates"] == 60
    assert told["accuracy"] >= told["centralised_accuracy"] - 0.015
    assert told["centralised_accuracy"] > 0.95
    assert told["wall_s"] < 40
    assert 0 < told["round_s_p50"] < 2
    models = told["models"]
    assert len(set(models)) == 20
    assert all(len(one) == 64 for one in models)
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert "20/20" in progress
    assert not list(tmp_path.glob("propeller-demo-*"))
    again, _ = _demo("--rounds", "3", scratch=tmp_path)
    assert again["models"] == models[:3], "the same demo gives the same models"


def test_an_interrupted_demo_stops_everything(tmp_path: Path):
    """SIGTERM in the middle ends the demo, its system and its workers, and removes its directory."""
    process = subprocess.Popen(
        [str(PROPELLER), "demo"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if "2/20" in line:
                break
        process.terminate()
        process.communicate(timeout=15)
    assert process.returncode == 130
    assert not list(tmp_path.glob("propeller-demo-*"))
    assert not [one for one in _command_lines() if str(tmp_path) in one]


def _default_port_taken() -> "closing[socket.socket]":
    """Port 7070 taken, by us or by whoever has it already."""
    try:
        return closing(socket.create_server(("127.0.0.1", 7070)))
    except OSError:
        return closing(socket.socket())


def _command_lines() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def test_a_demo_that_cannot_start_says_why(tmp_path: Path):
    """A data directory that cannot be used ends the demo with one line."""
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    done = subprocess.run(
        [str(PROPELLER), "demo", "--data-dir", str(blocked)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(blocked) in done.stderr
