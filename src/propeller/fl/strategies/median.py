"""Coordinate-wise median: every parameter becomes the median of the clients' values.

Yin, Chen, Ramchandran, Bartlett: "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
ICML 2018, algorithm 1, option I. Numbers of samples do not count: a client states its own, so weighing by
them would hand the median to whoever claims most.
"""

from propeller.fl.strategies.base import F64, Strategy
from propeller.fl.strategies.options import Settings
from propeller.fl.strategies.ordered import middle, sort_columns


class Median(Strategy):
    """The strategy `median`: fewer than half of the clients cannot move any parameter out of the others'."""

    name = "median"
    needs = "columns"

    def column(self, values: F64, settings: Settings) -> F64:
        """The median; of an even number, the mean of the middle two."""
        del settings
        return middle(sort_columns(values))
