"""Where a proposed model version goes, and which proposals clash."""

from dataclasses import replace
from typing import Any

import pytest

from propeller import limits
from propeller.errors import BadInput, Conflict
from propeller.fl.versions import Measured, ModelVersion, Objective, Proposal, best_of, place

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


def judged(
    number: int,
    *,
    updates: dict[str, float] | None = None,
    evaluation: dict[str, float] | None = None,
    objective: Objective | None = None,
) -> ModelVersion:
    """A version with the metrics of its updates, and what an evaluation of it measured."""
    measured = evaluation and Measured(round_id=f"r{number}-eval", metrics=evaluation, samples=9, at_s=0.0)
    return replace(
        STORED, version=number, metrics=updates or {}, evaluation=measured or None, objective=objective
    )


F1, MSE = Objective(metric="f1"), Objective(metric="mse", direction="min")


@pytest.mark.parametrize(
    ("versions", "best"),
    [
        ([], None),
        ([judged(0), judged(1, updates={"note": 1.0})], None),
        ([judged(1, updates={"accuracy": 0.9, "loss": 9.0}), judged(2, updates={"loss": 0.1})], 1),
        ([judged(1, updates={"loss": 0.2}), judged(2, updates={"loss": 0.2}), judged(3)], 2),
        # Of other rows: what the updates say of 3 does not compare with what was measured of 1 and 2.
        (
            [
                judged(1, updates={"accuracy": 0.5}, evaluation={"accuracy": 0.8}),
                judged(2, updates={"accuracy": 0.9}, evaluation={"accuracy": 0.7}),
                judged(3, updates={"accuracy": 0.99}),
            ],
            1,
        ),
        ([judged(1, evaluation={"loss": 0.5}), judged(2, updates={"accuracy": 0.9})], 1),
        # The newest experiment that names a metric says which one counts, and which way.
        (
            [
                judged(1, evaluation={"mse": 0.1, "f1": 0.2, "accuracy": 0.3}, objective=F1),
                judged(2, evaluation={"mse": 0.2, "f1": 0.9, "accuracy": 0.1}, objective=MSE),
                judged(3, evaluation={"mse": 0.3, "f1": 0.1, "accuracy": 0.2}),
            ],
            1,
        ),
        ([judged(1, updates={"f1": 0.2}, objective=F1), judged(2, updates={"f1": 0.9})], 2),
        ([judged(1, updates={"accuracy": 0.2}), judged(2, updates={"accuracy": 0.1}, objective=F1)], 1),
    ],
)
def test_the_best_version_goes_by_evaluations_and_by_what_its_experiment_wants(
    versions: list[ModelVersion], best: int | None
):
    """Evaluations before updates, the experiment's metric before accuracy and loss, whatever the order."""
    for given in (versions, versions[::-1]):
        found = best_of(given)
        assert (found and found.version) == best
