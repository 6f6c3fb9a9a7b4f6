"""Federated averaging: the mean of the participants' models, weighted by their numbers of samples.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, algorithm 1: w ← Σ nₖ·wₖ / Σ nₖ. That is what `Strategy` does by itself.
"""

from propeller.fl.strategies.base import Strategy


class FedAvg(Strategy):
    """The strategy `fedavg`. It has no options and no state."""

    name = "fedavg"
