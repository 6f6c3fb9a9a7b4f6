"""The kernel of a fold: sorting networks, and sums that no partition can change."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from propeller.fl.aggregation import aggregate
from propeller.fl.strategies.base import Contribution
from propeller.fl.strategies.ordered import sort_columns
from propeller.fl.strategies.registry import strategy
from propeller.fl.tensors import Tensors


@given(st.integers(1, 64), st.integers(0, 2**32 - 1))
def test_networks_sort(rows, seed):
    """By the 0-1 principle (Knuth) zeros and ones suffice; every number of rows has its own network."""
    values = np.random.default_rng(seed).integers(0, 2, size=(rows, 200)).astype(float)
    expected = np.sort(values, axis=0)
    assert np.array_equal(sort_columns(values), expected)


@example("trimmed_mean", "f8", 12, 2, 1, 0)  # one column alone is summed in another order by numpy itself
@given(
    st.sampled_from(["fedavg", "fedadam", "median", "trimmed_mean"]),
    st.sampled_from(["f2", "f4", "f8", "i4"]),
    st.integers(1, 40),
    st.integers(1, 30),
    st.integers(1, 29),
    st.integers(0, 2**32 - 1),
)
def test_slices_folded_apart_are_the_same_bits(name, dtype, updates, width, cut, seed):
    """A parameter depends on its own column alone, so a model may be cut anywhere."""
    random = np.random.default_rng(seed)
    rows = (random.normal(size=(updates + 1, width)) * 100).astype(dtype)

    def part(which):
        base, *sent = [Tensors({"w": row[which]}) for row in rows]
        contributions = [
            Contribution(participant=f"{n:02}", samples=n + 1, tensors=one) for n, one in enumerate(sent)
        ]
        return aggregate(strategy(name), contributions, base=base).model["w"]

    whole = part(slice(None))
    assert np.array_equal(whole, np.concatenate([part(slice(None, cut)), part(slice(cut, None))]))
