"""Topic filters against an oracle that enumerates topics."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propeller.wire.filters import covers, is_filter, is_topic, matches

_LEVELS = ("a", "b", "$x", "")
_UNIVERSE = [
    "/".join(levels)
    for depth in (1, 2, 3, 4)
    for levels in itertools.product(_LEVELS, repeat=depth)
    if "/".join(levels)
]
"""Every topic of up to four of these levels: one level deeper than any filter below."""

_level = st.sampled_from(["a", "b", "$x", "", "+"])
filters = st.tuples(st.lists(_level, max_size=3), st.sampled_from([[], ["#"]])).map(
    lambda parts: "/".join([*parts[0][: 3 - len(parts[1])], *parts[1]])
)
lawful = filters.filter(is_filter)


def _matched_slowly(text: str, topic: str) -> bool:
    """Matching straight from the standard's words, by recursion over the levels."""

    def below(wanted: list[str], levels: list[str]) -> bool:
        if wanted == ["#"]:
            return True
        if not wanted or not levels:
            return not wanted and not levels
        return wanted[0] in ("+", levels[0]) and below(wanted[1:], levels[1:])

    hidden = topic.startswith("$") and text[0] in "+#"
    return not hidden and below(text.split("/"), topic.split("/"))


@given(lawful, st.sampled_from(_UNIVERSE))
def test_matching_agrees_with_the_standard(text: str, topic: str) -> None:
    """A filter matches what the standard says it matches."""
    assert matches(text, topic) == _matched_slowly(text, topic)


@given(lawful, lawful)
def test_covering_is_exactly_matching_everything(pattern: str, text: str) -> None:
    """A pattern covers a filter if, and only if, it matches every topic that the filter matches."""
    assert covers(pattern, text) == all(
        matches(pattern, topic) for topic in _UNIVERSE if matches(text, topic)
    )


@pytest.mark.parametrize(
    ("pattern", "text", "covered"),
    [
        ("#", "#", True),
        ("+/#", "#", True),
        ("#", "$SYS/#", False),
        ("a/#", "a", True),
        ("a/#", "a/+/#", True),
        ("a/+/#", "a/#", False),
        ("a/+", "a/#", False),
        ("a/+/c", "a/b/c", True),
        ("a/b/c", "a/+/c", False),
        ("m/d/c/ch/#", "m/d/c/+/#", False),
        ("m/d/c/ch/#", "$share/g/m/d/c/ch/#", False),
    ],
)
def test_covering_by_example(pattern: str, text: str, *, covered: bool) -> None:
    """The corners: the parent of `#`, a lone `#`, `$` topics, shared subscriptions."""
    assert covers(pattern, text) is covered


@pytest.mark.parametrize(
    "text", ["", "a#", "#/a", "a/#/b", "a+", "a/b+/c", "+a", "a\0b", "a\ud800", "x" * 65_536]
)
def test_unlawful_filters(text: str) -> None:
    """What is no filter is no topic either."""
    assert not is_filter(text)
    assert not is_topic(text)


@given(st.text(max_size=20))
def test_a_topic_is_a_filter_without_wildcards(text: str) -> None:
    """Every topic is a filter that matches itself; a filter with a wildcard is no topic."""
    if is_topic(text):
        assert is_filter(text)
        assert matches(text, text)
    elif is_filter(text):
        assert "+" in text or "#" in text
