"""The small modules of `examples/modules`: what is checked in is what their text says."""

from pathlib import Path

import pytest
from wasmtime import wat2wasm

TEXTS = sorted((Path(__file__).parents[2] / "examples" / "modules").glob("*.wat"))


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.stem)
def test_a_module_is_made_from_its_text(text):
    """`make -C examples/modules` would change nothing."""
    assert wat2wasm(text.read_text()) == text.with_suffix(".wasm").read_bytes()
