"""What retention deletes, and what it never does: pure decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propeller.core.retention import Aged, Keep, surplus
from propeller.fl.retention import Needed, surplus_versions, why_needed
from propeller.fl.versions import ModelVersion

DAY = 86_400.0


def version(number, parent=None, *, name="m", at_s=0.0, **more):
    """A version of m, a child of `parent`."""
    fields = {
        "sha256": "a" * 64, "round_id": f"r{number}", "strategy_json": None, "participants": (),
        "metrics": {}, "content_bytes": 1,
    }  # fmt: skip
    return ModelVersion(name=name, version=number, parent=parent, created_at_s=at_s, **{**fields, **more})


def chain(count, **more):
    """Versions that were each made of the one before."""
    return [version(number, number - 1 if number else None, **more) for number in range(count)]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 50), st.floats(0, 100)), unique_by=lambda one: one[:2]
    ),
    st.integers(0, 5),
    st.floats(0, 100),
)
def test_only_what_is_both_old_and_not_among_the_newest_goes(found, last, age):
    """Whatever the ages: the newest of each group stay, and so does all that is young."""
    things = [Aged(*one) for one in found]
    gone = set(surplus(things, Keep(last=last, max_age_s=age), 100.0))
    for group in "ab":
        ours = sorted((one for one in things if one.group == group), key=lambda one: one.order)
        newest = set(ours[max(0, len(ours) - last) :])
        assert gone & set(ours) == {one for one in ours if 100.0 - one.at_s > age} - newest


def test_the_policy_keeps_the_newest_and_all_that_is_young():
    """Ten of a chain, three kept: the seven oldest go once they are old enough, and not before."""
    keep = Keep(last=3, max_age_s=DAY)
    assert [one.version for one in surplus_versions(chain(10), keep, Needed(), 2 * DAY)] == list(range(7))
    assert surplus_versions(chain(10), keep, Needed(), DAY / 2) == []


def test_heads_of_lineage_are_kept_and_deleted_versions_still_count_as_children():
    """What nothing was made of is somebody's result; what was a parent once is no head."""
    records = [version(0), version(1, 0), version(2, 0), version(3, 2, deleted_at_s=1.0), version(4, 0)]
    found = surplus_versions(records, Keep(last=1, max_age_s=0.0), Needed(), DAY)
    assert [one.version for one in found] == [0, 2], "1 is a head, 2 was a parent, 4 is the latest"


@pytest.mark.parametrize(
    ("number", "needed", "why"),
    [
        (9, Needed(), "latest"),
        (2, Needed(), "best"),
        (3, Needed(versions={("m", 3)}), "experiment"),
        (3, Needed(rounds={"r3"}), "round r3"),
        (3, Needed(unpublished={("m", 3)}), "pushed"),
        (3, Needed(versions={("other", 3)}), ""),
    ],
)
def test_what_is_needed_is_never_deleted_and_says_why(number, needed, why):
    """Neither by hand nor by the strictest policy."""
    records = chain(10)
    records[2] = version(2, 1, metrics={"accuracy": 0.9})
    records[5] = version(5, 4, metrics={"accuracy": 0.5})
    said = why_needed(records[number], records, needed)
    assert (why in said, bool(said)) == (True, bool(why))
    gone = surplus_versions(records, Keep(last=0, max_age_s=0.0), needed, DAY)
    assert (records[number] in gone) == (not why)
