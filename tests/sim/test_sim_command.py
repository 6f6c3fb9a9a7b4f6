"""`propeller sim`: days from seeds, told on a terminal."""

import json

import pytest

from propeller.cli import main


def _out(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """What a command line exits with and prints."""
    status = 0
    try:
        main(list(arguments))
    except SystemExit as end:
        status = int(end.code or 0)
    return status, capsys.readouterr().out


def test_seeds_are_counted_and_none_is_broken(capsys):
    """The last line is one JSON object with what was lived through and what broke."""
    status, out = _out(capsys, "sim", "run", "--seeds", "2", "--first", "7", "--processes", "1", "--json")
    figures = json.loads(out.splitlines()[-1])
    assert status == 0
    assert (figures["seeds"], figures["first"], figures["broken"]) == (2, 7, [])


def test_a_replay_tells_the_story(capsys):
    """Faults, runs and rounds of the seed are told in order of time, and the verdict is last."""
    status, out = _out(capsys, "sim", "replay", "5", "--quiet-network")
    lines = out.splitlines()
    assert status == 0
    assert any("⚡" in line and "is killed, back in" in line for line in lines)
    assert any("manager" in line and "run task-echo/1 assigned" in line for line in lines)
    assert any("round completed: round_id=exp-3" in line for line in lines)
    assert "network" not in {line.split()[3] for line in lines if "⚡" in line}
    assert lines[-1].startswith("seed 5: every promise was kept")
    times = [float(line.split()[0]) for line in lines if " s  " in line]
    assert times == sorted(times)
