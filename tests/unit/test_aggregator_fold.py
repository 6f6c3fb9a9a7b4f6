"""The aggregation of a request's bytes, against hand calculation and against bad input."""

import itertools
import json

import pytest

from propeller.errors import BadInput, TooLarge
from propeller.federation.aggregator.fold import fold


def answer(*updates, **more):
    """The decoded answer for these updates."""
    return json.loads(fold(json.dumps({"updates": list(updates), **more}).encode()))


def update(samples, **tensors):
    """One update of a body."""
    return {"num_samples": samples, "update": tensors}


def test_weighted_mean_by_hand():
    """W = (1·[1,2] + 3·[2,4]) / 4 and b = (1·0 + 3·1) / 4."""
    assert answer(update(1, w=[1, 2], b=0), update(3, w=[2, 4], b=1)) == {"w": [1.75, 3.5], "b": 0.75}


def test_one_update_comes_back_with_its_exact_bits():
    """A mean of one is that one: 0.1·3/3 must not drift in JSON."""
    assert answer(update(1, w=[0.1, 1e-300, -2.5e300], b=0.3)) == {"w": [0.1, 1e-300, -2.5e300], "b": 0.3}


def test_any_named_tensors_of_any_shape():
    """Names and ranks are the model's business."""
    mixed = answer(
        update(2, **{"l1/w": [[1, 2], [3, 4]], "bias": 1}), update(2, **{"l1/w": [[3, 2], [1, 0]], "bias": 3})
    )
    assert mixed == {"l1/w": [[2, 2], [2, 2]], "bias": 2}


def test_update_of_no_samples_weighs_nothing():
    """As in the original, it is part of the list and not of the mean."""
    assert answer(update(0, w=[9]), update(5, w=[1])) == {"w": [1]}


def test_bytes_are_equal_for_every_order():
    """The set of updates decides the bits, not their order."""
    updates = [update(n, w=[0.1 * n, 1e16 / n], b=-1 / n) for n in (1, 3, 7, 11)]
    for named in (updates, [{**u, "proplet_id": f"p{i}"} for i, u in enumerate(updates)]):
        bodies = {
            fold(json.dumps({"updates": list(order)}).encode()) for order in itertools.permutations(named)
        }
        assert len(bodies) == 1


def test_version_inside_an_update_is_metadata():
    """The original's clients echo the model with its version; it is not averaged and not returned."""
    assert answer(update(1, w=[1], version=0), update(1, w=[3], version=4)) == {"w": [2]}


def test_full_reply_only_when_asked():
    """The documented answer is the bare model; the rest is there for whoever asks."""
    full = answer(update(2, w=[1]), update(0, w=[1]), reply="full")
    assert full["model"] == {"w": [1]}
    assert full["num_samples"] == 2
    assert full["num_updates"] == 2
    assert full["state"] == {}
    assert full["strategy"]["name"] == "fedavg"
    assert len(full["sha256"]) == 64


def test_base_gives_names_and_shapes():
    """With a base, the first update has no privilege."""
    assert answer(update(1, w=[2]), base={"w": [0]}, strategy="fedavg") == {"w": [2]}
    with pytest.raises(BadInput, match=r"updates\[0\].*'w' has shape \[2\]"):
        answer(update(1, w=[2, 3]), base={"w": [0]})


BAD = {
    "not JSON": (b"{", "not valid"),
    "a list": (b"[]", "Expected `object`"),
    "no updates": (b"{}", "updates"),
    "an empty list": ({"updates": []}, "empty list"),
    "no update inside": ({"updates": [{"num_samples": 1}]}, "missing required field `update`"),
    "no num_samples": ({"updates": [{"update": {"w": [1]}}]}, "missing required field `num_samples`"),
    "no tensors": ({"updates": [update(1)]}, r"updates\[0\].update has no tensors"),
    "only zero samples": ({"updates": [update(0, w=[1])]}, "at least one must be positive"),
    "negative samples": ({"updates": [update(1, w=[1]), update(-1, w=[1])]}, r"updates\[1\] is -1"),
    "half a sample": ({"updates": [update(0.5, w=[1])]}, r"updates\[0\] is 0.5"),
    "too many samples": ({"updates": [update(10**10, w=[1])]}, r"updates\[0\]"),
    "samples as text": ({"updates": [update("3", w=[1])]}, r"updates\[0\].num_samples"),
    "ragged": ({"updates": [update(1, w=[[1], [1, 2]])]}, r"updates\[0\].update: tensor 'w' is ragged"),
    "other length": (
        {"updates": [update(1, w=[1]), update(1, w=[1, 2])]},
        r"updates\[1\].*'w' has shape \[2\]",
    ),
    "other names": ({"updates": [update(1, w=[1]), update(1, v=[1])]}, r"updates\[1\].*lacks 'w'"),
    "missing b": ({"updates": [update(1, w=[1], b=0), update(1, w=[1])]}, r"updates\[1\].*lacks 'b'"),
    "text in a tensor": ({"updates": [update(1, w=["x"])]}, r"updates\[0\].*'w' must hold numbers"),
    "null in a tensor": ({"updates": [update(1, w=[None])]}, r"updates\[0\].*'w'"),
    "NaN": (b'{"updates":[{"num_samples":1,"update":{"w":[NaN]}}]}', "not valid"),
    "beyond float64": (b'{"updates":[{"num_samples":1,"update":{"w":[1e999]}}]}', "not valid"),
    "a sum that overflows": (
        {"updates": [update(9, w=[1.7e308]), update(9, w=[1.7e308])]},
        "NaN or infinity",
    ),
    "unknown strategy": (
        {"updates": [update(1, w=[1])], "strategy": "magic"},
        "no strategy is called 'magic'",
    ),
    "unknown option": ({"updates": [update(1, w=[1])], "options": {"lr": 1}}, "no option 'lr'"),
    "state for fedavg": ({"updates": [update(1, w=[1])], "state": {"m": [1]}}, "keeps no state"),
    "ragged base": ({"updates": [update(1, w=[1])], "base": {"w": [[1], []]}}, "base: tensor 'w' is ragged"),
    "bad tensor name": ({"updates": [update(1, **{"a b": [1]})]}, "names a tensor 'a b'"),
}


@pytest.mark.parametrize(("body", "says"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_with_its_place(body, says):
    """Each refusal is the caller's error and names the update and the tensor."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(BadInput, match=says) as caught:
        fold(raw)
    assert caught.value.http_status == 400


def test_tensor_nested_too_deeply_is_too_large():
    """Depth is bounded before anything is allocated for it."""
    deep = 1
    for _ in range(20):
        deep = [deep]
    with pytest.raises(TooLarge, match="deeper"):
        answer(update(1, w=deep))
