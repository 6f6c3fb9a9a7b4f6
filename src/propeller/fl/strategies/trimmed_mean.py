"""Coordinate-wise trimmed mean: of every parameter's values, the largest and smallest are left out.

Yin, Chen, Ramchandran, Bartlett: "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
ICML 2018, algorithm 1, option II: the mean without the ⌊β·n⌋ largest and as many smallest. Numbers of samples
do not count, for the reason that `median` gives.
"""

import math

from propeller.fl.strategies.base import F64, Strategy
from propeller.fl.strategies.options import Number, Settings
from propeller.fl.strategies.ordered import sort_columns, sum_rows


class TrimmedMean(Strategy):
    """The strategy `trimmed_mean`: option `trim` is β, the share cut from each end."""

    name = "trimmed_mean"
    needs = "columns"
    options = {"trim": Number(default=0.2, least=0, below=0.5)}

    def column(self, values: F64, settings: Settings) -> F64:
        """The mean of what is left."""
        # 0.2 times 15 is 3.0000000000000004 in binary: rounding first keeps the floor what was meant.
        cut = math.floor(round(settings["trim"] * len(values), 9))
        kept = sort_columns(values)[cut : len(values) - cut]
        return sum_rows(kept) / len(kept)
