"""Builds the example trainers with the compilers that PyPI offers. No test lives here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TRAINERS = ROOT / "examples" / "trainers"
GO_CACHE = ROOT / ".pytest_cache" / "d" / "go-build"
ZIG_CACHE = ROOT / ".pytest_cache" / "d" / "zig"
"""The C library, compiled once for all tests."""
ASSETS = ROOT / "src" / "propeller" / "roles" / "assets"
SHIPPED = ASSETS / "logreg.wasm"
PERCEPTRON = ASSETS / "mlp.wasm"


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    result = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def build_c(name: str, directory: Path, *flags: str) -> Path:
    """The C trainer `name` by its own Makefile, objects in `directory`, with `flags` of the compiler."""
    built = directory / f"{name}.wasm"
    caches = {
        "ZIG_GLOBAL_CACHE_DIR": str(ZIG_CACHE),
        "ZIG_LOCAL_CACHE_DIR": str(directory / "local"),
    }
    compiler = [f"CC={sys.executable} -m ziglang cc {' '.join(flags)}"] if flags else []
    told = [f"PYTHON={sys.executable}", f"OUT={built}", *compiler]
    _run(["make", "-s", *told], TRAINERS / name, caches)
    return built


def build_stranger(directory: Path) -> Path:
    """The Go program, as a stranger would build it; Go's standard library is compiled once for all tests."""
    built = directory / "stranger.wasm"
    environment = {
        "GOOS": "wasip1",
        "GOARCH": "wasm",
        "GOFLAGS": "-mod=mod",
        "GOTOOLCHAIN": "local",
        "GOCACHE": str(GO_CACHE),
        "GOPATH": str(directory / "path"),
        "HOME": str(directory),
    }
    go = [sys.executable, "-c", "from go import main; main()"]
    _run([*go, "build", "-trimpath", "-o", str(built), "."], TRAINERS / "stranger-go", environment)
    return built


def round_environment(
    w: list[float], rows: list[tuple[list[float], int]], **hyperparams: Any
) -> dict[str, str]:
    """The environment ABI for one round: a model of zeros and `w`, the rows, the hyperparameters."""
    data = {"data": [{"x": x, "y": y} for x, y in rows], "size": len(rows)}
    return {
        "ROUND_ID": "r1",
        "PROPLET_ID": "p1",
        "MODEL_URI": "fl/models/global_model_v0",
        "MODEL_DATA": json.dumps({"w": w, "b": 0, "version": 0}),
        "DATASET_DATA": json.dumps(data),
        "HYPERPARAMS": json.dumps(hyperparams),
    }
