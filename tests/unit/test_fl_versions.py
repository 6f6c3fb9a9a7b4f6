"""Where a proposed model version goes, and which proposals clash."""

from dataclasses import replace
from typing import Any

import pytest

from propeller import limits
from propeller.errors import BadInput, Conflict
from propeller.fl.versions import ModelVersion, Proposal, place

STORED = ModelVersion(
    name="m",
    version=3,
    sha256="a" * 64,
    parent=2,
    round_id="r",
    strategy_json=None,
    participants=(),
    metrics={},
    created_at_s=0.0,
    content_bytes=1,
)
SAME = Proposal(name="m", sha256="a" * 64, parent=2, round_id="r")


def put(proposal: Proposal, **facts: Any) -> ModelVersion | int:
    """`place` in a store that holds nothing but `facts`."""
    nothing = {"of_round": None, "at_version": None, "latest": None, "parent_known": True}
    return place(proposal, **{**nothing, **facts})


def test_first_version_is_zero_and_the_next_follows_the_latest():
    """Without a number the registry counts on from 0."""
    fresh = Proposal(name="m", sha256="a" * 64)
    assert put(fresh) == 0
    assert put(fresh, latest=7) == 8


def test_explicit_free_number_is_taken_as_given():
    """A caller may leave gaps."""
    assert put(Proposal(name="m", sha256="a" * 64, version=12), latest=3) == 12


def test_same_round_with_same_content_is_the_stored_version():
    """A retry after a lost answer makes no second version."""
    assert put(SAME, of_round=STORED, latest=9) is STORED
    assert put(replace(SAME, version=3), of_round=STORED, at_version=STORED, latest=9) is STORED


@pytest.mark.parametrize(
    "other", [{"sha256": "b" * 64}, {"parent": 1}, {"parent": None}, {"version": 4}], ids=str
)
def test_same_round_with_anything_else_conflicts(other):
    """A round gives one version, with one content and one parent."""
    with pytest.raises(Conflict, match="round 'r' already gave version 3"):
        put(replace(SAME, **other), of_round=STORED, latest=9)


def test_same_number_with_same_content_is_accepted_whatever_its_links():
    """The published walk posts version 0 again by hand, without a round."""
    assert put(Proposal(name="m", sha256="a" * 64, version=3), at_version=STORED) is STORED


def test_same_number_with_other_content_conflicts():
    """Versions are immutable."""
    with pytest.raises(Conflict, match="immutable"):
        put(Proposal(name="m", sha256="b" * 64, version=3), at_version=STORED)


def test_unknown_parent_is_refused():
    """A lineage has no holes."""
    with pytest.raises(BadInput, match="parent 2"):
        put(SAME, parent_known=False)


def test_numbers_end_at_the_limit():
    """The last number can be used, and nothing is allocated after it."""
    last = limits.MODEL_VERSION_MAX
    assert put(Proposal(name="m", sha256="a" * 64, version=last)) == last
    with pytest.raises(Conflict, match="last version number"):
        put(Proposal(name="m", sha256="a" * 64), latest=last)
    with pytest.raises(BadInput, match="version is"):
        Proposal(name="m", sha256="a" * 64, version=last + 1)


@pytest.mark.parametrize("field", ["name", "round_id"])
def test_names_and_rounds_are_ids(field):
    """What becomes a path or a topic is checked where it enters."""
    with pytest.raises(BadInput, match="is not an id"):
        Proposal(**{"name": "m", "sha256": "a" * 64, field: "a/b"})
