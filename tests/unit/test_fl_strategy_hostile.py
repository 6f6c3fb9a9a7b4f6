"""Hostile participants against robust strategies: real data, real training, an honest control.

Softmax regression over ten clients, two of whom collude: one crowd sends its update with the sign flipped
and ten times as long, the other a hundred times as long. Means over five splits. What the margins hide: Krum
keeps the model of one client and its 140 digits, which costs it 2.3 points without any attack; and with three
of ten colluding, the most that f < n/3 allows, all lie about two points below the clean accuracy, some more.
"""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from propeller.fl.aggregation import aggregate
from propeller.fl.strategies.base import Contribution
from propeller.fl.strategies.registry import strategy
from propeller.fl.tensors import EMPTY, Tensors

CLIENTS, FAULTY = 10, 2
FLIPPED, SCALED = -10.0, 100.0
OPTIONS = {"trimmed_mean": {"trim": 0.2}, "krum": {"faulty": 2}, "multi_krum": {"faulty": 2}}


def dealt(x, y, held_out):
    """Five splits: training rows dealt to the clients, held-out rows, and how many classes there are."""
    splits = []
    for order in (np.random.default_rng(seed).permutation(len(x)) for seed in range(5)):
        parts = np.array_split(order[held_out:], CLIENTS)
        test = order[:held_out]
        splits.append(([(x[part], y[part]) for part in parts], (x[test], y[test]), int(y.max()) + 1))
    return splits


@pytest.fixture(scope="module")
def patients():
    """569 patients, standardised."""
    x, y = load_breast_cancer(return_X_y=True)
    return dealt((x - x.mean(axis=0)) / x.std(axis=0), y, 129)


@pytest.fixture(scope="module")
def digits():
    """1797 handwritten digits."""
    x, y = load_digits(return_X_y=True)
    return dealt(x / 16.0, y, 397)


def trained(model, x, y, steps):
    """Some steps of gradient descent on the cross-entropy."""
    w, b = model["w"].copy(), model["b"].copy()
    targets = np.eye(len(b))[y]
    for _ in range(steps):
        scores = x @ w + b
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        w -= x.T @ (shares - targets) / len(x)
        b -= (shares - targets).mean(axis=0)
    return {"w": w, "b": b}


def accuracy_after(splits, name, factor, **more):
    """Mean held-out accuracy if the last `FAULTY` clients send `factor` times their difference."""
    return float(np.mean([accuracy_of(split, name, factor, **more) for split in splits]))


def accuracy_of(split, name, factor, *, rounds, steps):
    """The accuracy on one split."""
    train, (x, y), classes = split
    model, state = Tensors({"w": np.zeros((x.shape[1], classes)), "b": np.zeros(classes)}), EMPTY
    for _ in range(rounds):
        sent = []
        for client, (rows, labels) in enumerate(train):
            found = trained(model, rows, labels, steps)
            times = factor if client >= CLIENTS - FAULTY else 1.0
            lie = {key: model[key] + times * (found[key] - model[key]) for key in model}
            sent.append(Contribution(participant=f"c{client}", samples=len(rows), tensors=Tensors(lie)))
        done = aggregate(strategy(name), sent, base=model, state=state, options=OPTIONS.get(name))
        model, state = done.model, done.state
    return float(((x @ model["w"] + model["b"]).argmax(axis=1) == y).mean())


PATIENTS, DIGITS = {"rounds": 20, "steps": 3}, {"rounds": 40, "steps": 5}


@pytest.fixture(scope="module")
def clean(patients, digits):
    """What averaging reaches among honest clients, on both."""
    found = (
        accuracy_after(patients, "fedavg", 1, **PATIENTS),
        accuracy_after(digits, "fedavg", 1, **DIGITS),
    )
    assert min(found) >= 0.95
    return found


def test_colluders_ruin_fedavg(patients, digits, clean):
    """The control: each attack is real, so that withstanding it means something."""
    assert accuracy_after(patients, "fedavg", FLIPPED, **PATIENTS) < 0.5
    assert accuracy_after(digits, "fedavg", FLIPPED, **DIGITS) < 0.5
    assert accuracy_after(digits, "fedavg", SCALED, **DIGITS) < clean[1] - 0.02


@pytest.mark.parametrize("factor", [FLIPPED, SCALED])
@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "multi_krum", "geometric_median"])
def test_patients_stay_within_two_points(patients, clean, name, factor):
    """Of the clean accuracy of averaging, whatever two of ten send."""
    assert accuracy_after(patients, name, factor, **PATIENTS) >= clean[0] - 0.02


@pytest.mark.parametrize("factor", [FLIPPED, SCALED])
@pytest.mark.parametrize("name", ["median", "trimmed_mean", "multi_krum", "geometric_median"])
def test_digits_stay_within_two_points(digits, clean, name, factor):
    """The same on ten classes; not Krum, which pays for keeping one client's model."""
    assert accuracy_after(digits, name, factor, **DIGITS) >= clean[1] - 0.02
