from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from propeller.fl.aggregation import aggregate, in_participant_order
from propeller.fl.strategies.base import Contribution
from propeller.fl.strategies.fedavg import FedAvg
from propeller.fl.tensors import Tensors, content_hash
from propeller.fl.update import mean_metrics

values = st.floats(-1e12, 1e12, allow_nan=False)
sets = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.tuples(
            st.sampled_from(["", *"abcdefgh"]),
            st.integers(1, 10**9),
            st.lists(values, min_size=width, max_size=width),
        ),
        min_size=1,
        max_size=8,
    )
)


def contributions(drawn):
    """Contributions of a drawn set."""
    return [
        Contribution(participant=name, samples=samples, tensors=Tensors({"w": np.array(w, dtype=float)}))
        for name, samples, w in drawn
    ]


@given(sets, st.randoms(use_true_random=False))
def test_every_arrival_order_gives_the_same_bits(drawn, random):
    """Also when participants have no name, as in a body sent by hand."""
    expected = content_hash(aggregate(FedAvg(), contributions(drawn)).model)
    shuffled = list(drawn)
    random.shuffle(shuffled)
    assert content_hash(aggregate(FedAvg(), contributions(shuffled)).model) == expected


@given(sets)
def test_fedavg_is_the_exact_mean_up_to_rounding(drawn):
    """Against rational arithmetic: the error is that of K + 1 float64 roundings of the largest term."""
    model = aggregate(FedAvg(), contributions(drawn)).model["w"]
    total = sum(samples for _, samples, _ in drawn)
    for column, found in enumerate(model.tolist()):
        terms = [samples * Fraction(w[column]) for _, samples, w in drawn]
        bound = (len(terms) + 2) * Fraction(2) ** -52 * sum(map(abs, terms)) / total + Fraction(5e-324)
        assert abs(Fraction(found) - sum(terms) / total) <= bound


@given(sets, st.randoms(use_true_random=False))
def test_the_order_is_total(drawn, random):
    """Sorting twice, or from another order, is the same list of contents."""
    shuffled = list(drawn)
    random.shuffle(shuffled)

    def key(ordered):
        return [(one.participant, one.samples, content_hash(one.tensors)) for one in ordered]

    assert key(in_participant_order(contributions(drawn))) == key(
        in_participant_order(contributions(shuffled))
    )


METRICS = st.floats(-1e300, 1e300, allow_subnormal=False)
"""Half of the smallest number that there is, is none."""


@given(
    st.lists(
        st.tuples(st.integers(1, 10**9), st.dictionaries(st.sampled_from("xyz"), METRICS)),
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_mean_metrics_do_not_depend_on_order(drawn, random):
    """Finite, between the least and the largest, and the same for every order."""
    means = mean_metrics(drawn)
    shuffled = list(drawn)
    random.shuffle(shuffled)
    assert mean_metrics(shuffled) == means
    for name, mean in means.items():
        column = [metrics[name] for _, metrics in drawn if name in metrics]
        slack = 1e-9 * max(map(abs, column))
        assert min(column) - slack <= mean <= max(column) + slack
