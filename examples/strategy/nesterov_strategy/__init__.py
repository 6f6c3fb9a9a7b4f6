"""Federated averaging with Nesterov's momentum on the server: a strategy as any package may bring one.

Nesterov, "A method of solving a convex programming problem with convergence rate O(1/k²)", 1983, in the form
of Sutskever, Martens, Dahl, Hinton, ICML 2013: v ← β·v + Δ, w ← w + η·(β·v + Δ), where Δ is how far the
round's mean lies from the model that it started from.
"""

from propeller.fl.strategies.base import Block, Moved, Strategy
from propeller.fl.strategies.options import Number, Settings


class Nesterov(Strategy):
    """The strategy `nesterov`. State: the momentum v, zero at first."""

    name = "nesterov"
    version = 1  # raise it whenever the same updates would give another model
    options = {  # noqa: RUF012 - the base class declares it
        "momentum": Number(default=0.9, least=0, below=1),
        "server_learning_rate": Number(default=1.0, above=0),
    }
    slots = ("momentum",)  # one copy of the model is kept for each, beside the model's version
    needs_base = True  # `step` reads `block.base`

    def step(self, block: Block, settings: Settings) -> Moved:
        """Asked block by block; arrays are flat float64, whatever the model's own type."""
        beta, delta = settings["momentum"], block.mean - block.base
        velocity = beta * block.state["momentum"] + delta
        moved = block.base + settings["server_learning_rate"] * (beta * velocity + delta)
        return Moved(moved, {"momentum": velocity})
