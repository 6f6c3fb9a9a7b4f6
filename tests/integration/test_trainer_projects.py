"""`propeller trainer new` and `check`: every language's project builds as it says and keeps to the ABI."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest
from runtime_guests import HEALTHY
from typer.testing import CliRunner
from wasmtime import wat2wasm

from propeller.cli.app import app
from propeller.errors import Conflict
from propeller.roles.trainer_check import DATA, HYPERPARAMS, MODELS, Example, check
from propeller.roles.trainer_new import create, languages
from trainer_builds import GO_CACHE, PERCEPTRON, SHIPPED, ZIG_CACHE

pytestmark = pytest.mark.xdist_group("runtime_trainers")
EXAMPLES = [Example(name=name, model=one, data=DATA, hyperparams=HYPERPARAMS) for name, one in MODELS.items()]
PYTHON = sys.executable

# An update for whatever it is given, as a trainer that makes its data up would print.
CARELESS = """(module (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "{\\"num_samples\\":1,\\"update\\":{\\"w\\":[1,2,3],\\"b\\":1}}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 46))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


async def faults(module: bytes) -> list[str]:
    """What is wrong with a module."""
    return [one.what for one in await check(module, EXAMPLES) if one.needed and not one.good]


def built(language, directory, *arguments):
    """The module of a new project, made as its Makefile says."""
    create(language, directory)
    caches = {
        "GOCACHE": str(GO_CACHE),
        "GOPATH": str(directory.parent / "go-path"),
        "GOTOOLCHAIN": "local",
        "ZIG_GLOBAL_CACHE_DIR": str(ZIG_CACHE),
        "ZIG_LOCAL_CACHE_DIR": str(directory.parent / "local"),
    }
    done = subprocess.run(
        ["make", "-s", *arguments],
        cwd=directory,
        check=False,
        env={**os.environ, **caches},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return (directory / "trainer.wasm").read_bytes()


@pytest.mark.timeout(400)
async def test_c(tmp_path):
    """The kit's own template."""
    assert await faults(built("c", tmp_path / "p", f"PYTHON={PYTHON}")) == []


@pytest.mark.timeout(400)
async def test_go(tmp_path):
    """Standard Go."""
    go = f"GO={PYTHON} -c 'from go import main; main()'"
    assert await faults(built("go", tmp_path / "p", go)) == []


def rust_for_wasi():
    """A Rust compiler with a standard library for WASI: Debian's, or that of RUSTC; else a skip."""
    compiler = os.environ.get("RUSTC", "/usr/bin/rustc")
    asked = [compiler, "--print", "target-libdir", "--target", "wasm32-wasi"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False) if which(compiler) else None
    if found is None or found.returncode or not Path(found.stdout.strip()).is_dir():
        pytest.skip("missing Debian package: libstd-rust-dev-wasm32")
    return f"RUSTC={compiler}"


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_rust(tmp_path):
    """Debian's compiler and its standard library for WASI, and no crate."""
    assert await faults(built("rust", tmp_path / "p", rust_for_wasi())) == []


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_assemblyscript(tmp_path):
    """By host functions, without WASI; npm fetches its compiler."""
    if which("npm") is None:
        pytest.skip("missing Debian package: npm")
    assert await faults(built("assemblyscript", tmp_path / "p")) == []


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_python(tmp_path):
    """A component that holds Python."""
    assert find_spec("componentize_py"), "the test set of packages has componentize-py"
    program = f"COMPONENTIZE={PYTHON} -c 'from componentize_py import script; script()'"
    assert await faults(built("python", tmp_path / "p", program)) == []


@pytest.mark.parametrize("module", [SHIPPED, PERCEPTRON], ids=lambda path: path.stem)
async def test_what_ships_keeps_to_it(module):
    """Both trainers, without a fault."""
    assert await faults(module.read_bytes()) == []


async def test_what_is_no_trainer_is_told_so():
    """A module that prints nothing, and one that makes an update of nothing."""
    assert "prints one JSON object" in await faults(bytes(wat2wasm(HEALTHY)))
    careless = await faults(bytes(wat2wasm(CARELESS)))
    made_up = [f"without {name} it fails, and makes nothing up" for name in ("MODEL_DATA", "DATASET_DATA")]
    assert careless == made_up


def test_the_command_exits_with_1_for_a_fault(tmp_path):
    """As programs want it; and with words for people."""
    (tmp_path / "bad.wasm").write_bytes(bytes(wat2wasm(HEALTHY)))
    done = CliRunner().invoke(app, ["trainer", "check", str(tmp_path / "bad.wasm")])
    assert (done.exit_code, "FAIL" in done.stdout) == (1, True)


def test_new_overwrites_nothing(tmp_path):
    """A directory with a file of the template is refused, whatever the language."""
    for language in languages():
        create(language, tmp_path / language)
        with pytest.raises(Conflict, match="there already"):
            create(language, tmp_path / language)
