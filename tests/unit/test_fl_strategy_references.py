"""Every strategy against a reference written another way: whole arrays, plain formulas, no blocks."""

import itertools

import numpy as np
import pytest

from propeller.errors import BadInput, Unsupported
from propeller.fl.aggregation import aggregate
from propeller.fl.strategies.base import Contribution
from propeller.fl.strategies.registry import BUILTIN, strategy
from propeller.fl.tensors import Tensors, content_hash


def sent(number, w, samples=1, staleness=0, **more):
    """The update of participant p{number}: `w`, and other tensors as arrays."""
    tensors = {name: np.array(array, dtype="f8") for name, array in {"w": w, **more}.items()}
    return Contribution(
        participant=f"p{number:03}", samples=samples, staleness=staleness, tensors=Tensors(tensors)
    )


def model(w, dtype="f8"):
    """A model of one tensor."""
    return Tensors({"w": np.array(w, dtype=dtype)})


def folded(name, rows, base=None, **options):
    """The new `w` of one round with these rows."""
    contributions = [sent(number, row) for number, row in enumerate(rows)]
    done = aggregate(
        strategy(name), contributions, base=model(base) if base is not None else None, options=options
    )
    return done.model["w"]


@pytest.fixture
def rows():
    """Nine updates of forty parameters, and the model that they started from."""
    random = np.random.default_rng(7)
    return random.normal(size=(9, 40)), random.normal(size=40)


def test_fedavgm_by_hand():
    """Two rounds: v = 2 then 0.5·2 + 1 = 2; w = 0 → 2 → 4, where the means are 2 and 3."""
    options = {"momentum": 0.5}
    first = aggregate(strategy("fedavgm"), [sent(1, [1]), sent(2, [3])], base=model([0]), options=options)
    assert (first.model["w"].tolist(), first.state["momentum/w"].tolist()) == ([2], [2])
    second = aggregate(
        strategy("fedavgm"), [sent(1, [3])], base=first.model, state=first.state, options=options
    )
    assert (second.model["w"].tolist(), second.state["momentum/w"].tolist()) == ([4], [2])


SECOND = {
    "fedadagrad": lambda v, d2, _beta: v + d2,
    "fedadam": lambda v, d2, beta: beta * v + (1 - beta) * d2,
    "fedyogi": lambda v, d2, beta: v - (1 - beta) * d2 * np.sign(v - d2),
}


@pytest.mark.parametrize("name", SECOND)
def test_adaptive_optimisers_follow_their_paper_over_rounds(name, rows):
    """Algorithm 2 of Reddi et al., five rounds, weighted by samples, defaults where not given."""
    updates, w = rows
    samples = np.arange(1, 10)
    options = {"server_learning_rate": 0.3, "tau": 0.01, "beta_1": 0.8}
    beta_2 = 0.99
    m, v = np.zeros(40), np.full(40, 0.01**2)
    base, state = model(w), Tensors({})
    for turn in range(5):
        contributions = [
            sent(k, row + turn, samples=int(n))
            for k, (row, n) in enumerate(zip(updates, samples, strict=True))
        ]
        done = aggregate(strategy(name), contributions, base=base, state=state, options=options)
        delta = np.average(updates + turn, axis=0, weights=samples) - w
        m = 0.8 * m + 0.2 * delta
        v = SECOND[name](v, delta**2, beta_2)
        w = w + 0.3 * m / (np.sqrt(v) + 0.01)
        np.testing.assert_allclose(done.model["w"], w, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(done.state["v/w"], v, rtol=1e-12)
        base, state = done.model, done.state


def test_fedprox_averages_and_tells_trainers_mu():
    """The proximal term is the trainers' to apply."""
    fedprox = strategy("fedprox")
    assert folded("fedprox", [[1.0], [3.0]], mu=0.5).tolist() == [2]
    assert fedprox.hyperparams(fedprox.settings({"mu": 0.5})) == {"mu": 0.5}


@pytest.mark.parametrize("updates", [1, 2, 3, 5, 8, 9, 10, 33, 64, 65, 100])
def test_median_is_numpys(updates):
    """Odd and even, small and large enough for the other way of sorting; with ties."""
    random = np.random.default_rng(updates)
    rows = np.round(random.normal(size=(updates, 300)), 1)
    np.testing.assert_allclose(folded("median", rows), np.median(rows, axis=0), rtol=1e-15)


@pytest.mark.parametrize("trim", [0.0, 0.1, 0.25, 0.49])
def test_trimmed_mean_is_the_mean_of_the_sorted_middle(rows, trim):
    """⌊β·n⌋ are cut from either end."""
    updates, _ = rows
    cut = int(trim * 9)
    expected = [np.mean(sorted(column)[cut : 9 - cut]) for column in updates.T]
    np.testing.assert_allclose(folded("trimmed_mean", updates, trim=trim), expected, rtol=1e-13)


def krum_scores(updates, faulty):
    """Blanchard et al., section 4, literally."""
    count = len(updates)
    return [
        sum(
            sorted(np.linalg.norm(one - other) ** 2 for j, other in enumerate(updates) if j != i)[
                : max(1, count - faulty - 2)
            ]
        )
        for i, one in enumerate(updates)
    ]


def test_krum_takes_the_update_of_the_lowest_score(rows):
    """It is one of the updates, bit for bit."""
    updates, _ = rows
    best = int(np.argmin(krum_scores(updates, 2)))
    assert np.array_equal(folded("krum", updates, faulty=2), updates[best])


@pytest.mark.parametrize(("keep", "kept"), [(3, 3), (0, 5)])
def test_multi_krum_averages_the_lowest(rows, keep, kept):
    """M of them; n - f - 2 unless said."""
    updates, _ = rows
    best = np.argsort(krum_scores(updates, 2))[:kept]
    found = folded("multi_krum", updates, faulty=2, keep=keep)
    np.testing.assert_allclose(found, updates[best].mean(axis=0), rtol=1e-13)


@pytest.mark.parametrize(("count", "faulty"), [(7, 1), (9, 1), (11, 2), (12, 2)])
def test_bulyan_follows_its_paper(count, faulty):
    """Repeated Krum, then the θ - 2f values nearest to the median, chosen one coordinate at a time."""
    updates = np.random.default_rng(count).normal(size=(count, 25))
    left, selected = list(range(count)), []
    for _ in range(count - 2 * faulty):
        chosen = (
            left[int(np.argmin(krum_scores([updates[i] for i in left], faulty)))] if left[1:] else left[0]
        )
        selected.append(updates[chosen])
        left.remove(chosen)
    selected = np.array(selected)
    middle = np.median(selected, axis=0)
    keep = len(selected) - 2 * faulty
    expected = [
        np.mean(sorted(column, key=lambda value, centre=centre: abs(value - centre))[:keep])
        for column, centre in zip(selected.T, middle, strict=True)
    ]
    np.testing.assert_allclose(folded("bulyan", updates, faulty=faulty), expected, rtol=1e-12)


def test_geometric_median_has_the_least_sum_of_distances(rows):
    """Its defining property, against many neighbours, and Weiszfeld's own fixed point in whole arrays."""
    updates, _ = rows
    found = folded("geometric_median", updates, iterations=1000)

    def cost(z):
        return np.linalg.norm(updates - z, axis=1).sum()

    random = np.random.default_rng(3)
    for size, _ in itertools.product((1e-1, 1e-3), range(200)):
        assert cost(found) <= cost(found + size * random.normal(size=40)) + 1e-9
    z = updates.mean(axis=0)
    for _ in range(1000):
        beta = 1 / np.maximum(1e-6, np.linalg.norm(updates - z, axis=1))
        z = (beta[:, None] * updates).sum(axis=0) / beta.sum()
    np.testing.assert_allclose(found, z, rtol=1e-6, atol=1e-8)


def test_geometric_median_of_most_alike_is_that_one():
    """Two thirds agree exactly: smoothing keeps the distance of zero harmless."""
    found = folded("geometric_median", [[1.0, 2.0], [1.0, 2.0], [900.0, -50.0]])
    np.testing.assert_allclose(found, [1, 2], atol=1e-4)


def test_clip_shortens_what_is_long_and_leaves_the_rest(rows):
    """Each difference from the base is scaled to at most the bound, then averaged."""
    updates, base = rows
    deltas = updates - base
    scaled = deltas * np.minimum(1, 8.0 / np.linalg.norm(deltas, axis=1))[:, None]
    found = folded("clip:fedavg", updates, base=base, norm_max=8.0)
    np.testing.assert_allclose(found, base + scaled.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        folded("clip:fedavg", updates, base=base, norm_max=1e9), updates.mean(axis=0), rtol=1e-12
    )


def test_clip_of_an_optimiser_steps_from_the_clipped_mean():
    """FedAvgM inside: Δ of 4 counts as 1; the second option is the inner strategy's."""
    done = aggregate(
        strategy("clip:fedavgm"),
        [sent(1, [4]), sent(2, [-0.5])],
        base=model([0]),
        options={"norm_max": 1, "server_learning_rate": 2},
    )
    assert done.model["w"].tolist() == [0.5]
    assert done.state["momentum/w"].tolist() == [0.25]


def test_only_averages_of_models_can_be_clipped():
    """Robust strategies bound by themselves, and a variate is no difference from the base."""
    for name in ("clip:median", "clip:krum", "clip:scaffold"):
        with pytest.raises(BadInput, match="cannot be clipped"):
            strategy(name)


def test_scaffold_by_hand():
    """X moves ηg of the way to the mean; c gains |S|/N of the mean Δc; samples do not count."""
    options = {"clients": 4, "server_learning_rate": 0.5}
    updates = [
        sent(1, [2], samples=1, **{"scaffold.c/w": [1]}),
        sent(2, [6], samples=99, **{"scaffold.c/w": [3]}),
    ]
    first = aggregate(strategy("scaffold"), updates, base=model([0]), options=options).model
    assert {name: array.tolist() for name, array in first.items()} == {"w": [2], "scaffold.c/w": [1]}
    second = aggregate(strategy("scaffold"), updates, base=first, options=options).model
    assert {name: array.tolist() for name, array in second.items()} == {"w": [3], "scaffold.c/w": [2]}


def test_scaffold_expects_variates_and_says_so():
    """An update without them is refused; so is an experiment that does not say how many clients there are."""
    with pytest.raises(BadInput, match=r"lacks 'scaffold.c/w'"):
        aggregate(strategy("scaffold"), [sent(1, [2])], base=model([0]), options={"clients": 3})
    with pytest.raises(BadInput, match="needs the option 'clients'"):
        strategy("scaffold").check_options({})


def test_fedbuff_discounts_staleness_by_hand():
    """S(3) = 1/2: (1·4 + ½·8)/2 = 4 from base 0, and not the weighted mean 8/1.5."""
    updates = [sent(1, [4]), sent(2, [8], staleness=3, samples=50)]
    assert aggregate(strategy("fedbuff"), updates, base=model([0])).model["w"].tolist() == [4]


# --- what all of them promise ------------------------------------------------------------------------------

OPTIONS = {"scaffold": {"clients": 20}}
ALL = [*BUILTIN, "clip:fedadam"]


def a_round(name, dtype="f4", size=70_000, updates=11):
    """Contributions with two tensors, one larger than any block, and their base."""
    random = np.random.default_rng(5)
    chosen = strategy(name)

    def tensors():
        return chosen.expects(
            Tensors(
                {
                    "w": random.normal(size=size).astype(dtype),
                    "b": random.normal(size=(3, 4)).astype(dtype),
                    "steps": random.integers(0, 99, size=5),
                }
            )
        )

    base = tensors()
    return base, [
        Contribution(participant=f"p{n:02}", samples=3 * n + 1, tensors=tensors()) for n in range(updates)
    ]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("name", ALL)
def test_bits_do_not_depend_on_order_or_threads(name, dtype):
    """One model and one state for every arrival order and number of threads, in the dtypes of the base."""
    base, updates = a_round(name, dtype)
    options = OPTIONS.get(name, {})
    found = set()
    for threads, step in ((1, 1), (2, -1), (3, 5)):
        order = [updates[(step * index) % len(updates)] for index in range(len(updates))]
        done = aggregate(strategy(name), order, base=base, options=options, threads=threads)
        again = aggregate(
            strategy(name), order, base=done.model, state=done.state, options=options, threads=threads
        )
        assert [array.dtype for array in done.model.values()] == [a.dtype for a in base.values()]
        found.add((content_hash(done.model), content_hash(again.model), content_hash(again.state)))
    assert len(found) == 1


@pytest.mark.parametrize("name", ALL)
def test_unanimous_clients_get_what_they_agree_on(name):
    """If all send the base itself, the model stays there (and a variate where it is)."""
    base, updates = a_round(name, "f8", size=50)
    same = [Contribution(participant=one.participant, samples=2, tensors=base) for one in updates]
    done = aggregate(strategy(name), same, base=base, options=OPTIONS.get(name, {}))
    for tensor, array in base.items():
        np.testing.assert_allclose(done.model[tensor], array, rtol=1e-12)


def test_float32_sums_stay_within_their_bound():
    """The error of five hundred float32 rows is that of sixteen: 20 roundings of the mean absolute value."""
    random = np.random.default_rng(2)
    rows = random.normal(size=(500, 2000)).astype("f4")
    contributions = [
        Contribution(participant=f"p{n:03}", samples=n + 1, tensors=Tensors({"w": row}))
        for n, row in enumerate(rows)
    ]
    found = aggregate(strategy("fedavg"), contributions).model["w"]
    weights = np.arange(1, 501)
    exact = np.average(rows.astype("f8"), axis=0, weights=weights)
    bound = 20 * 2.0**-24 * np.average(np.abs(rows).astype("f8"), axis=0, weights=weights)
    assert (np.abs(found - exact) <= bound).all()


@pytest.mark.parametrize(("name", "options", "least"), [("krum", {"faulty": 2}, 7), ("bulyan", {}, 7)])
def test_too_few_updates_are_said(name, options, least):
    """A guarantee that cannot be kept is refused, not weakened."""
    assert strategy(name).least_updates(strategy(name).settings(options)) == least
    with pytest.raises(BadInput, match=f"needs at least {least} updates") as caught:
        folded(name, np.zeros((least - 1, 3)), **options)
    assert caught.value.reason == "too_few_updates"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedavgm", {"momentum": 1}),
        ("fedadam", {"tau": 0}),
        ("fedadam", {"beta_2": "0.9"}),
        ("fedadam", {"beta_2": True}),
        ("fedyogi", {"server_learning_rate": float("nan")}),
        ("trimmed_mean", {"trim": 0.5}),
        ("krum", {"faulty": 1.5}),
        ("krum", {"faulty": -1}),
        ("geometric_median", {"iterations": 10**400}),
        ("median", {"trim": 0.1}),
        ("clip:fedavg", {"norm_max": 0}),
        ("clip:fedavg", {"momentum": 0.5}),
    ],
)
def test_wrong_options_are_named(name, options):
    """Out of bounds, of another type, or unknown."""
    with pytest.raises(BadInput, match=next(iter(options))) as caught:
        strategy(name).check_options(options)
    assert caught.value.reason == "bad_options"


def test_foreign_state_is_refused():
    """State of another strategy or of another model."""
    updates = [sent(1, [1.0])]
    for state in ({"m/w": np.zeros(1)}, {"momentum/w": np.zeros(2)}):
        with pytest.raises(BadInput) as caught:
            aggregate(strategy("fedavgm"), updates, base=model([0]), state=Tensors(state))
        assert caught.value.reason == "bad_state"


@pytest.mark.parametrize("name", ["fedadam", "clip:fedavg", "scaffold"])
def test_a_base_that_is_needed_is_asked_for(name):
    """A step without a start would be a guess."""
    with pytest.raises(Unsupported, match="as `base`"):
        aggregate(strategy(name), [sent(1, [1])], options=OPTIONS.get(name, {}))


def test_what_overflows_is_an_error_in_every_dtype():
    """A mean beyond float16, a step beyond float32: never infinity in a model."""
    big = Contribution(participant="a", samples=1, tensors=model([3e38], "f4"))
    with pytest.raises(BadInput) as caught:
        aggregate(
            strategy("fedavgm"), [big], base=model([-3e38], "f4"), options={"server_learning_rate": 100}
        )
    assert caught.value.reason == "not_finite"
