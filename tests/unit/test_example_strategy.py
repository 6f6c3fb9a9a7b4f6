"""The example package: installed as its users install it, found by name, and right by hand."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from propeller.fl.aggregation import aggregate
from propeller.fl.strategies.base import Contribution
from propeller.fl.strategies.registry import offered, strategy
from propeller.fl.tensors import Tensors

EXAMPLE = Path(__file__).parents[2] / "examples" / "strategy"


@pytest.fixture
def installed(tmp_path):
    """A folder with the package and the entry point that its own pyproject.toml makes."""
    place = tmp_path / "strategy"
    shutil.copytree(EXAMPLE, place, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    build = [sys.executable, "-W", "ignore", "-c", "import setuptools; setuptools.setup()", "-q", "egg_info"]
    subprocess.run(build, cwd=place, check=True, capture_output=True)
    return place


def test_an_installed_package_is_listed_by_the_command(installed):
    """Another process finds the strategy as users do, with its options."""
    path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "propeller", "fl", "strategies", "-o", "json"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert found["nesterov"] == {
        "name": "nesterov",
        "needs": "sum",
        "state": "momentum",
        "options": {"momentum": 0.9, "server_learning_rate": 1.0},
    }
    assert "fedavg" in found


def test_two_rounds_by_hand(installed, monkeypatch):
    """β = ½, each mean one above its base: v = 1, w = ½·1 + 1 = 1.5; v = 1.5, w = 1.5 + ½·1.5 + 1 = 3.25."""
    monkeypatch.syspath_prepend(installed)
    chosen, options = strategy("nesterov"), {"momentum": 0.5}
    assert offered()["nesterov"].name == chosen.name

    def moved(base, state):
        sent = [
            Contribution(participant=name, samples=5, tensors=Tensors({"w": base["w"] + step}))
            for name, step in (("a", 0.0), ("b", 2.0))
        ]
        done = aggregate(chosen, sent, base=base, state=state, options=options)
        return done.model, done.state

    first, state = moved(Tensors({"w": np.zeros(1)}), Tensors({}))
    second, last = moved(first, state)
    assert (first["w"].tolist(), state["momentum/w"].tolist()) == ([1.5], [1.0])
    assert (second["w"].tolist(), last["momentum/w"].tolist()) == ([3.25], [1.5])
