"""SCAFFOLD: control variates correct the clients' drift.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: "SCAFFOLD: Stochastic Controlled Averaging for Federated
Learning", ICML 2020, algorithm 1: x ← x + ηg·(1/|S|)·Σ Δyᵢ, c ← c + (|S|/N)·(1/|S|)·Σ Δcᵢ. Clients count
alike, as in the paper.

The server's variate c travels as tensors beside the model: for each floating-point tensor `w` the model
versions of the experiment also hold `scaffold.c/w`, of the same shape. A trainer reads both (c is zero in a
base that has none yet) and sends its model as `w` and its Δcᵢ as `scaffold.c/w`; its own cᵢ it keeps.
"""

from collections.abc import Mapping

import numpy as np

from propeller.errors import BadInput
from propeller.fl.strategies.base import F64, Block, Moved, Round, Strategy
from propeller.fl.strategies.options import Number, Options, Settings
from propeller.fl.tensors import Tensors, frozen

VARIATE = "scaffold.c/"


class Scaffold(Strategy):
    """The strategy `scaffold`: options `server_learning_rate` (ηg) and `clients` (N, of whom S is drawn)."""

    name = "scaffold"
    options = {
        "server_learning_rate": Number(default=1.0, above=0),
        "clients": Number(default=0, least=0, whole=True),
    }
    needs_base = True
    clients_remember = True

    def settings(self, options: Options) -> Settings:
        """As declared; `clients` has no sensible default, so it must be given."""
        found = super().settings(options)
        if found["clients"] < 1:
            raise BadInput(
                "strategy scaffold needs the option 'clients': how many clients the experiment has in all",
                code="bad_options",
            )
        return found

    def hyperparams(self, settings: Settings) -> Mapping[str, object]:
        """That variates are wanted: a base that has none yet does not say so."""
        del settings
        return {"scaffold": 1}

    def expects(self, base: Tensors) -> Tensors:
        """The base with a variate beside each floating-point tensor, zero where it has none yet."""
        variates = {
            VARIATE + name: np.zeros(array.shape, array.dtype)
            for name, array in base.items()
            if array.dtype.kind == "f" and not name.startswith(VARIATE) and VARIATE + name not in base
        }
        return base if not variates else Tensors({**base, **frozen(variates)})

    def weigh(self, round_: Round, settings: Settings) -> F64:
        """All alike."""
        del settings
        return np.ones(len(round_.parties))

    def step(self, block: Block, settings: Settings) -> Moved:
        """A variate gains |S|/N of the mean Δc; the model goes ηg of the way to the mean."""
        if block.tensor.startswith(VARIATE):
            return Moved(block.base + min(1.0, block.tally.updates / settings["clients"]) * block.mean)
        return Moved(block.base + settings["server_learning_rate"] * (block.mean - block.base))
