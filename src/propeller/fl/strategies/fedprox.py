"""FedProx: clients stay near the global model by a proximal term; the server averages as FedAvg does.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: "Federated Optimization in Heterogeneous Networks", MLSys 2020,
algorithm 2: a client minimises F(w) + μ/2·‖w - wᵗ‖². The server's part is to tell every trainer the same μ.
"""

from collections.abc import Mapping

from propeller.fl.strategies.base import Strategy
from propeller.fl.strategies.options import Number, Settings


class FedProx(Strategy):
    """The strategy `fedprox`: option `mu`, which every trainer finds as `mu` among its hyperparameters."""

    name = "fedprox"
    options = {"mu": Number(default=0.1, least=0)}

    def hyperparams(self, settings: Settings) -> Mapping[str, object]:
        """The proximal term's weight."""
        return {"mu": settings["mu"]}
