"""Update formats: what goes in comes out, within what each promises; what is no update is refused."""

import json
import math
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from propeller.errors import BadInput, CallerError
from propeller.fl.formats import pack, unpack
from propeller.fl.tensor_files import layout_of, view
from propeller.fl.tensors import Tensors
from propeller.fl.update_format import DELTAS, FORMATS, Format, parse_format

NAMES = st.text("abcXYZ019_.-/", min_size=1, max_size=12)
FLOATS = st.sampled_from([np.float64, np.float32, np.float16])


@st.composite
def moves(draw, limit: float = 100.0) -> tuple[Tensors, Tensors]:
    """A base of any tensors, and an update of the same shapes."""
    base, update = {}, {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
        dtype = draw(st.one_of(FLOATS, st.just(np.int32)))
        shape = draw(array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
        elements = (
            st.floats(-limit, limit, width=np.dtype(dtype).itemsize * 8)
            if np.dtype(dtype).kind == "f"
            else st.integers(-1000, 1000)
        )
        base[name] = draw(arrays(dtype, shape, elements=elements))
        update[name] = draw(arrays(dtype, shape, elements=elements))
    return Tensors(base), Tensors(update)


def packed(base: Tensors, update: Tensors, form: Format, round_id: str = "r1") -> bytes:
    """The file; its size is what was announced."""
    made = pack(update, base, form, round_id=round_id, participant="p1")
    content = b"".join(made.pieces)
    assert len(content) == made.size_bytes
    return content


def there_and_back(base: Tensors, update: Tensors, form: Format, round_id: str = "r1") -> Tensors:
    """What the coordinator makes of it."""
    made = unpack(memoryview(packed(base, update, form, round_id)), form, base, "the update")
    content = b"".join(made.pieces)
    assert len(content) == made.size_bytes
    return view(memoryview(content), "the update")


def ulp(base: np.ndarray, update: np.ndarray) -> np.ndarray:
    """How coarse the model's own numbers are there."""
    return np.spacing(np.maximum(np.abs(base), np.abs(update))).astype(np.float64)


@given(pair=moves(), name=st.sampled_from(DELTAS))
def test_round_trips_keep_to_each_formats_bound(pair, name):
    """Names, shapes and dtypes stay; whole numbers are exact; differences err as their format says."""
    base, update = pair
    got = there_and_back(base, update, Format(name, 0.5))
    assert {n: (a.dtype, a.shape) for n, a in got.items()} == {n: (a.dtype, a.shape) for n, a in base.items()}
    for tensor, array in update.items():
        if array.dtype.kind != "f":
            assert np.array_equal(got[tensor], array)
            continue
        true = array.astype(np.float64) - base[tensor].astype(np.float64)
        error = np.abs(got[tensor].astype(np.float64) - array)
        allowed = {
            "f32-delta": np.abs(true) * 2.0**-24 + 2.0**-149,
            "f16-delta": np.abs(true) * 2.0**-11 + 2.0**-24,
            "int8-delta": np.full(true.shape, np.abs(true).max(initial=0) / 127 * (1 + 2.0**-22) + 2.0**-148),
            "topk-delta": np.abs(true),
        }[name]
        assert (error <= allowed + ulp(base[tensor], array)).all()


@given(pair=moves(), share=st.floats(0.01, 1))
def test_top_k_keeps_the_greatest_and_nothing_else(pair, share):
    """Exactly the announced count of elements moves, and none that stayed had moved further."""
    base, update = pair
    content = safetensors.numpy.load(packed(base, update, Format("topk-delta", share)))
    for name, array in update.items():
        if array.dtype.kind != "f":
            continue
        delta = np.abs(array.astype(np.float64) - base[name].astype(np.float64)).reshape(-1)
        at = content[f"{name}:at"]
        assert at.size == min(delta.size, max(1, math.ceil(share * delta.size)))
        assert delta[at].min(initial=np.inf) >= np.delete(delta, at).max(initial=0)


@settings(max_examples=25)
@given(value=st.floats(-1, 1), seed=st.integers(0, 1 << 30))
def test_rounding_at_random_has_the_true_mean(value, seed):
    """40,000 copies of one difference: their mean is it, within five standard errors."""
    count = 40_000
    base = Tensors({"w": np.zeros(count + 1)})
    update = np.full(count + 1, value)
    update[-1] = 1.0
    got = there_and_back(base, Tensors({"w": update}), Format("int8-delta"), f"r{seed}")["w"][:-1]
    assert abs(got.mean() - value) <= 5 * 0.5 / 127 / math.sqrt(count) + 1e-9


@given(pair=moves())
def test_packing_again_gives_the_same_bytes(pair):
    """Round and participant seed the rounding: another attempt sends the same, another round need not."""
    base, update = pair
    assert packed(base, update, Format("int8-delta")) == packed(base, update, Format("int8-delta"))


def test_another_round_rounds_otherwise():
    """The seed is the round's: errors of one round do not repeat in the next."""
    base = Tensors({"w": np.zeros(1000)})
    update = Tensors({"w": np.linspace(-1, 1, 1000)})
    form = Format("int8-delta")
    assert packed(base, update, form, "r1") != packed(base, update, form, "r2")


@pytest.mark.parametrize(
    ("name", "payload"), [("f32-delta", 4000), ("f16-delta", 2000), ("int8-delta", 1004), ("topk-delta", 400)]
)
def test_what_a_thousand_parameters_weigh(name, payload):
    """Exact bytes: the data that each format must carry, and a header of at most 200 bytes."""
    draw = np.random.default_rng(1)
    base, update = (Tensors({"w": draw.normal(size=(10, 100))}) for _ in range(2))
    size = len(packed(base, update, Format(name, 0.05)))
    assert 0 < size - payload <= 200


def test_a_delta_that_does_not_fit_is_refused_by_the_packer():
    """float16 ends at 65504; the packer says so rather than sending infinity."""
    made = pack(
        Tensors({"w": np.array([1e6])}),
        Tensors({"w": np.zeros(1)}),
        Format("f16-delta"),
        round_id="r",
        participant="p",
    )
    with pytest.raises(BadInput, match="wider"):
        b"".join(made.pieces)


def file_of(**arrays: np.ndarray) -> bytes:
    """A safetensors file with `_s` for `:scale`, `_a` for `:at`, `_v` for `:values`."""
    ends = {"_s": ":scale", "_a": ":at", "_v": ":values"}
    return safetensors.numpy.save(
        {name[:-2] + ends.get(name[-2:], name[-2:]): a for name, a in arrays.items()}
    )


def twice() -> bytes:
    """A header that names one tensor two times."""
    entry = '"ww":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}'
    head = f'{{{entry},{entry},"ww:scale":{{"dtype":"F32","shape":[],"data_offsets":[4,8]}}}}'.encode()
    return struct.pack("<Q", len(head)) + head + bytes(8)


I8, F4, U4 = np.int8, np.float32, np.uint32
HOSTILE = {
    "empty": ("int8-delta", b""),
    "a huge header": ("int8-delta", b"\xff" * 16),
    "no scale": ("int8-delta", file_of(ww=np.zeros(4, I8))),
    "a NaN scale": ("int8-delta", file_of(ww=np.zeros(4, I8), ww_s=np.array(np.nan, F4))),
    "an infinite scale": ("int8-delta", file_of(ww=np.zeros(4, I8), ww_s=np.array(np.inf, F4))),
    "a scale below zero": ("int8-delta", file_of(ww=np.zeros(4, I8), ww_s=np.array(-1, F4))),
    "many scales": ("int8-delta", file_of(ww=np.zeros(4, I8), ww_s=np.zeros(4, F4))),
    "a tensor too long": ("int8-delta", file_of(ww=np.zeros(5, I8), ww_s=np.array(1, F4))),
    "another type": ("f32-delta", file_of(ww=np.zeros(4, np.float64))),
    "another tensor": ("f32-delta", file_of(xx=np.zeros(4, F4))),
    "a tensor too many": ("f32-delta", file_of(ww=np.zeros(4, F4), xx=np.zeros(4, F4))),
    "a name twice": ("int8-delta", twice()),
    "an index out of range": ("topk-delta", file_of(ww_a=np.array([4], U4), ww_v=np.zeros(1, F4))),
    "an index twice": ("topk-delta", file_of(ww_a=np.array([1, 1], U4), ww_v=np.zeros(2, F4))),
    "indices that descend": ("topk-delta", file_of(ww_a=np.array([2, 1], U4), ww_v=np.zeros(2, F4))),
    "indices in a table": ("topk-delta", file_of(ww_a=np.zeros((1, 1), U4), ww_v=np.zeros((1, 1), F4))),
    "more values than indices": ("topk-delta", file_of(ww_a=np.array([1], U4), ww_v=np.zeros(2, F4))),
    "signed indices": ("topk-delta", file_of(ww_a=np.array([-1], np.int32), ww_v=np.zeros(1, F4))),
    "one format as another": ("topk-delta", file_of(ww=np.zeros(4, F4))),
    "bytes behind": ("f32-delta", file_of(ww=np.zeros(4, F4)) + b"\0"),
}


@pytest.mark.parametrize(("name", "content"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_such_update_is_refused(name, content):
    """Sizes, types, indices, scales, names: a typed refusal before a number is used."""
    with pytest.raises(CallerError):
        unpack(memoryview(content), Format(name), Tensors({"ww": np.zeros(4)}), "the update")


@given(noise=st.binary(max_size=300), name=st.sampled_from(DELTAS), at=st.integers(0, 200))
def test_noise_is_refused_or_read_but_never_worse(noise, name, at):
    """Good files with bytes exchanged: a typed refusal, or a model of the right shape."""
    base = Tensors({"w": np.zeros((3, 4), np.float32)})
    content = bytearray(packed(base, Tensors({"w": np.ones((3, 4), np.float32)}), Format(name)))
    content[at : at + len(noise)] = noise
    try:
        made = unpack(memoryview(bytes(content)), Format(name), base, "the update")
    except CallerError:
        return
    assert len(b"".join(made.pieces)) == layout_of(base).bytes


@pytest.mark.parametrize("text", [*FORMATS, "", "topk-delta:0.25"])
def test_formats_by_name(text):
    """Every name is known, none means JSON, and top-k takes its share."""
    form = parse_format(text)
    assert form.name == (text.partition(":")[0] or "json-f64")
    assert form.share == (0.25 if ":" in text else 0.05)


@pytest.mark.parametrize(
    "text",
    ["f64-delta", "int8", "topk-delta:0", "topk-delta:2", "topk-delta:nan", "topk-delta:x", "f32-delta:1"],
)
def test_names_of_no_format(text):
    """Anything else is refused, with the names there are."""
    with pytest.raises(BadInput) as refused:
        parse_format(text)
    assert refused.value.reason == "bad_update_format"
    assert json.dumps(text)[1:-1] in refused.value.message
