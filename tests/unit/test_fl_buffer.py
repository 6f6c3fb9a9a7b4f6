"""Asynchronous training: everybody's standing as rounds open and close."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propeller.errors import Bug
from propeller.fl.buffer import MOVES, Buffer, Origin, Standing
from propeller.fl.model_ref import ModelRef

ALL = ["p1", "p2", "p3"]


def origin(number, made):
    """Round `number`, after so many versions."""
    return Origin(round_id=f"e-{number}", base=ModelRef(version=made), base_hash="h", made=made)


def test_a_slow_participant_is_not_asked_again_while_it_is_at_work():
    """It may bring its update to a later round; then it is idle, and asked by the next one."""
    one, asked, carried = Buffer(staleness_max=4).opened(ALL, origin(1, 0))
    assert (asked, carried) == (ALL, {})
    one = one.closed(["p1", "p2"], [], completed=True)
    one, asked, carried = one.opened(ALL, origin(2, 1))
    assert (asked, carried) == (["p1", "p2"], {"p3": origin(1, 0)})
    one = one.closed(["p1", "p3"], [], completed=True)
    one, asked, carried = one.opened(ALL, origin(3, 2))
    assert (asked, carried) == (["p1", "p3"], {"p2": origin(2, 1)})


def test_the_lost_and_the_too_stale_are_asked_again():
    """Nobody waits for an update that would be refused, or will never come."""
    one, *_ = Buffer(staleness_max=1).opened(ALL, origin(1, 0))
    one, asked, carried = one.closed(["p1"], ["p2"], completed=True).opened(ALL, origin(2, 1))
    assert (asked, list(carried)) == (["p1", "p2"], ["p3"])
    one, asked, carried = one.closed(["p1", "p2"], [], completed=True).opened(ALL, origin(3, 2))
    assert (asked, carried) == (ALL, {})


def test_a_failed_round_makes_nobody_staler():
    """Staleness counts versions, not rounds."""
    one, *_ = Buffer(staleness_max=1).opened(ALL, origin(1, 0))
    for number in range(2, 6):
        one, _, carried = one.closed([], [], completed=False).opened(ALL, origin(number, 0))
        assert set(carried) == set(ALL)


def test_who_is_idle_cannot_count():
    """A move that the table lacks is a bug of the caller's, told with the participant."""
    with pytest.raises(Bug, match="p9"):
        Buffer(staleness_max=1).closed(["p9"], [], completed=True)
    assert {to for after in MOVES.values() for to in after} == set(Standing)


@given(st.lists(st.tuples(st.sets(st.sampled_from(ALL)), st.booleans()), max_size=12), st.integers(1, 4))
def test_everybody_is_either_asked_or_away_and_never_too_stale(rounds, staleness_max):
    """Whatever counts in whichever round: the two are disjoint, together all, and within the bound."""
    one = Buffer(staleness_max=staleness_max)
    for number, (counted, completed) in enumerate(rounds, start=1):
        made = one.made
        one, asked, carried = one.opened(ALL, origin(number, made))
        assert sorted([*asked, *carried]) == ALL
        assert all(made - seat.made <= staleness_max for seat in carried.values())
        one = one.closed(counted, [], completed=completed)
        assert set(one.away()) == set(ALL) - counted
