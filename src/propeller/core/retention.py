"""What is kept, and for how long: the policy, and what it says of things that have an age. Pure.

A thing goes only if both say so: it is not among the newest `last` of its group, and it is older than
`max_age_s`. What is needed, whatever its age, is for each role to say. It must not know what the things are.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """The newest `last` of each group stay, and so does all that is not older than `max_age_s`."""

    last: int
    max_age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The policy of a system; the defaults are for those who would rather buy a disk than miss a record."""

    models: Keep = field(default=Keep(last=100, max_age_s=90 * _DAY_S))
    """Versions of each model. Kept besides: tags, heads of lineage, what is in use or waits to be pushed."""
    updates: Keep = field(default=Keep(last=100, max_age_s=30 * _DAY_S))
    """Rounds whose updates are kept with their tensors; records of updates stay."""
    runs: Keep = field(default=Keep(last=100, max_age_s=90 * _DAY_S))
    """Ended runs of each task, with their results. The latest of a task is always kept."""
    events: Keep = field(default=Keep(last=50, max_age_s=90 * _DAY_S))
    """Lines of each task's history."""
    metrics: Keep = field(default=Keep(last=100, max_age_s=30 * _DAY_S))
    """Measurements of each proplet, and of each task."""
    images: Keep = field(default=Keep(last=0, max_age_s=30 * _DAY_S))
    """Manifests of each repository of the OCI registry that no tag, index or artefact names."""
    every_s: float = 3600.0
    """How often each role looks; 0: never by itself."""


class Aged(NamedTuple):
    """A thing of a group: the larger `order` is the newer."""

    group: str
    order: int
    at_s: float
    """Unix time of its making or its end."""


def surplus(things: Iterable[Aged], keep: Keep, now_s: float) -> list[Aged]:
    """What may go, by group and oldest first."""
    groups: defaultdict[str, list[Aged]] = defaultdict(list)
    for thing in things:
        groups[thing.group].append(thing)
    found: list[Aged] = []
    for name in sorted(groups):
        older = sorted(groups[name], key=lambda one: one.order)[: -keep.last or None]
        found += [one for one in older if now_s - one.at_s > keep.max_age_s]
    return found
