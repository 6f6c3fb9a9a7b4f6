"""What a service needs: from what is seen of its replicas, which to stop, which to start, what is decided.

A function without memory or effect. It keeps two bounds: what is not being stopped is never more than
`wanted + surge`, and a replica is started only where all there are, those being stopped too, stay within it.

    steady        of the stable revision as many as wanted; the least useful surplus goes first
    rolling       the new revision comes in by steps of `max(1, surge)`: a step begins when all new replicas
                  are healthy, and an old one goes for each healthy new one. Replicas that are missing
                  beyond the step are of the old revision, which is known to work
    rolling_back  refused replicas go at once unless they are healthy; those go as old ones come
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from propeller.core.replicas import Rollout
from propeller.core.service import Phase, Service, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One live replica."""

    id: str
    revision: int
    proplet_id: str = ""
    """Where it is; empty while it waits."""
    healthy: bool = False
    stopping: bool = False
    failures: int = 0
    says: str = ""
    """Why it is not healthy, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is known beside the replicas."""

    pinned: bool = True
    """Whether it is known what the new revision's image means."""
    may_start: bool = True
    """Whether the pause after replicas that ended by themselves is over."""
    late: bool = False
    """Whether the rollout's deadline has passed."""
    broken: str = ""
    """Why the new revision cannot be: a replica of it ended, or its image is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now: a turn alone, after which to look again, or stops and starts."""

    turn: Turn | None = None
    why: str = ""
    stop: tuple[str, ...] = ()
    start: tuple[int, ...] = ()
    """Revisions of which to start one replica each."""


def decide(service: Service, rollout: Rollout, seen: Sequence[Seen], now: Circumstances) -> Plan:
    """What a running service needs."""
    turned = _turn(service, rollout, seen, now)
    if turned is not None:
        return turned
    fleet = _Fleet(service, rollout, seen, now)
    match service.phase:
        case Phase.STEADY:
            return fleet.kept()
        case Phase.ROLLING:
            return fleet.rolled() if now.pinned else fleet.kept(of=service.stable.number, all_others=False)
        case Phase.ROLLING_BACK:
            return fleet.rolled_back()


def _turn(service: Service, rollout: Rollout, seen: Sequence[Seen], now: Circumstances) -> Plan | None:
    mine = [one for one in seen if one.revision == service.made_of.number and not one.stopping]
    others = [one for one in seen if one.revision != service.made_of.number and not one.stopping]
    if service.phase is Phase.ROLLING:
        why = _refusal(service, rollout, mine, now)
        if why:
            return Plan(turn=Turn.REFUSED, why=why)
        if now.pinned and not others and sum(one.healthy for one in mine) >= service.wanted:
            return Plan(turn=Turn.PROVEN)
    if service.phase is Phase.ROLLING_BACK and (now.late or (not others and len(mine) >= service.wanted)):
        return Plan(turn=Turn.SETTLED)
    return None


def _refusal(service: Service, rollout: Rollout, new: Iterable[Seen], now: Circumstances) -> str:
    if now.broken:
        return now.broken
    failed = [one for one in new if one.failures]
    if sum(one.failures for one in failed) > rollout.failures:
        return f"{failed[0].id} failed: {failed[0].says}"
    if now.late:
        stuck = next((f": {one.id} {one.says}" for one in new if not one.healthy), "")
        return f"no further replica of revision {service.target.number} was healthy in time{stuck}"
    return ""


class _Fleet:
    """The replicas by what they are for; each method makes the plan of one phase."""

    def __init__(self, service: Service, rollout: Rollout, seen: Sequence[Seen], now: Circumstances) -> None:
        self._service = service
        self._now = now
        self._most = service.wanted + rollout.surge
        self._step = max(1, rollout.surge)
        self._spare = 0 if rollout.surge else 1
        """How many fewer than wanted there are meanwhile, to make room."""
        self._live = [one for one in seen if not one.stopping]
        self._room = max(0, self._most - len(seen))

    def kept(self, of: int = 0, *, all_others: bool = True) -> Plan:
        """As many as wanted of one revision; all others go, or are left alone."""
        of = of or self._service.made_of.number
        mine, others = self._of(of), self._not_of(of)
        counted = mine if all_others else self._live
        stop = [*others] if all_others else []
        stop += _least_useful(counted)[: max(0, len(counted) - self._service.wanted)]
        missing = min(self._service.wanted - len(counted), self._room) if self._now.may_start else 0
        return Plan(stop=tuple(one.id for one in stop), start=(of,) * missing)

    def rolled(self) -> Plan:
        """One step of the new revision, or none while the last one is not healthy."""
        new, old = self._of(self._service.target.number), self._not_of(self._service.target.number)
        wanted = self._service.wanted
        healthy = sum(one.healthy for one in new)
        unready = len(new) - healthy
        goes_on = self._spare if unready == 0 and healthy < wanted else min(self._spare, unready)
        kept_old = max(0, wanted - healthy - goes_on)
        stop = _least_useful(old)[: max(0, len(old) - kept_old)]
        stop += _least_useful(new)[: max(0, len(new) - wanted)]
        stop += self._beyond_bound(stop, [*old, *new])
        start_new = max(0, min(wanted - len(new), self._step - unready, self._room))
        left = len(self._live) - len(stop) + start_new
        missing = max(0, min(wanted - goes_on - left, self._room - start_new)) if self._now.may_start else 0
        start = (self._service.target.number,) * start_new + (self._service.stable.number,) * missing
        return Plan(stop=tuple(one.id for one in stop), start=start)

    def rolled_back(self) -> Plan:
        """The stable revision up to what is wanted; healthy replicas of others serve until it is there."""
        mine, others = self._of(self._service.stable.number), self._not_of(self._service.stable.number)
        wanted = self._service.wanted
        healthy = sum(one.healthy for one in mine)
        stop = [one for one in others if not one.healthy]
        serving = [one for one in others if one.healthy]
        goes_on = self._spare if len(mine) < wanted else 0
        stop += _least_useful(serving)[: max(0, len(serving) - max(0, wanted - healthy - goes_on))]
        stop += _least_useful(mine)[: max(0, len(mine) - wanted)]
        stop += self._beyond_bound(stop, [*serving, *mine])
        missing = max(0, min(wanted - len(mine), self._room)) if self._now.may_start else 0
        return Plan(stop=tuple(one.id for one in stop), start=(self._service.stable.number,) * missing)

    def _of(self, revision: int) -> list[Seen]:
        return [one for one in self._live if one.revision == revision]

    def _not_of(self, revision: int) -> list[Seen]:
        return [one for one in self._live if one.revision != revision]

    def _beyond_bound(self, stopped: Sequence[Seen], others: Sequence[Seen]) -> list[Seen]:
        """Which to stop besides, so that no more than the bound are left."""
        left = _least_useful([one for one in others if one not in stopped])
        return left[: max(0, len(left) - self._most)]


def _least_useful(replicas: Sequence[Seen]) -> list[Seen]:
    """The one to stop first in front: unhealthy, then on a proplet that has another, then the latest."""
    crowd: dict[str, int] = {}
    ordered: list[tuple[bool, bool, int, Seen]] = []
    for at, one in enumerate(replicas):
        crowd[one.proplet_id] = crowd.get(one.proplet_id, 0) + 1
        ordered.append((one.healthy, crowd[one.proplet_id] == 1, -at, one))
    return [one for *_, one in sorted(ordered, key=lambda ranked: ranked[:3])]
