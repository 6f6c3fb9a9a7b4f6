import numpy as np
import pytest

from propeller.errors import BadInput
from propeller.fl.partition import dirichlet, iid, shards

LABELS = np.repeat([0, 1], [212, 357])


def together(parts):
    """All row numbers, sorted."""
    return sorted(np.concatenate(parts).tolist())


@pytest.mark.parametrize("participants", [1, 3, 10, 100])
def test_every_row_goes_to_exactly_one_participant(participants):
    """For every split; a seed always gives the same one and another seed another."""
    for split in (
        lambda seed: iid(569, participants, seed=seed),
        lambda seed: dirichlet(LABELS, participants, alpha=0.5, seed=seed, min_size=2),
        lambda seed: shards(LABELS, participants, seed=seed),
    ):
        parts = split(1)
        assert len(parts) == participants
        assert together(parts) == list(range(569))
        assert all(np.array_equal(one, other) for one, other in zip(parts, split(1), strict=True))
        if participants > 1:
            assert any(not np.array_equal(one, other) for one, other in zip(parts, split(2), strict=True))


def test_iid_parts_are_of_equal_size():
    """They differ by one row at most."""
    sizes = {part.size for part in iid(569, 10, seed=0)}
    assert sizes <= {56, 57}


def test_alpha_says_how_uneven_labels_are():
    """Small alpha separates labels, large alpha mixes them as the whole is mixed."""

    def spread(alpha):
        parts = dirichlet(LABELS, 5, alpha=alpha, seed=3, min_size=10)
        assert min(part.size for part in parts) >= 10
        return np.std([LABELS[part].mean() for part in parts])

    assert spread(0.1) > 0.2
    assert spread(1000.0) < 0.05


def test_impossible_splits_are_refused():
    """Fewer rows than asked for, no participants, a senseless alpha."""
    for wrong in (
        lambda: iid(2, 3, seed=0),
        lambda: iid(2, 0, seed=0),
        lambda: dirichlet([0, 1], 2, alpha=1, seed=0, min_size=2),
        lambda: dirichlet([0, 1], 2, alpha=0, seed=0),
        lambda: dirichlet([[0], [1]], 2, alpha=1, seed=0),
    ):
        with pytest.raises(BadInput):
            wrong()


def test_shards_give_few_labels_and_equal_sizes():
    """Two shards of ten labels: at most four labels each (two shards may straddle), sizes within two rows."""
    labels = np.arange(1437) % 10
    parts = shards(labels, 50, per_participant=2, seed=4)
    assert {part.size for part in parts} <= {28, 29, 30}
    seen = [len(set(labels[part])) for part in parts]
    assert max(seen) <= 4
    assert np.mean(seen) < 2.5
    with pytest.raises(BadInput, match="cannot be split"):
        shards(labels, 50, per_participant=30, seed=4)
