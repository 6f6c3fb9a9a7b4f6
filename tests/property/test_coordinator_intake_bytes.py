import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propeller.errors import CallerError, DecodeError, TooLarge
from propeller.federation.coordinator.reading import Reading, Sender, read_update
from propeller.wire import cbor
from propeller.wire.experiments import UpdateBody

GOOD = {"round_id": "r", "proplet_id": "p", "num_samples": 3, "update": {"w": [[1, 2.5], [3, 4]], "b": -1}}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.binary(max_size=60), st.sampled_from(["json", "cbor"]))
def test_any_bytes_are_an_update_or_an_error_of_the_caller(data, form):
    """Nothing else comes out of the decoders."""
    try:
        assert isinstance(read_update(data, form, Sender()), Reading)
    except CallerError:
        return


@given(st.data(), st.sampled_from(sorted(GOOD)), anything)
def test_mutated_updates_are_read_or_refused(data, field, value):
    """A good update with one field replaced, and one byte flipped."""
    raw = bytearray(cbor2.dumps({**GOOD, field: value}))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(0, 255))
    try:
        assert isinstance(read_update(bytes(raw), "cbor", Sender()), Reading)
    except CallerError:
        return


def test_good_update_is_read_with_its_nested_maps():
    """As a device sends it."""
    reading = read_update(cbor2.dumps(GOOD), "cbor", Sender())
    assert reading.draft.tensors["w"].tolist() == [[1, 2.5], [3, 4]]


def test_bounds_and_shapes_of_cbor():
    """Size, depth, truncation and other types are the sender's errors."""
    with pytest.raises(TooLarge):
        cbor.decode(UpdateBody, b"\0" * 11, what="x", limit_bytes=10)
    for bad in (b"", b"\x81" * 100_000, b"\xbf", b"\x01", cbor2.dumps({1: 2}), cbor2.dumps({"round_id": 3})):
        with pytest.raises(DecodeError, match=r"^x is not valid"):
            cbor.decode(UpdateBody, bad, what="x")
