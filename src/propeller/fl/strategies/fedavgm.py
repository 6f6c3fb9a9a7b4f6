"""Federated averaging with server momentum.

Hsu, Qi, Brown: "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", 2019, section 4.3: v ← β·v + Δ, w ← w + η·v, where Δ is the mean update's difference from
the base (the paper writes the opposite sign throughout).
"""

from propeller.fl.strategies.base import Block, Moved, Strategy
from propeller.fl.strategies.options import Number, Settings


class FedAvgM(Strategy):
    """The strategy `fedavgm`. State: the momentum v, zero at first."""

    name = "fedavgm"
    options = {
        "momentum": Number(default=0.9, least=0, below=1),
        "server_learning_rate": Number(default=1.0, above=0),
    }
    slots = ("momentum",)
    needs_base = True

    def step(self, block: Block, settings: Settings) -> Moved:
        """V ← β·v + Δ, w ← w + η·v."""
        velocity = settings["momentum"] * block.state["momentum"] + (block.mean - block.base)
        return Moved(block.base + settings["server_learning_rate"] * velocity, {"momentum": velocity})
