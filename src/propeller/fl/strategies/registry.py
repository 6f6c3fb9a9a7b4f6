"""The strategies that ship with Propeller, by name. Knows which there are and nothing of how they work."""

from typing import Final

from propeller.fl.strategies.base import Strategy, find
from propeller.fl.strategies.fedavg import FedAvg

BUILTIN: Final[dict[str, Strategy]] = {"fedavg": FedAvg()}
DEFAULT: Final = "fedavg"


def strategy(name: str) -> Strategy:
    """The strategy called `name` (empty: the default). Raises `BadInput` `unknown_strategy`."""
    return find(name or DEFAULT, BUILTIN)
