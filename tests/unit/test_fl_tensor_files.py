"""Safetensors files without copies, against the library's own reading and writing, and against bad bytes."""

import json

import numpy as np
import pytest

from propeller import limits
from propeller.errors import BadInput, TooLarge
from propeller.fl.tensor_files import header_bytes, layout_of, room, shapes, view
from propeller.fl.tensors import DTYPES, EMPTY, Tensors, to_safetensors

MIXED = Tensors(
    {
        **{f"t{code.str[1:]}": np.arange(6).reshape(2, 3).astype(code) for code in DTYPES},
        "empty": np.zeros((0, 4), "f4"),
        "scalar": np.array(2.5),
        "layers/0.weight": np.linspace(0, 1, 7, dtype="f4"),
    }
)


@pytest.mark.parametrize("model", [MIXED, EMPTY, Tensors({"w": np.zeros(3)})], ids=["mixed", "empty", "one"])
def test_files_are_the_librarys_byte_for_byte(model):
    """Whoever wrote it: equal tensors, equal file; and reading gives the tensors back."""
    expected = to_safetensors(model)
    layout = layout_of(model)
    buffer = memoryview(bytearray(layout.bytes))
    for name, array in room(layout, buffer).items():
        array[...] = model[name]
    assert bytes(buffer) == expected
    assert view(memoryview(expected), "x") == model
    head = expected[: header_bytes(expected[:8], "x")]
    assert [(n, a.dtype, a.shape) for n, a in shapes(head, "x").items()] == [
        (n, a.dtype, a.shape) for n, a in model.items()
    ]


def test_views_do_not_copy():
    """The tensor lies in the buffer."""
    data = to_safetensors(Tensors({"w": np.arange(1000.0)}))
    assert np.shares_memory(view(memoryview(data), "x")["w"], np.frombuffer(data, np.uint8))


def file(header, data=b""):
    """A file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape, begin, end, dtype="F32"):
    """One tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BAD = {
    "nothing": b"",
    "no header": bytes(8),
    "cut header": (100).to_bytes(8, "little") + b"{}",
    "no JSON": file(b"{nonsense"),
    "deep": file(b"[" * 100_000),
    "a list": file([]),
    "no entry": file({"w": 3}),
    "an odd type": file({"w": entry([1], 0, 4, "Q7")}, bytes(4)),
    "a negative size": file({"w": entry([-1], 0, 4)}, bytes(4)),
    "a true size": file({"w": entry([True], 0, 4)}, bytes(4)),
    "another length": file({"w": entry([2], 0, 4)}, bytes(4)),
    "a gap": file({"w": entry([1], 4, 8)}, bytes(8)),
    "an overlap": file({"w": entry([1], 0, 4), "v": entry([1], 0, 4)}, bytes(4)),
    "cut data": file({"w": entry([2], 0, 8)}, bytes(4)),
    "more data": file({"w": entry([1], 0, 4)}, bytes(5)),
    "a bad name": file({"a b": entry([1], 0, 4)}, bytes(4)),
    "a vast shape": file({"w": entry([1 << 47, 1 << 47], 0, 4)}, bytes(4)),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_bad_files_are_refused_with_one_code(data):
    """No other error, whatever the bytes."""
    with pytest.raises(BadInput) as caught:
        view(memoryview(data), "the update of 'p'")
    assert caught.value.reason == "bad_tensor"


def test_vast_headers_and_depths_are_too_large():
    """Before anything of that size is read or made."""
    with pytest.raises(TooLarge):
        header_bytes((limits.TENSOR_HEADER_BYTES_MAX + 1).to_bytes(8, "little"), "x")
    with pytest.raises(TooLarge):
        view(memoryview(file({"w": entry([1] * 9, 0, 4)}, bytes(4))), "x")
