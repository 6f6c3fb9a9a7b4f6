"""The page and the scripts of `examples/fl-demo`: every command runs as it is written there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from walk_system import PROPELLER, ROOT, System, started

pytestmark = pytest.mark.e2e

PAGE = ROOT / "examples" / "fl-demo" / "README.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> Iterator[System]:
    """What the page tells to start, on other ports."""
    with started(tmp_path_factory.mktemp("examples") / ".propeller") as running:
        yield running


def place(system: System) -> Path:
    """A directory that looks like the root of this repository beside that system."""
    home = system.data.parent
    for name in ("src", "examples"):
        if not (home / name).exists():
            (home / name).symlink_to(ROOT / name)
    (home / ".propeller.env").write_text((system.data / "env").read_text())
    return home


def environment(system: System) -> dict[str, str]:
    """A shell with the virtual environment activated. The command line learns our ports from variables."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("PROP")}
    return found | {"PATH": f"{PROPELLER.parent}:{found['PATH']}"}


def test_the_page(system):
    """All its commands, in order, in one shell that stops at a failure; and the models that it promises."""
    script = "set -euo pipefail\n" + "\n".join(BLOCK.findall(PAGE.read_text()))
    script = script.replace("in 7070 8086 8085 8084 8083;", " ".join(["in", *map(str, ports(system))]) + ";")
    shell = ["timeout", "60", "bash", "-c", system.published(script)]
    done = subprocess.run(
        shell, cwd=place(system), env=environment(system), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert '{"b":1.75,"w":[4.0,5.0,6.0]}' in lines, done.stdout
    assert '{"results":"42"}' in lines, done.stdout
    assert any("add-1 is taken" in line for line in lines)
    assert sorted(system.get("model-registry", "/models").body["versions"]) == [0, 1, 2, 3, 4]
    assert sum('"round_id":"r-1"' in line.replace(" ", "") for line in lines) >= 4, "the logs name the round"


def ports(system: System) -> list[int]:
    """In the order of the page's health check."""
    return [
        system.ports[role]
        for role in ("manager", "coordinator", "aggregator", "model-registry", "data-store")
    ]


@pytest.mark.parametrize(
    ("script", "says"), [("run_http.py", "3 of 3 updates"), ("run_local_wasm.py", "the new model")]
)
def test_a_script(system, script, says):
    """It runs from beside the env file, says what happens, and leaves new versions of the model."""
    before = max(system.get("model-registry", "/models").body["versions"])
    done = subprocess.run(
        [sys.executable, f"examples/fl-demo/{script}"],
        cwd=place(system), env=environment(system), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert says in done.stdout
    made = max(system.get("model-registry", "/models").body["versions"]) - before
    assert made == {"run_http.py": 4, "run_local_wasm.py": 1}[script]
    model = system.get("model-registry", f"/models/{before + made}").body
    assert all(repr(number) in done.stdout for number in model["w"])


def test_a_script_without_a_system_says_so(tmp_path):
    """One line with what to do, and exit 1."""
    done = subprocess.run(
        [sys.executable, str(PAGE.parent / "run_http.py")],
        cwd=tmp_path, env={"MANAGER_URL": "http://localhost:9"}, capture_output=True, text=True, check=False,
        timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "propeller up" in done.stderr
