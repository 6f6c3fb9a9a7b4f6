import numpy as np
import pytest

from propeller.errors import BadInput, Denied
from propeller.fl.model_ref import ModelRef
from propeller.fl.tensors import Tensors
from propeller.fl.update import Terms, admit, mean_metrics, read, read_metrics

BASE = Tensors({"w": np.zeros(2), "b": np.zeros(())})
TERMS = Terms(round_id="r1", participants=frozenset({"p1"}), base=ModelRef(version=3), base_hash="a" * 64)


def draft(**more):
    """A draft that would be admitted, but for `more`."""
    fields = {"round_id": "r1", "participant": "p1", "samples": 4, "update": {"w": [1, 2], "b": 3}}
    return read(**{**fields, **more})


def test_good_update_is_admitted_in_the_models_dtypes():
    """A float32 model gets a float32 update; the content hash is of what was sent."""
    base = Tensors({"w": np.zeros(2, "f4"), "b": np.zeros((), "f4")})
    update = admit(draft(metrics={"loss": 1}), TERMS, base)
    assert {array.dtype for array in update.tensors.values()} == {np.dtype("<f4")}
    assert (update.samples, update.metrics, update.content) == (4, {"loss": 1.0}, draft().content)


def test_content_tells_tensors_and_samples_apart_and_nothing_else():
    """Metrics, base and spelling of numbers do not matter; samples and any bit of the tensors do."""
    same = draft(
        samples=4.0, metrics={"loss": 9}, base_uri="x_v3", update={"b": 3.0, "w": [1.0, 2.0], "version": 1}
    )
    assert same.content == draft().content
    assert draft(samples=5).content != draft().content
    assert draft(update={"w": [1, 2], "b": -3}).content != draft().content
    assert draft(update={"w": [1, 2], "c": 3}).content != draft().content


@pytest.mark.parametrize(
    ("more", "kind", "code"),
    [
        ({"participant": "p2"}, Denied, "not_a_participant"),
        ({"base_uri": "fl/models/global_model_v2"}, BadInput, "wrong_base"),
        ({"base_uri": "fl/models/other_v3"}, BadInput, "wrong_base"),
        ({"base_uri": "rubbish"}, BadInput, "wrong_base"),
        ({"base_hash": "b" * 64}, BadInput, "wrong_base"),
        ({"update": {"w": [1, 2]}}, BadInput, "wrong_shape"),
        ({"update": {"w": [1, 2, 3], "b": 0}}, BadInput, "wrong_shape"),
        ({"update": {"w": [1, float("nan")], "b": 0}}, BadInput, "not_finite"),
        ({"update": {"w": [1, float("-inf")], "b": 0}}, BadInput, "not_finite"),
        ({"update": {"w": [1, 1.1e12], "b": 0}}, BadInput, "too_large"),
    ],
)
def test_admission_says_why_not(more, kind, code):
    """One stable code for each reason."""
    with pytest.raises(kind) as caught:
        admit(draft(**more), TERMS, BASE)
    assert caught.value.reason == code


@pytest.mark.parametrize("uri", ["", "fl/models/global_model_v3", "http://registry:8081/models/3"])
def test_base_may_be_unnamed_or_named_in_any_spelling(uri):
    """The trailing version decides; the right hash is fine too."""
    admit(draft(base_uri=uri, base_hash="a" * 64), TERMS, BASE)


def test_metrics_keep_finite_numbers_only():
    """Everything else that a trainer reports is left out; no object at all is an error."""
    said = {"loss": 1, "nan": float("nan"), "big": 10**400, "name": "x", "flag": True, "deep": {"a": 1}}
    assert read_metrics(said, "x") == {"loss": 1.0}
    assert read_metrics(None, "x") == {}
    for bad in ([], "x", 3, {f"m{number}": 1 for number in range(65)}, {"m" * 200: 1}, {1: 1.0}):
        with pytest.raises(BadInput) as caught:
            read_metrics(bad, "x")
        assert caught.value.reason == "bad_metrics"


def test_mean_metrics_weigh_by_samples():
    """Each metric over those who report it."""
    assert mean_metrics([(1, {"a": 1.0, "b": 5.0}), (3, {"a": 2.0})]) == {"a": 1.75, "b": 5.0}
    assert mean_metrics([]) == {}
