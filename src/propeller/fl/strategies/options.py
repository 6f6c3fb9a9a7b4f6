"""A strategy's options: numbers with bounds and defaults, checked in one way. Knows no strategy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from propeller.errors import BadInput

Options = Mapping[str, object]
"""A strategy's own settings as they were given: JSON values."""
Settings = Mapping[str, float]
"""The same, checked, with every default filled in; whole numbers are floats too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One option. Bounds are inclusive unless `above` (the lower) or `below` (the upper) is given instead."""

    default: float
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    whole: bool = False

    def allows(self, value: float) -> bool:
        """Whether `value` is finite, within the bounds, and whole if it must be."""
        return (
            math.isfinite(value)
            and self.least <= value <= self.most
            and self.above < value < self.below
            and (not self.whole or value.is_integer())
        )

    def __str__(self) -> str:
        bounds = [
            text
            for text, bound in (
                (f"at least {self.least:g}", self.least),
                (f"above {self.above:g}", self.above),
                (f"at most {self.most:g}", self.most),
                (f"below {self.below:g}", self.below),
            )
            if math.isfinite(bound)
        ]
        return " ".join(["a whole number" if self.whole else "a number", " and ".join(bounds)]).strip()


def checked(strategy: str, options: Options, known: Mapping[str, Number]) -> dict[str, float]:
    """Every option of `known` with its value. Raises `BadInput` `bad_options` naming the first wrong one."""
    refuse_unknown(strategy, options, known)
    return {name: _value(strategy, name, options.get(name), number) for name, number in known.items()}


def refuse_unknown(strategy: str, options: Options, known: Mapping[str, object]) -> None:
    """Raise `BadInput` `bad_options` naming the first option that `strategy` does not have."""
    strange = sorted(set(options) - set(known))
    if strange:
        offered = ", ".join(sorted(known)) or "none"
        raise BadInput(
            f"strategy {strategy} has no option {strange[0]!r}; it has: {offered}", code="bad_options"
        )


def _value(strategy: str, name: str, given: object, number: Number) -> float:
    if given is None:
        return number.default
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        try:
            value = float(given)
        except OverflowError:
            value = math.inf
        if number.allows(value):
            return value
    shown = str(given)[:40] if isinstance(given, (int, float)) else type(given).__name__
    raise BadInput(
        f"option {name!r} of strategy {strategy} is {shown}; it must be {number}", code="bad_options"
    )
