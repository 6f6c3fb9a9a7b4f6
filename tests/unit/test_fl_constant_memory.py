"""What the strategies of sums promise: memory for one model and scratch, and every update read once."""

import tracemalloc

import numpy as np
import pytest

from propeller.fl.aggregation import aggregate
from propeller.fl.strategies.base import Contribution
from propeller.fl.strategies.registry import BUILTIN
from propeller.fl.tensors import Tensors

SIZE = 300_000
OPTIONS = {"scaffold": {"clients": 100}}
SUMS = sorted(name for name, one in BUILTIN.items() if one.needs == "sum")


class Watched(np.ndarray):
    """An array that notes which of its elements were asked for."""

    reads: list[slice]

    def __array_finalize__(self, other):
        """Views note into the list of the array that they are of."""
        self.reads = getattr(other, "reads", [])

    def __getitem__(self, key):
        """Slices alone are of interest; whoever gets one may read it."""
        self.reads.append(key)
        return np.asarray(self)[key]


def watched(values):
    """A read-only array of `values` that keeps its own account."""
    array = np.array(values).view(Watched)
    array.reads = []
    array.flags.writeable = False
    return array


def contributions(strategy, like, clients, make):
    """Updates with everything that `strategy` expects, `make` making each array."""
    return [
        Contribution(
            participant=f"p{number:04}",
            samples=1 + number,
            tensors=Tensors({name: make(array + number) for name, array in like.items()}),
        )
        for number in range(clients)
    ]


def peak_bytes(strategy, clients):
    """The most that one aggregation allocates at a time; the updates share one array."""
    base = Tensors({"w": np.ones(SIZE, np.float32)})
    like = strategy.expects(base)
    shared = {name: np.array(array) for name, array in like.items()}
    for array in shared.values():
        array.flags.writeable = False
    sent = [
        Contribution(participant=f"p{number:04}", samples=1 + number, tensors=Tensors(shared))
        for number in range(clients)
    ]
    tracemalloc.start()
    aggregate(strategy, sent, base=base, options=OPTIONS.get(strategy.name))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("name", SUMS)
def test_memory_does_not_grow_with_the_number_of_clients(name):
    """Four clients or a hundred: the difference is what naming them takes, not a quarter of one model."""
    strategy = BUILTIN[name]
    few, many = peak_bytes(strategy, 4), peak_bytes(strategy, 100)
    assert many - few < 4 * SIZE / 4


@pytest.mark.parametrize("name", SUMS)
def test_every_update_is_read_once_from_end_to_end(name):
    """Each element of each update is asked for exactly once, in ascending slices."""
    strategy = BUILTIN[name]
    base = Tensors({"w": np.ones(SIZE, np.float32), "n": np.arange(6)})
    sent = contributions(strategy, strategy.expects(base), 5, watched)
    aggregate(strategy, sent, base=base, options=OPTIONS.get(name))
    for one in sent:
        for tensor in one.tensors.values():
            at = 0
            for read in tensor.reads:
                assert (read.start, read.step) == (at, None)
                at = read.stop
            assert at == tensor.size
