import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from propeller.errors import BadInput, CallerError
from propeller.fl.tensors import Tensors, content_hash, from_json, from_safetensors, to_json, to_safetensors

names = st.text("abcXYZ019_.-/", min_size=1, max_size=12).filter(lambda name: name != "version")
floats = st.floats(allow_nan=False, allow_infinity=False)
shapes = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
models = st.dictionaries(names, npst.arrays(np.float64, shapes, elements=floats), max_size=5).map(Tensors)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


def fits_json(model):
    """Whether JSON can say the shapes: lists of no lists lose what is inside."""
    return all(0 not in array.shape[:-1] for array in model.values())


@given(models.filter(fits_json))
def test_json_text_round_trip_keeps_every_bit(model):
    """Through real JSON text: names, shapes and bits, the sign of zero included."""
    again, _ = from_json(json.loads(json.dumps(to_json(model))), "m")
    assert again == model
    assert content_hash(again) == content_hash(model)


@given(models)
def test_safetensors_round_trip_keeps_every_bit(model):
    """And equal models make equal files."""
    data = to_safetensors(model)
    again = from_safetensors(data, "m")
    assert again == model
    assert to_safetensors(again) == data


@given(models, models)
def test_hashes_are_equal_exactly_for_equal_models(one, other):
    """Equality and hash agree, both ways."""
    assert (content_hash(one) == content_hash(other)) == (one == other)


@given(anything | st.dictionaries(names, anything, max_size=4))
def test_from_json_takes_or_refuses_anything(value):
    """Whatever was decoded: tensors or an error of the caller, nothing else."""
    try:
        model, _ = from_json(value, "m")
    except CallerError:
        return
    assert all(array.dtype == "<f8" for array in model.values())


@settings(max_examples=300)
@given(st.binary(max_size=200) | models.map(to_safetensors), st.data())
def test_from_safetensors_takes_or_refuses_anything(data, draw):
    """Any bytes, and true files with a byte changed or cut: tensors or `BadInput`."""
    if data:
        position = draw.draw(st.integers(0, len(data) - 1))
        data = data[:position] + bytes([draw.draw(st.integers(0, 255))]) + data[position + 1 :]
        data = data[: draw.draw(st.integers(0, len(data)))] if draw.draw(st.booleans()) else data
    try:
        assert isinstance(from_safetensors(data, "m"), Tensors)
    except BadInput:
        return
