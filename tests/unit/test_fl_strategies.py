import numpy as np
import pytest

from propeller import limits
from propeller.errors import BadInput, Unsupported
from propeller.fl.aggregation import aggregate
from propeller.fl.strategies.base import ENTRY_POINTS, Contribution, Strategy, check_samples
from propeller.fl.strategies.fedavg import FedAvg
from propeller.fl.strategies.registry import BUILTIN, strategy
from propeller.fl.tensors import Tensors


def sent(participant, samples, dtype="f8", **arrays):
    """A contribution."""
    tensors = Tensors({name: np.array(values, dtype=dtype) for name, values in arrays.items()})
    return Contribution(participant=participant, samples=samples, tensors=tensors)


def test_fedavg_is_the_weighted_mean_by_hand():
    """(1·[1,2] + 3·[3,6]) / 4 = [2.5, 5]; (1·8 + 3·0) / 4 = 2."""
    done = aggregate(FedAvg(), [sent("a", 1, w=[1, 2], b=8), sent("b", 3, w=[3, 6], b=0)])
    assert done.model["w"].tolist() == [2.5, 5]
    assert done.model["b"].tolist() == 2
    assert (done.samples, len(done.state)) == (4, 0)


def test_one_contribution_is_itself():
    """Weights cancel exactly for powers of two."""
    done = aggregate(FedAvg(), [sent("a", 64, w=[0.1, -7e11])])
    assert done.model["w"].tolist() == [0.1, -7e11]


def test_small_dtypes_are_summed_in_float64():
    """A thousand float16 of 0.1 lose nothing to a float16 sum; the dtype is the model's."""
    done = aggregate(FedAvg(), [sent(f"{number:04}", 3, "f2", w=[0.1]) for number in range(1000)])
    assert done.model["w"].dtype == np.dtype("<f2")
    assert done.model["w"][0] == np.float16(0.1)


def test_whole_numbers_round_to_even():
    """Integer tensors stay integers: (1 + 2) / 2 = 2, (-128 + -127) / 2 = -128."""
    done = aggregate(FedAvg(), [sent("a", 1, "i1", w=[1, -128]), sent("b", 1, "i1", w=[2, -127])])
    assert done.model["w"].dtype == np.dtype("i1")
    assert done.model["w"].tolist() == [2, -128]


def test_larger_than_a_block_and_sliced_are_the_same_bits():
    """The block loop covers everything, and slices folded apart give the same: it is coordinatewise."""
    random = np.random.default_rng(1)
    arrays = [random.normal(size=150_001) for _ in range(3)]
    whole = aggregate(FedAvg(), [sent(str(n), n + 1, w=array) for n, array in enumerate(arrays)])
    parts = [
        aggregate(FedAvg(), [sent(str(n), n + 1, w=array[part]) for n, array in enumerate(arrays)])
        for part in (slice(0, 70_000), slice(70_000, None))
    ]
    assert np.array_equal(whole.model["w"], np.concatenate([part.model["w"] for part in parts]))
    assert np.allclose(whole.model["w"], np.average(arrays, axis=0, weights=[1, 2, 3]), rtol=1e-13)


def test_shapes_follow_the_base():
    """An update unlike the base, or unlike the first one without base, is refused and named."""
    base = Tensors({"w": np.zeros(2)})
    for start in (base, None):
        with pytest.raises(BadInput, match="update of 'b'"):
            aggregate(FedAvg(), [sent("a", 1, w=[1, 2]), sent("b", 1, w=[1, 2, 3])], base=start)


def test_nothing_to_aggregate_is_an_error():
    """No update, no model."""
    with pytest.raises(BadInput) as caught:
        aggregate(FedAvg(), [])
    assert caught.value.reason == "no_updates"


def test_options_and_state_are_checked():
    """FedAvg has neither."""
    with pytest.raises(BadInput, match="no option 'mu'"):
        FedAvg().check_options({"mu": 1})
    with pytest.raises(BadInput, match="keeps no state"):
        aggregate(FedAvg(), [sent("a", 1, w=[1])], state=Tensors({"m": np.zeros(1)}))


@pytest.mark.parametrize(
    "samples", [0, -1, 1.5, True, "3", None, limits.UPDATE_SAMPLES_MAX + 1, float("nan")]
)
def test_samples_are_positive_whole_and_bounded(samples):
    """Anything else is refused with one code."""
    with pytest.raises(BadInput) as caught:
        check_samples(samples, "x")
    assert caught.value.reason == "bad_samples"


def test_whole_floats_count_as_samples():
    """JSON has one kind of number."""
    assert check_samples(64.0, "x") == 64


def test_registry_finds_builtins_and_says_what_there_is():
    """By name, empty for the default; an unknown name lists the known ones."""
    assert isinstance(strategy(""), FedAvg)
    assert strategy("fedavg") is BUILTIN["fedavg"]
    with pytest.raises(BadInput, match=r"built in: bulyan, fedadagrad, .*clip:NAME") as caught:
        strategy("magic")
    assert caught.value.reason == "unknown_strategy"


class Elsewhere(FedAvg):
    """What another package would offer."""

    name = "elsewhere"


class Later(FedAvg):
    """Written for a seam that this release does not know."""

    name = "later"
    api = 9


def test_installed_strategies_are_found_by_entry_point(tmp_path, monkeypatch):
    """A class or an instance that is a Strategy; anything else is refused clearly."""
    package = tmp_path / "elsewhere-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        f"[{ENTRY_POINTS}]\nelsewhere = {__name__}:Elsewhere\n"
        f"wrong = {__name__}:sent\nlater = {__name__}:Later\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = strategy("elsewhere")
    assert (found.name, isinstance(found, Strategy)) == ("elsewhere", True)
    with pytest.raises(Unsupported, match="no Strategy"):
        strategy("wrong")
    with pytest.raises(Unsupported, match="seam version 9"):
        strategy("later")
