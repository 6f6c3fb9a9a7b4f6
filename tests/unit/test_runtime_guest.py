"""Choices that the runtime makes before a guest runs: the entry, its inputs, what may be asked at all."""

import math
from pathlib import Path

import pytest
from wasmtime import FuncType, ValType

from propeller import limits
from propeller.errors import BadInput
from propeller.ports import GuestJob, GuestLimits
from propeller.runtime.capture import Capture
from propeller.runtime.failure import Unfit
from propeller.runtime.guest import choose_entry, first_text, parse_inputs
from propeller.runtime.pool import check

GO = ("_start", "run", "memory_grow")


@pytest.mark.parametrize(
    ("exports", "name", "entry"),
    [
        (GO, "fl-round-x", "_start"),
        (GO, "_start", "_start"),
        (GO, "", "_start"),
        (GO, "fl-manual-7", "_start"),
        (GO, "run", "run"),
        (("add", "main"), "add", "add"),
        (("add", "main"), "anything", "main"),
        (("run", "helper"), "", "run"),
        (("main", "run"), "", "main"),
        (("fl-round-x", "main"), "fl-round-x", "main"),
        (("_initialize", "run"), "_initialize", "run"),
    ],
)
def test_the_entry_is_the_name_if_exported_else_the_command(exports, name, entry):
    """A task's name picks an export only when there is one; names of rounds never do."""
    assert choose_entry(exports, name) == entry


def test_without_any_entry_the_module_is_unfit():
    """The message names what was looked for."""
    with pytest.raises(Unfit, match=r"'work'.*_start"):
        choose_entry(("helper", "_initialize"), "work")


def signature(*kinds: str) -> FuncType:
    """A function of those parameters."""
    return FuncType([getattr(ValType, kind)() for kind in kinds], [])


def test_inputs_become_numbers_of_the_parameters_types():
    """Integers signed or unsigned, in any base; floats as Python reads them."""
    kinds = signature("i32", "i32", "i64", "f32", "f64")
    parsed = parse_inputs("f", kinds, ["4294967295", "-0x10", "18446744073709551615", "1.5", "-inf"])
    assert parsed == [-1, -16, -1, 1.5, -math.inf]


@pytest.mark.parametrize(
    ("kinds", "inputs", "said"),
    [
        (("i32",), [], "takes 1 inputs"),
        ((), ["1"], "takes 0 inputs"),
        (("i32",), ["4294967296"], "none"),
        (("i32",), ["-2147483649"], "none"),
        (("i32",), ["1.5"], "none"),
        (("f64",), ["one"], "none"),
        (("externref",), ["1"], "no text input becomes"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(kinds, inputs, said):
    """Count, range and type must match exactly: nothing is cut or made up."""
    with pytest.raises(Unfit, match=said):
        parse_inputs("f", signature(*kinds), inputs)


def test_the_first_result_is_decimal_text():
    """As the original tells it: one number, no more."""
    assert first_text(None) is None
    assert first_text(-3) == "-3"
    assert first_text([7, 8]) == "7"
    assert first_text(0.1) == "0.1"
    assert first_text(object()) is None


GOOD = GuestJob(module=b"", digest="a" * 64)


@pytest.mark.parametrize(
    "job",
    [
        GuestJob(module=b"", digest="A" * 64),
        GuestJob(module=b"", digest="../" * 21 + "a"),
        GuestJob(module=b"", digest="a" * 64, env={"": "x"}),
        GuestJob(module=b"", digest="a" * 64, env={"A=B": "x"}),
        GuestJob(module=b"", digest="a" * 64, env={"A": "x\0y"}),
        GuestJob(module=b"", digest="a" * 64, args=["\0"]),
        GuestJob(module=b"", digest="a" * 64, files=Path("/nonexistent/files")),
        GuestJob(module=b"", digest="a" * 64, limits=GuestLimits(wall_s=0)),
        GuestJob(module=b"", digest="a" * 64, limits=GuestLimits(wall_s=math.nan)),
        GuestJob(module=b"", digest="a" * 64, limits=GuestLimits(wall_s=math.inf)),
        GuestJob(module=b"", digest="a" * 64, limits=GuestLimits(memory_bytes=1 << 33)),
        GuestJob(module=b"", digest="a" * 64, limits=GuestLimits(stack_bytes=1 << 30)),
        GuestJob(module=b"", digest="a" * 64, limits=GuestLimits(stdout_bytes=-1)),
    ],
)
def test_a_job_that_cannot_be_told_to_a_guest_is_refused(job):
    """Text with NUL, impossible names, missing files and senseless limits never reach a worker."""
    check(GOOD)
    with pytest.raises(BadInput):
        check(job)


def test_a_capture_keeps_its_limit_and_says_so():
    """With a handler the write that overflows fails; every write before it counts in full."""
    overflows: list[int] = []
    capture = Capture(5, lambda: overflows.append(1))
    assert capture.write(b"abc") == 3
    assert not capture.overflowed
    assert capture.write(b"def") < 0
    assert (capture.text(), capture.overflowed, overflows) == ("abcde", True, [1])


def test_a_capture_without_a_handler_swallows_the_rest():
    """To the guest every byte was written."""
    capture = Capture(2)
    assert capture.write(b"abc") == 3
    assert capture.write(b"d") == 1
    assert capture.text() == "ab"


def test_a_capture_reads_any_bytes_as_text():
    """What is no UTF-8 becomes replacement characters, never an error."""
    capture = Capture(limits.GUEST_STDOUT_BYTES)
    capture.write(b"a\xff\xc3")
    assert capture.text() == "a��"
