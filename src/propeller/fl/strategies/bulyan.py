"""Bulyan: select by repeated Krum, then trim every parameter around the median of the selected.

El Mhamdi, Guerraoui, Rouault: "The Hidden Vulnerability of Distributed Learning in Byzantium", ICML 2018,
section 4: θ = n - 2f updates are taken one by one, each the Krum of those that are left; every parameter
becomes the mean of the θ - 2f values nearest to the median of the θ. Needs n ≥ 4f + 3. Samples do not count.
"""

import numpy as np

from propeller.fl.strategies.base import F64, Round, Strategy, too_few
from propeller.fl.strategies.krum import FAULTY, scores
from propeller.fl.strategies.options import Settings
from propeller.fl.strategies.ordered import middle, sort_columns, sum_rows


class Bulyan(Strategy):
    """The strategy `bulyan`: option `faulty` (f)."""

    name = "bulyan"
    needs = "each"
    options = {"faulty": FAULTY}

    def least_updates(self, settings: Settings) -> int:
        """4f + 3."""
        return 4 * int(settings["faulty"]) + 3

    def weigh(self, round_: Round, settings: Settings) -> F64:
        """1 for the selected updates."""
        updates, least = len(round_.parties), self.least_updates(settings)
        if updates < least:
            raise too_few(self.name, updates, least)
        faulty, distances = int(settings["faulty"]), round_.distances()
        left = list(range(updates))
        weights = np.zeros(updates)
        for _ in range(updates - 2 * faulty):
            # The last few are chosen among fewer than Krum's own bound allows, as the paper does.
            best = (
                left[int(np.argmin(scores(distances[np.ix_(left, left)], faulty)))] if left[1:] else left[0]
            )
            weights[best] = 1
            left.remove(best)
        return weights

    def column(self, values: F64, settings: Settings) -> F64:
        """The mean of the θ - 2f values nearest to the median: they are neighbours once sorted."""
        keep = len(values) - 2 * int(settings["faulty"])
        ordered = sort_columns(values)
        centre = middle(ordered)
        best, nearest = np.zeros_like(centre), np.full_like(centre, np.inf)
        for start in range(len(ordered) - keep + 1):
            window = ordered[start : start + keep]
            farthest = np.maximum(centre - window[0], window[-1] - centre)
            better = farthest < nearest
            best[better] = sum_rows(window[:, better]) / keep
            nearest[better] = farthest[better]
        return best
