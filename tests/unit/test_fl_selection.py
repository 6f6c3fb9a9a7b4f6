"""How a round's participants are drawn."""

import pytest

from propeller.errors import BadInput
from propeller.fl.selection import Selection, check_selection, draw

POOL = [f"p{number}" for number in range(10)]


def drawn(selection, connected=POOL, candidates=POOL, seed=1, round_id="e-1"):
    """A draw."""
    return draw(selection, candidates, connected, seed=seed, round_id=round_id)


@pytest.mark.parametrize(
    ("selection", "asked", "k"),
    [
        (Selection(), 10, 10),
        (Selection(clients=3), 3, 3),
        (Selection(fraction=0.25), 3, 3),
        (Selection(fraction=0.3), 3, 3),
        (Selection(fraction=0.01), 1, 1),
        (Selection(clients=4, over_sampling=1.5), 6, 4),
        (Selection(clients=4, over_sampling=1.5, k_of_n=3), 6, 3),
        (Selection(clients=8, over_sampling=2), 10, 8),
    ],
)
def test_so_many_are_asked_and_so_many_close_the_set(selection, asked, k):
    """`clients` or `fraction` say how many updates are wanted, over-sampling how many are asked for them."""
    found = drawn(selection)
    assert (len(found.participants), found.k) == (asked, k)
    assert list(found.participants) == sorted(set(found.participants) & set(POOL))


def test_a_draw_repeats_by_its_seed_whatever_the_order():
    """Another round or seed draws others; over many rounds everyone has a turn."""
    selection = Selection(clients=3)
    assert drawn(selection) == drawn(selection, connected=POOL[::-1])
    rounds = [drawn(selection, round_id=f"e-{number}").participants for number in range(40)]
    assert len(set(rounds)) > 20
    assert {name for one in rounds for name in one} == set(POOL)
    assert any(drawn(selection, seed=seed) != drawn(selection) for seed in range(2, 6))


def test_the_absence_of_one_moves_nobody_else():
    """Whoever was drawn and is connected stays drawn."""
    before = drawn(Selection(clients=4)).participants
    after = drawn(Selection(clients=4), connected=[name for name in POOL if name != before[0]]).participants
    assert set(before) - {before[0]} <= set(after)


@pytest.mark.parametrize(
    ("selection", "enough"),
    [
        (Selection(clients=3), 3),
        (Selection(clients=3, min_connected=5), 5),
        (Selection(clients=3, k_of_n=2), 2),
        (Selection(clients=3, min_connected=1), 1),
        (Selection(fraction=0.5), 5),
    ],
)
def test_a_round_waits_while_too_few_are_connected(selection, enough):
    """As many as close its set, unless `min_connected` says more."""
    assert drawn(selection, connected=POOL[: enough - 1]) is None
    assert drawn(selection, connected=POOL[:enough]) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        Selection(clients=-1),
        Selection(fraction=1.5),
        Selection(fraction=float("nan")),
        Selection(over_sampling=0.5),
        Selection(over_sampling=11),
        Selection(clients=2, fraction=0.5),
        Selection(clients=2, k_of_n=3),
    ],
)
def test_an_unlawful_selector_is_refused(wrong):
    """With the field's name."""
    with pytest.raises(BadInput):
        check_selection(wrong)
