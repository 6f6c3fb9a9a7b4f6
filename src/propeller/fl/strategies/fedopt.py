"""Adaptive server optimisers: FedAdagrad, FedAdam and FedYogi, which differ in their second moment only.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: "Adaptive Federated Optimization", ICLR 2021,
algorithm 2: m ← β₁·m + (1 - β₁)·Δ, v ← (see each), w ← w + η·m / (√v + τ), with v₋₁ = τ². Δ is the mean
update's difference from the base; the paper weights clients alike, here as everywhere by their samples.
Neither the paper nor this corrects the moments' bias. This file holds what the three share.
"""

from abc import ABC, abstractmethod

import numpy as np

from propeller.fl.strategies.base import F64, Block, Moved, Strategy
from propeller.fl.strategies.options import Number, Settings

BETA_1 = Number(default=0.9, least=0, below=1)
BETA_2 = Number(default=0.99, least=0, below=1)
RATE = Number(default=0.1, above=0)
TAU = Number(default=1e-3, above=0)


class FedOpt(Strategy, ABC):
    """Steps by m / (√v + τ). State: the moments m (zero at first) and v (τ² at first)."""

    slots = ("m", "v")
    needs_base = True

    @abstractmethod
    def second_moment(self, v: F64, squared: F64, settings: Settings) -> F64:
        """The new v, of the old one and Δ²."""

    def begin(self, slot: str, settings: Settings) -> float:
        """V begins as τ²."""
        return settings["tau"] ** 2 if slot == "v" else 0.0

    def step(self, block: Block, settings: Settings) -> Moved:
        """W ← w + η·m / (√v + τ)."""
        delta = block.mean - block.base
        beta = settings["beta_1"]
        m = beta * block.state["m"] + (1 - beta) * delta
        v = self.second_moment(block.state["v"], delta * delta, settings)
        moved = block.base + settings["server_learning_rate"] * m / (np.sqrt(v) + settings["tau"])
        return Moved(moved, {"m": m, "v": v})
