"""What a service asks for its replicas: how a new revision is rolled out, and how many there are. Data only.

rollout      how many more than wanted there may be meanwhile, and when a new replica is healthy
scale        the rule that sets the number by a figure: calls in progress, or processor time
"""

from dataclasses import dataclass
from typing import Literal

from propeller import limits
from propeller.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """How a new revision comes in, `max(1, surge)` replicas at a time.

    `surge` 0 stops an old replica before it starts a new one: for fleets without a slot to spare.
    """

    surge: int = 1
    healthy_s: float = 5.0
    """A replica is healthy once it has run for so long, on a proplet that is alive, without a failure."""
    deadline_s: float = 300.0
    """A rollout in which no further replica becomes healthy for so long is rolled back."""
    failures: int = 2
    """How many failures of new replicas are forgiven in one rollout; a replica that ends is never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Between `min` and `max` replicas, so many that each has about `target` of the figure `on`."""

    min: int = 1
    max: int
    on: Literal["queue", "cpu"]
    """`queue`: calls in progress. `cpu`: processor time in percent of one core."""
    target: float
    tolerance: float = 0.1
    """A figure off its target by no more than this part of it changes nothing."""
    window_s: float = 300.0
    """The number goes down only to the highest that the figure asked for within so long."""


def check_rollout(rollout: Rollout) -> None:
    """Raise `BadInput` for a policy out of bounds."""
    _bounds("rollout.surge", rollout.surge, 0, limits.REPLICAS_MAX)
    _bounds("rollout.healthy_s", rollout.healthy_s, 0, limits.POLICY_DELAY_S_MAX)
    _bounds("rollout.deadline_s", rollout.deadline_s, 1, limits.POLICY_DELAY_S_MAX)
    _bounds("rollout.failures", rollout.failures, 0, limits.POLICY_ATTEMPTS_MAX)
    if rollout.healthy_s >= rollout.deadline_s:
        raise BadInput("rollout.healthy_s must be below rollout.deadline_s", code="bad_policy")


def check_scale(scale: Scale, *, latent: bool) -> None:
    """Raise `BadInput` for a rule out of bounds, or on a figure that the service does not have."""
    _bounds("scale.min", scale.min, 1, limits.REPLICAS_MAX)
    _bounds("scale.max", scale.max, scale.min, limits.REPLICAS_MAX)
    _bounds("scale.target", scale.target, limits.SCALE_TARGET_MIN, limits.SCALE_TARGET_MAX)
    _bounds("scale.tolerance", scale.tolerance, 0, 1)
    _bounds("scale.window_s", scale.window_s, 0, limits.POLICY_DELAY_S_MAX)
    if (scale.on == "queue") != latent:
        raise BadInput(
            "scale.on is queue for a latent service, whose calls are counted, and cpu for a daemon",
            code="bad_policy",
        )


def _bounds(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise BadInput(f"{name} must be {least:g} to {most:g}, got {value:g}", code="bad_policy")
