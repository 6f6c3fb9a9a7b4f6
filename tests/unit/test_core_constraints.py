"""Conditions and preferences on labels and announced facts."""

import pytest

from propeller.core.constraints import Affinity, Constraint, check, score, unmet
from propeller.core.proplet import Proplet
from propeller.errors import BadInput

PROPLET = Proplet(
    id="p1",
    name="calm-lynx",
    registered_at_s=1.0,
    metadata={"cpu_arch": "x86_64", "total_memory_bytes": 8_000, "tags": ["gpu", "lab"]},
    labels={"site": "north"},
)


def condition(text: str) -> Constraint:
    """`attribute|operator|value` as a condition."""
    attribute, operator, value = text.split("|")
    return Constraint(attribute=attribute, operator=operator, value=value)


@pytest.mark.parametrize(
    "text",
    [
        "cpu_arch|=|x86_64",
        "cpu_arch|!=|arm",
        "cpu_arch|in|arm, x86_64",
        "cpu_arch|not in|arm,riscv",
        "total_memory_bytes|>=|8000",
        "total_memory_bytes|<|1e4",
        "tags|=|gpu",
        "tags|!=|tpu",
        "tags|exists|",
        "labels.site|=|north",
        "labels.rack|!=|7",
        "id|=|p1",
        "name|=|calm-lynx",
        "namespace|=|default",
    ],
)
def test_conditions_that_hold(text):
    """Facts, lists of facts, labels and what it is called."""
    assert unmet(PROPLET, [condition(text)]) is None


@pytest.mark.parametrize(
    "text",
    [
        "cpu_arch|=|arm",
        "tags|!=|gpu",
        "total_memory_bytes|>|8000",
        "cpu_arch|>|1",
        "location|=|",
        "location|exists|",
        "location|>|0",
        "labels.rack|=|7",
        "site|=|north",
        "slots|exists|",
    ],
)
def test_conditions_that_do_not_hold(text):
    """What is unknown fulfils nothing, and labels are not facts."""
    assert unmet(PROPLET, [condition("id|=|p1"), condition(text)]) == condition(text)


def test_preferences_add_up():
    """Negative weights repel."""
    wanted = [
        Affinity(constraint=condition("labels.site|=|north"), weight=5),
        Affinity(constraint=condition("tags|=|lab"), weight=-2),
        Affinity(constraint=condition("cpu_arch|=|arm"), weight=50),
    ]
    assert score(PROPLET, wanted) == 3
    assert score(PROPLET, []) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("|=|x", "names no attribute"),
        ("a|~|x", "unknown operator; there are =, !="),
        ("a|<|ten", "compares with what is no number"),
        ("a|<|nan", "compares with what is no number"),
        ("a|=|" + "x" * 2000, "too long"),
    ],
)
def test_a_condition_that_cannot_be_judged_is_refused(text, says):
    """The message quotes it."""
    with pytest.raises(BadInput) as caught:
        check([condition(text)], [])
    assert says in caught.value.message


def test_weights_and_counts_are_bounded():
    """So that one task cannot make placing slow."""
    one = condition("id|exists|")
    with pytest.raises(BadInput, match="weight"):
        check([], [Affinity(constraint=one, weight=float("nan"))])
    with pytest.raises(BadInput, match="limit is"):
        check([one] * 100, [])
    check([one] * 64, [Affinity(constraint=one, weight=-100)])
