"""What a round was asked to be. Knows none of its life."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from propeller.errors import BadInput
from propeller.fl.buffer import Origin
from propeller.fl.model_ref import ModelRef

Mode = Literal["train", "evaluate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSpec:
    """What a round was asked to be."""

    round_id: str
    experiment_id: str
    series: str
    """The id of the first round of the experiment: what its rounds have in common for certain."""
    number: int
    """1 for the first round of the experiment."""
    participants: tuple[str, ...]
    k: int
    """How many updates close the set."""
    min_updates: int
    """How many are enough at the timeout."""
    timeout_s: float
    base: ModelRef
    base_hash: str
    """Content hash of the base model."""
    base_source: str = ""
    """The artefact that the base was pulled from for this experiment, with its digest."""
    manual: bool = False
    """True if a task started by hand opened it: others may still join."""
    mode: Mode = "train"
    drawn: bool = False
    """True if the manager draws the participants; `k` and, if it is 0, `min_updates` then follow."""
    late: bool = False
    """Whether updates may count in a later round than they were asked for in."""
    made: int = 0
    """Versions that the experiment made before it; counted only where `late` updates count."""
    carried: Mapping[str, Origin] = field(default_factory=dict)
    """Who was asked in an earlier round, and may bring that update now."""


def quorum(k_of_n: int, participants: int) -> int:
    """How many updates close the set: `k_of_n`, or all for 0. Raises `BadInput` `bad_k_of_n` beyond n."""
    if 0 <= k_of_n <= participants:
        return k_of_n or participants
    raise BadInput(
        f"k_of_n is {k_of_n}, with {participants} participants; give 1 to {participants}, or 0 for all",
        code="bad_k_of_n",
    )
