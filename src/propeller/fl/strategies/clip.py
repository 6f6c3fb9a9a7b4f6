"""Norm clipping around another strategy: no update counts as longer than a bound.

Sun, Kairouz, Suresh, McMahan: "Can You Really Backdoor Federated Learning?", 2019, section 4 (norm
thresholding): Δₖ ← Δₖ·min(1, M / ‖Δₖ‖) before the mean. A clipped update is base + c·(w - base), so clipping
is only a matter of weights: c of an update's share stays with it, the rest goes to the base.
"""

import numpy as np

from propeller.errors import BadInput, Bug
from propeller.fl.strategies.base import F64, Block, Moved, Round, Strategy
from propeller.fl.strategies.options import Number, Options, Settings


class Clip(Strategy):
    """The strategy `clip:NAME` around the strategy NAME: its options and `norm_max` (M).

    Only a strategy that needs a `sum` of models can be wrapped. Raises `BadInput` `bad_options` for another.
    """

    needs = "each"
    needs_base = True
    options = {"norm_max": Number(default=1.0, above=0)}

    def __init__(self, inner: Strategy) -> None:
        if inner.needs != "sum" or type(inner).expects is not Strategy.expects:
            raise BadInput(
                f"strategy {inner.name} cannot be clipped: only those can that average models alone",
                code="bad_options",
            )
        if "norm_max" in inner.options:
            raise Bug(f"strategy {inner.name} has an option norm_max of its own, which clip takes away")
        self.name = f"clip:{inner.name}"
        self.slots = inner.slots
        self._inner = inner

    def settings(self, options: Options) -> Settings:
        """The inner strategy's settings, and `norm_max`."""
        own = {name: value for name, value in options.items() if name in self.options}
        others = {name: value for name, value in options.items() if name not in self.options}
        return {**self._inner.settings(others), **super().settings(own)}

    def weigh(self, round_: Round, settings: Settings) -> F64:
        """The inner weights, each split between its update and the base."""
        weights, norms = self._inner.weigh(round_, settings), round_.norms()
        kept = weights * np.minimum(1.0, settings["norm_max"] / np.maximum(norms, settings["norm_max"]))
        return np.append(kept, (weights - kept).sum())

    def hyperparams(self, settings: Settings) -> dict[str, object]:
        """The inner strategy's."""
        return dict(self._inner.hyperparams(settings))

    def begin(self, slot: str, settings: Settings) -> float:
        """The inner strategy's."""
        return self._inner.begin(slot, settings)

    def step(self, block: Block, settings: Settings) -> Moved:
        """The inner strategy's."""
        return self._inner.step(block, settings)
