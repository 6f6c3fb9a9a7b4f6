"""The firmware's portable parts, compiled for this machine under sanitizers. No test lives here.

`build` compiles once; `Firmware` is one process that answers a line of JSON with a line of text.
"""

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FIRMWARE = ROOT / "firmware"
VECTORS = FIRMWARE / "tests" / "vectors" / "messages.json"
FLAGS = [
    "-std=c11",
    "-g",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wpedantic",
    "-Wshadow",
    "-Wconversion",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-DAGENT_HELD_MAX=256",
    "-DAGENT_TOMBSTONES_MAX=1024",
]


def build(directory: Path) -> Path:
    """The program of `firmware/tests/host`, or a skip without a compiler."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("missing Debian package: gcc")
    program = directory / "firmware-host"
    sources = [*sorted((FIRMWARE / "portable").glob("*.c")), FIRMWARE / "tests" / "host" / "run.c"]
    command = [compiler, *FLAGS, f"-I{FIRMWARE / 'portable'}", *map(str, sources), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return program


def ask(program: Path, questions: Iterable[dict[str, Any]]) -> list[str]:
    """The answers to all questions, of one process that must end well (the sanitizers see to that)."""
    lines = "".join(json.dumps(question, separators=(",", ":")) + "\n" for question in questions)
    done = subprocess.run([program], input=lines, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.split("\n")[:-1]
