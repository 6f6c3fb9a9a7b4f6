"""What a task asks of a proplet: conditions that must hold, and preferences between those left. Pure.

An attribute is `labels.NAME` (given by operators or announced), a fact that it announced (`cpu_arch`, `os`,
`tags`, `total_memory_bytes`, `wasm_runtime`, `environment`, `location`, …), or its
`id`, `name` or `namespace`.
A condition on a fact that is not known does not hold, except `!=` and `not in`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from propeller import limits
from propeller.errors import BadInput

_LABELS = "labels."
_OWN = ("id", "name", "namespace")


class Facts(Protocol):
    """What can be asked of a proplet; `core.proplet.Proplet` is one."""

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def namespace(self) -> str:
        """Its namespace."""
        ...

    @property
    def metadata(self) -> Mapping[str, object]:
        """What it announced of itself."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """What operators call it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One condition. `value` is text, numbers included; for `in` and `not in` a list with commas."""

    attribute: str
    operator: str = "="
    value: str = ""

    def __str__(self) -> str:
        return f"{self.attribute} {self.operator} {self.value}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Affinity:
    """A preference: proplets for which the condition holds gain `weight`, which may be negative."""

    constraint: Constraint
    weight: float = 1.0


def check(constraints: Sequence[Constraint], affinities: Sequence[Affinity]) -> None:
    """Raise `BadInput` naming the condition that cannot be judged."""
    for name, count in (("constraints", len(constraints)), ("affinities", len(affinities))):
        if count > limits.TASK_CONSTRAINTS_MAX:
            raise BadInput(f"{name} has {count} entries; the limit is {limits.TASK_CONSTRAINTS_MAX}")
    for constraint in (*constraints, *(affinity.constraint for affinity in affinities)):
        _check_one(constraint)
    for affinity in affinities:
        if not -limits.AFFINITY_WEIGHT_MAX <= affinity.weight <= limits.AFFINITY_WEIGHT_MAX:
            raise BadInput(
                f"affinity {affinity.constraint} has weight {affinity.weight:g}; "
                f"it can be -{limits.AFFINITY_WEIGHT_MAX:g} to {limits.AFFINITY_WEIGHT_MAX:g}"
            )


def unmet(proplet: Facts, constraints: Sequence[Constraint]) -> Constraint | None:
    """The first condition that does not hold for the proplet, or None."""
    return next((one for one in constraints if not holds(proplet, one)), None)


def score(proplet: Facts, affinities: Sequence[Affinity]) -> float:
    """How much the proplet is preferred; 0 without preferences."""
    return sum(one.weight for one in affinities if holds(proplet, one.constraint))


def holds(proplet: Facts, constraint: Constraint) -> bool:
    """Whether the condition holds for the proplet."""
    values = _values(proplet, constraint.attribute)
    return _OPERATORS[constraint.operator](values, constraint.value)


def _check_one(constraint: Constraint) -> None:
    if not constraint.attribute or len(constraint.attribute) > limits.LABEL_CHARS_MAX + len(_LABELS):
        raise BadInput(f"constraint {str(constraint)[:80]!r} names no attribute of a proplet")
    if constraint.operator not in _OPERATORS:
        known = ", ".join(_OPERATORS)
        raise BadInput(f"constraint {str(constraint)[:80]!r} has an unknown operator; there are {known}")
    if len(constraint.value) > limits.CONSTRAINT_VALUE_CHARS_MAX:
        raise BadInput(f"the value of constraint {constraint.attribute} is too long")
    if constraint.operator in _NUMERIC and _number(constraint.value) is None:
        raise BadInput(f"constraint {str(constraint)[:80]!r} compares with what is no number")


def _values(proplet: Facts, attribute: str) -> tuple[str, ...]:
    """What the proplet has under that attribute: nothing, one value, or the members of a list."""
    found: object
    if attribute.startswith(_LABELS):
        found = _label(proplet, attribute.removeprefix(_LABELS))
    elif attribute in _OWN:
        found = getattr(proplet, attribute)
    else:
        found = proplet.metadata.get(attribute)
    if found is None:
        return ()
    if isinstance(found, list | tuple):
        return tuple(str(item) for item in found)
    return (str(found),)


def _label(proplet: Facts, name: str) -> object:
    """An operator's label, else one that the proplet announced itself."""
    announced = proplet.metadata.get("labels")
    own = announced.get(name) if isinstance(announced, Mapping) else None
    return proplet.labels.get(name, own)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number == number else None  # noqa: PLR0124 - what is not a number equals nothing


def _compared(test: Callable[[float, float], bool]) -> Callable[[tuple[str, ...], str], bool]:
    def compared(values: tuple[str, ...], wanted: str) -> bool:
        limit = _number(wanted)
        numbers = [_number(value) for value in values]
        return limit is not None and any(number is not None and test(number, limit) for number in numbers)

    return compared


def _among(values: tuple[str, ...], wanted: str) -> bool:
    return not {item.strip() for item in wanted.split(",")}.isdisjoint(values)


_NUMERIC: Mapping[str, Callable[[tuple[str, ...], str], bool]] = {
    "<": _compared(lambda value, limit: value < limit),
    "<=": _compared(lambda value, limit: value <= limit),
    ">": _compared(lambda value, limit: value > limit),
    ">=": _compared(lambda value, limit: value >= limit),
}
_OPERATORS: Mapping[str, Callable[[tuple[str, ...], str], bool]] = {
    "=": lambda values, wanted: wanted in values,
    "!=": lambda values, wanted: wanted not in values,
    "in": _among,
    "not in": lambda values, wanted: not _among(values, wanted),
    "exists": lambda values, _wanted: bool(values),
    **_NUMERIC,
}
