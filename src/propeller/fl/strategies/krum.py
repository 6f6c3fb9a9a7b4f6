"""Krum and multi-Krum: keep the updates whose neighbours are nearest.

Blanchard, El Mhamdi, Guerraoui, Stainer: "Machine Learning with Adversaries: Byzantine Tolerant Gradient
Descent", NeurIPS 2017. The score of an update is the sum of its squared distances to its n - f - 2 nearest
others; Krum takes the update of the lowest score, multi-Krum the mean of the m lowest. Needs n ≥ 2f + 3.
Samples do not count: a client states its own.
"""

import numpy as np

from propeller.fl.strategies.base import F64, Round, Strategy, too_few
from propeller.fl.strategies.options import Number, Settings

FAULTY = Number(default=1, least=0, whole=True)


def scores(distances: F64, faulty: int) -> F64:
    """Krum's score of every update, from squared distances [n, n] of which `faulty` may be an adversary's."""
    updates = len(distances)
    others = distances[~np.eye(updates, dtype=bool)].reshape(updates, updates - 1)
    nearest = np.sort(others, axis=1)[:, : max(1, updates - faulty - 2)]
    return nearest.sum(axis=1)  # type: ignore[no-any-return]


class MultiKrum(Strategy):
    """The strategy `multi_krum`: options `faulty` (f) and `keep` (m; 0 means n - f - 2)."""

    name = "multi_krum"
    needs = "each"
    options = {"faulty": FAULTY, "keep": Number(default=0, least=0, whole=True)}

    def least_updates(self, settings: Settings) -> int:
        """2f + 3, and as many as shall be kept."""
        return max(2 * int(settings["faulty"]) + 3, int(settings["keep"]))

    def weigh(self, round_: Round, settings: Settings) -> F64:
        """1 for the updates that are kept, equal scores in participant order; else 0."""
        updates, least = len(round_.parties), self.least_updates(settings)
        if updates < least:
            raise too_few(self.name, updates, least)
        faulty = int(settings["faulty"])
        keep = self.kept(updates, faulty, settings)
        best = np.argsort(scores(round_.distances(), faulty), kind="stable")[:keep]
        weights = np.zeros(updates)
        weights[best] = 1
        return weights

    def kept(self, updates: int, faulty: int, settings: Settings) -> int:
        """How many updates make the model."""
        return int(settings["keep"]) or updates - faulty - 2


class Krum(MultiKrum):
    """The strategy `krum`: option `faulty` (f)."""

    name = "krum"
    options = {"faulty": FAULTY}

    def least_updates(self, settings: Settings) -> int:
        """2f + 3."""
        return 2 * int(settings["faulty"]) + 3

    def kept(self, updates: int, faulty: int, settings: Settings) -> int:
        """One."""
        del updates, faulty, settings
        return 1
