"""FedAdagrad: Adagrad on the server (Reddi et al., ICLR 2021, algorithm 2): v ← v + Δ². See `fedopt`."""

from propeller.fl.strategies.base import F64
from propeller.fl.strategies.fedopt import BETA_1, RATE, TAU, FedOpt
from propeller.fl.strategies.options import Number, Settings


class FedAdagrad(FedOpt):
    """The strategy `fedadagrad`; without first moment unless `beta_1` is given, as in the paper's runs."""

    name = "fedadagrad"
    options = {
        "server_learning_rate": RATE,
        "beta_1": Number(default=0.0, least=BETA_1.least, below=BETA_1.below),
        "tau": TAU,
    }

    def second_moment(self, v: F64, squared: F64, settings: Settings) -> F64:
        """V + Δ²."""
        del settings
        return v + squared
