"""What `wire.shape` says of a JSON text, held against the standard library's parser."""

import json
from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propeller import limits
from propeller.errors import DecodeError
from propeller.wire import cbor, codec

SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.text('ab"\\{}[]: \u00e9\n', max_size=4)
NAMES = st.text('ab"\\ ', max_size=2)


@st.composite
def texts(draw: st.DrawFn, depth: int = 3) -> str:
    """JSON text in which an object may have a name twice, and any character of a name may be escaped."""
    kind = draw(st.sampled_from(["scalar", "array", "object"])) if depth else "scalar"
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    if kind == "scalar":
        return json.dumps(draw(SCALARS), ensure_ascii=draw(st.booleans()))
    inner = draw(st.lists(texts(depth - 1), max_size=3))
    if kind == "array":
        return f"[{space}{','.join(inner)}]"
    return "{" + ",".join(f"{_name(draw)}{space}:{text}" for text in inner) + "}"


def _name(draw: st.DrawFn) -> str:
    name = draw(NAMES)
    if draw(st.booleans()):
        return json.dumps(name)
    return '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"'


def _twice(text: str) -> bool:
    found = False

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal found
        found |= len({name for name, _ in items}) < len(items)
        return dict(items)

    json.loads(text, object_pairs_hook=pairs)
    return found


@given(texts())
def test_a_name_that_comes_twice_is_found_and_nothing_else(text: str) -> None:
    """However it is written, wherever it stands, whatever the strings around it hold (A2)."""
    if _twice(text):
        with pytest.raises(DecodeError, match="twice"):
            codec.decode(object, text.encode(), what="it", strict=True)
    else:
        assert codec.decode(object, text.encode(), what="it", strict=True) == json.loads(text)
    assert codec.decode(object, text.encode(), what="it") == json.loads(text)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("around", ["%s", '["]]]]]", %s]', '["\\"]}", %s]'])
def test_the_depth_that_is_promised_is_the_depth_that_is_taken(
    opening: str, around: str, *, strict: bool
) -> None:
    """64 levels, and not one more; brackets within strings count for nothing."""
    for levels, lawful in (
        (limits.JSON_DEPTH_MAX, True),
        (limits.JSON_DEPTH_MAX + 1, False),
        (100_000, False),
    ):
        inner = levels - (0 if around == "%s" else 1)
        closing = "]" if opening == "[" else "}"
        text = (around % (opening * inner + "0" + closing * inner)).encode()
        if lawful:
            codec.decode(object, text, what="it", strict=strict)
        else:
            with pytest.raises(DecodeError, match="nested too deeply"):
                codec.decode(object, text, what="it", strict=strict)


def test_cbor_keeps_to_the_same_bounds() -> None:
    """As deep as JSON and no deeper; no key twice."""
    deep = b"\x81" * (limits.JSON_DEPTH_MAX - 1)
    cbor.decode(object, b"\xa1\x61a" + deep + b"\x00", what="it")
    for data in (b"\xa1\x61a\x81" + deep + b"\x00", b"\xa2\x61a\x00\x61a\x01"):
        with pytest.raises(DecodeError):
            cbor.decode(object, data, what="it")
    assert cbor.decode(dict, cbor2.dumps({"a": [{"b": 1}]}), what="it") == {"a": [{"b": 1}]}


@given(data=st.binary(max_size=60), strict=st.booleans())
def test_any_bytes_are_read_or_refused(data: bytes, *, strict: bool) -> None:
    """Nothing but `DecodeError` comes out (A5)."""
    with suppress(DecodeError):
        codec.decode(object, data, what="it", strict=strict)
