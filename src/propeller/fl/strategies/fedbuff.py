"""FedBuff's aggregation: a buffer of asynchronous updates, each counting less the staler it is.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: "Federated Learning with Buffered Asynchronous
Aggregation", AISTATS 2022, algorithm 1 and section 5: w ← w + ηg·(1/K)·Σ s(τₖ)·Δₖ with s(τ) = 1/(1 + τ)^a,
a = ½, where τₖ counts the versions made since the one that client k trained from, and K is the buffer's
size. Clients count alike but for that. A stale update must come here as base + Δₖ.
"""

import numpy as np

from propeller.fl.strategies.base import F64, Block, Moved, Round, Strategy
from propeller.fl.strategies.options import Number, Settings


class FedBuff(Strategy):
    """The strategy `fedbuff`: options `server_learning_rate` (ηg) and `staleness_exponent` (a)."""

    name = "fedbuff"
    options = {
        "server_learning_rate": Number(default=1.0, above=0),
        "staleness_exponent": Number(default=0.5, least=0),
    }
    needs_base = True

    def weigh(self, round_: Round, settings: Settings) -> F64:
        """S(τ) of every update."""
        staleness = np.array([party.staleness for party in round_.parties], dtype=np.float64)
        return (1 + staleness) ** -settings["staleness_exponent"]

    def step(self, block: Block, settings: Settings) -> Moved:
        """ηg·(Σ s)/K of the way to the weighted mean: stale updates shrink the step, not only their share."""
        share = block.tally.weight / block.tally.updates
        return Moved(block.base + settings["server_learning_rate"] * share * (block.mean - block.base))
