"""Which proplet gets a run. Pure: candidates in, a choice or a visible reason out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from propeller.core.proplet import Proplet
from propeller.core.task import Task


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen proplet, or None and why the run waits."""

    proplet_id: str | None
    reason: str = ""


def choose(
    task: Task,
    proplets: Mapping[str, Proplet],
    order: Sequence[str],
    busy: Mapping[str, int],
    *,
    cursor: int,
    now_mono_s: float,
) -> Choice:
    """Pick a proplet for `task`: the one it names, else round robin over `order` beginning after `cursor`.

    `busy` counts live attempts by proplet; a proplet takes at most `slots` of them.
    """
    if task.proplet_id:
        return _named(task.proplet_id, proplets, busy, now_mono_s)
    free = [
        at
        for at, proplet_id in enumerate(order)
        if proplets[proplet_id].alive(now_mono_s) and busy.get(proplet_id, 0) < proplets[proplet_id].slots
    ]
    if free:
        return Choice(order[min(free, key=lambda at: (at - cursor - 1) % len(order))])
    return Choice(None, _why_none(proplets, now_mono_s))


def _named(
    proplet_id: str, proplets: Mapping[str, Proplet], busy: Mapping[str, int], now_mono_s: float
) -> Choice:
    proplet = proplets.get(proplet_id)
    if proplet is None:
        return Choice(None, f"proplet {proplet_id} is not registered")
    if not proplet.alive(now_mono_s):
        return Choice(None, f"proplet {proplet_id} is offline")
    if busy.get(proplet_id, 0) >= proplet.slots:
        return Choice(None, f"proplet {proplet_id} is busy with {busy[proplet_id]} task(s)")
    return Choice(proplet_id)


def _why_none(proplets: Mapping[str, Proplet], now_mono_s: float) -> str:
    if not proplets:
        return "no proplet has registered yet"
    alive = sum(proplet.alive(now_mono_s) for proplet in proplets.values())
    return f"all {alive} live proplets are busy" if alive else f"all {len(proplets)} proplets are offline"
