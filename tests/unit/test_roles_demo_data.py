"""The demo's data: honest about what is held out, and split without loss."""

import numpy as np

from propeller.roles.demo_data import PATIENTS_MIN, accuracy, load


def test_nothing_is_known_of_the_held_out_patients():
    """Features are scaled by training patients alone: their mean is 0 and deviation 1, the others' is not."""
    cohort = load(3, seed=0)
    assert (len(cohort.training), len(cohort.held_out)) == (398, 171)
    assert np.allclose(cohort.training.x.mean(axis=0), 0)
    assert np.allclose(cohort.training.x.std(axis=0), 1)
    assert not np.allclose(cohort.held_out.x.mean(axis=0), 0, atol=1e-3)


def test_hospitals_hold_every_training_patient_once_and_differ():
    """The parts are a partition; by Dirichlet, their shares of malignant cases are far apart."""
    cohort = load(3, seed=0)
    together = np.concatenate([one.x for one in cohort.hospitals])
    assert together.shape == cohort.training.x.shape
    assert np.allclose(np.sort(together, axis=0), np.sort(cohort.training.x, axis=0))
    shares = [one.y.mean() for one in cohort.hospitals]
    assert max(shares) - min(shares) > 0.3
    assert min(len(one) for one in cohort.hospitals) >= PATIENTS_MIN


def test_the_same_seed_gives_the_same_split():
    """The demo can be repeated exactly, and varied."""
    first, again, other = load(5, seed=1), load(5, seed=1), load(5, seed=2)
    assert all(np.array_equal(a.x, b.x) for a, b in zip(first.hospitals, again.hospitals, strict=True))
    assert not np.array_equal(first.held_out.x, other.held_out.x)


def test_accuracy_is_the_share_on_the_right_side():
    """A model that says malignant to everyone is right for exactly the malignant."""
    cohort = load(3, seed=0)
    assert accuracy({"w": [0.0] * 30, "b": 1.0}, cohort.held_out) == cohort.held_out.y.mean()
