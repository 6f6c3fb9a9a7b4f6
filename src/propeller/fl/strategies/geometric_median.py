"""The geometric median of the updates, by the smoothed Weiszfeld algorithm (RFA).

Pillutla, Kakade, Harchaoui: "Robust Aggregation for Federated Learning", IEEE Transactions on Signal
Processing 70, 2022, algorithm 2: z ← Σ βₖ·wₖ / Σ βₖ with βₖ = 1 / max(nu, ‖z - wₖ‖), from the mean on. All
iterates are weighted means of the updates, and ‖z - wᵢ‖² = Σₖ aₖ·dᵢₖ - ½·Σⱼₖ aⱼ·aₖ·dⱼₖ for weights a that
sum to 1 and squared distances d: so updates are read twice, however many iterations there are. Clients count
alike: the paper allows any weights, but a client states its own samples.
"""

import numpy as np

from propeller.fl.strategies.base import F64, Round, Strategy
from propeller.fl.strategies.options import Number, Settings

_STILL = 1e-9
"""Iteration ends when no weight moves by more than this."""


class GeometricMedian(Strategy):
    """The strategy `geometric_median`: options `smoothing` (nu) and `iterations` (at most so many)."""

    name = "geometric_median"
    needs = "each"
    options = {
        "smoothing": Number(default=1e-6, above=0),
        "iterations": Number(default=100, least=1, most=10_000, whole=True),
    }

    def weigh(self, round_: Round, settings: Settings) -> F64:
        """The weights of Weiszfeld's last iterate."""
        distances = round_.distances()
        weights = np.full(len(distances), 1 / len(distances))
        for _ in range(int(settings["iterations"])):
            inner = distances @ weights
            squared = np.maximum(inner - weights @ inner / 2, 0)
            wanted = 1 / np.maximum(settings["smoothing"], np.sqrt(squared))
            wanted /= wanted.sum()
            moved = np.abs(wanted - weights).max()
            weights = wanted
            if moved <= _STILL:
                break
        return weights
