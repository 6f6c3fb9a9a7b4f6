"""FedYogi: Yogi on the server (Reddi et al., ICLR 2021, algorithm 2): v ← v - (1 - β₂)·Δ²·sign(v - Δ²).

See `fedopt`.
"""

import numpy as np

from propeller.fl.strategies.base import F64
from propeller.fl.strategies.fedopt import BETA_1, BETA_2, RATE, TAU, FedOpt
from propeller.fl.strategies.options import Settings


class FedYogi(FedOpt):
    """The strategy `fedyogi`."""

    name = "fedyogi"
    options = {"server_learning_rate": RATE, "beta_1": BETA_1, "beta_2": BETA_2, "tau": TAU}

    def second_moment(self, v: F64, squared: F64, settings: Settings) -> F64:
        """V moves towards Δ² by at most (1 - β₂)·Δ², so it forgets slower than Adam's."""
        return v - (1 - settings["beta_2"]) * squared * np.sign(v - squared)
