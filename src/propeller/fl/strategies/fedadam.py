"""FedAdam: Adam on the server (Reddi et al., ICLR 2021, algorithm 2): v ← β₂·v + (1 - β₂)·Δ².

See `fedopt`.
"""

from propeller.fl.strategies.base import F64
from propeller.fl.strategies.fedopt import BETA_1, BETA_2, RATE, TAU, FedOpt
from propeller.fl.strategies.options import Settings


class FedAdam(FedOpt):
    """The strategy `fedadam`."""

    name = "fedadam"
    options = {"server_learning_rate": RATE, "beta_1": BETA_1, "beta_2": BETA_2, "tau": TAU}

    def second_moment(self, v: F64, squared: F64, settings: Settings) -> F64:
        """A moving mean of Δ²."""
        return settings["beta_2"] * v + (1 - settings["beta_2"]) * squared
