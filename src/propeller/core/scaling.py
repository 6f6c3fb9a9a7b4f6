"""How many replicas a rule asks for. Pure.

With `total` the figure's sum over the `count` replicas that have one, and `value = total / count`:

    asked for = ceil(count * value / target) = ceil(total / target)      (the formula of the Kubernetes HPA)

Nothing changes while value / target is within the tolerance of 1. Replicas without a figure count as idle
when it is about more replicas, and as on target when it is about fewer, so that those that begin change
nothing. The number goes up at once, and down only to the highest that was asked for within the window.
"""

from collections.abc import Iterable
from math import ceil

from propeller.core.replicas import Scale


def advised(scale: Scale, wanted: int, total: float, count: int) -> int:
    """The number that the figure asks for now, within the rule's bounds."""
    if count == 0 or abs(total / count / scale.target - 1.0) <= scale.tolerance:
        return bounded(scale, wanted)
    more = ceil(round(total / scale.target, 9))
    fewer = more + max(0, wanted - count)
    if more > wanted:
        return bounded(scale, more)
    return bounded(scale, min(wanted, fewer))


def steadied(wanted: int, advice: Iterable[int]) -> int:
    """The number to have, given all that was asked for within the window, the latest at the end."""
    asked = list(advice)
    return asked[-1] if asked[-1] >= wanted else min(wanted, max(asked))


def bounded(scale: Scale | None, wanted: int) -> int:
    """The number that the rule allows instead of `wanted`; without a rule that."""
    return wanted if scale is None else min(max(wanted, scale.min), scale.max)
