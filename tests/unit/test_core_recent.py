"""What was used of late stays, within its bound."""

from propeller.core.recent import Recent


def test_what_was_unused_the_longest_goes_first():
    """A value that was asked for outlives one that was not."""
    kept = Recent(10)
    kept.put("a", "A", 4)
    kept.put("b", "B", 4)
    assert kept.get("a") == "A"
    kept.put("c", "C", 4)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == ("A", None, "C")


def test_a_value_in_place_of_another_takes_its_room():
    """The bound counts what is there, also after many replacements and drops."""
    kept = Recent(10)
    for size in range(1, 11):
        kept.put("a", size, size)
    kept.drop("a")
    kept.drop("a")
    kept.put("b", "B", 10)
    assert (kept.get("a"), kept.get("b")) == (None, "B")


def test_what_is_larger_than_all_may_be_is_not_kept():
    """Nor does it drive out the rest; an earlier value of its name is no longer true and goes."""
    kept = Recent(10)
    kept.put("a", "A", 4)
    kept.put("b", "B", 4)
    kept.put("a", "all", 11)
    assert (kept.get("a"), kept.get("b")) == (None, "B")
