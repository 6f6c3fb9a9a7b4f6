"""Joining data segments: the module that comes out fills its memory just as the one that went in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wasmtime import Instance, Module, Store, Trap, wat2wasm

from propeller.runtime.segments import GAP_BYTES_MAX, SEGMENTS_FEW, joined

PAGE = 65_536
MANY = SEGMENTS_FEW + 1
PIECES = st.lists(
    st.tuples(st.integers(0, 3 * GAP_BYTES_MAX), st.binary(max_size=4)), min_size=MANY, max_size=3 * MANY
)


def module(segments, *, pages=4, more=""):
    """A module whose one memory has these contents at these addresses."""
    data = "".join(
        f'(data (i32.const {address - (1 << 32) if address >> 31 else address}) "{_escaped(content)}")'
        for address, content in segments
    )
    return bytes(wat2wasm(f'(module (memory (export "memory") {pages}) {data} {more})'))


def _escaped(content):
    return "".join(f"\\{byte:02x}" for byte in content)


def memory(wasm):
    """The memory as it is when the module has been instantiated."""
    store = Store()
    made = Instance(store, Module(store.engine, wasm), [])
    return bytes(made.exports(store)["memory"].read(store))


def placed(pieces):
    """Segments from gaps and contents, one after another."""
    at, found = 0, []
    for gap, content in pieces:
        at += gap
        found.append((at, content))
        at += len(content)
    return found


@given(PIECES, st.randoms(use_true_random=False))
def test_memory_is_the_same(pieces, random):
    """Whatever the gaps and contents, and in whichever order."""
    segments = placed(pieces)
    random.shuffle(segments)
    wasm = module(segments)
    assert memory(joined(wasm)) == memory(wasm)


@given(st.binary(max_size=200))
def test_any_bytes_are_harmless(content):
    """What is no module comes back as it is, or as something, but never as an error."""
    for wasm in (content, b"\0asm\1\0\0\0" + content, b"\0asm\1\0\0\0\x0b" + content):
        assert isinstance(joined(wasm), bytes)


def test_many_neighbours_become_one():
    """Go's habit: thousands of segments a few zeros apart."""
    wasm = module([(40 * number, b"x" * 24) for number in range(1, 3000)])
    out = joined(wasm)
    assert memory(out) == memory(wasm)
    assert out.count(b"x" * 24 + bytes(16) + b"x" * 24) > 1000
    assert len(out) < 2 * len(wasm)


@pytest.mark.parametrize(
    "wasm",
    [
        module([(number * 8, b"few") for number in range(SEGMENTS_FEW)]),
        module([(number * 2, b"overlap") for number in range(MANY)]),
        module(
            [(number * 8, b"named") for number in range(MANY)],
            more="(func (memory.init 0 (i32.const 0) (i32.const 0) (i32.const 0)))",
        ),
    ],
    ids=["few", "overlapping", "data count"],
)
def test_other_modules_stay_as_they_are(wasm):
    """Where joining would gain nothing, or could change something."""
    assert joined(wasm) is wasm


def test_addresses_beyond_two_gigabytes():
    """An address is unsigned, its encoding is not: out of bounds before, and out of bounds after."""
    wasm = module([(0xF000_0000 + 300 * number, b"far") for number in range(MANY)])
    out = joined(wasm)
    assert out is not wasm
    for one in (wasm, out):
        with pytest.raises(Trap, match="out of bounds"):
            memory(one)
