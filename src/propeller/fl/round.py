"""One federated round: who may send an update, when the set of updates is closed, how the round ends. Pure.

    REGISTERED ──launched, or the first update──▶ COLLECTING ──k-th update, or timeout──▶ AGGREGATING
        │                                            │                                        │
        └──refused, never launched, stopped──▶ FAILED ◀──too few at the timeout, stopped──────┤
                                                     COMPLETED ◀──the new model is stored─────┘

A round that evaluates takes the same way, but its updates are metrics: it makes no model, and AGGREGATING
ends once the registry has what was measured.
A first round, and one that a task started by hand opened, begins as COLLECTING: its tasks are their owner's.
The participants of a `drawn` round become known while it is REGISTERED. When all who could still send have
sent or are lost, the round ends as at its timeout, and at once when too few are left for `min_updates`.
Every state that is not final has a deadline (`due_mono_s`), at which the shell must say `Tick`. The k-th
accepted update closes the set; from then on it never changes, so that aggregating again gives the same bits.
Each participant counts once: the same content again is `Repeat`, other content a refusal.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Final

from propeller import limits
from propeller.errors import Bug, CallerError, Conflict, Denied
from propeller.fl.round_events import (
    Accept,
    Accepted,
    Aggregate,
    Aggregated,
    AggregationFailed,
    Announce,
    Command,
    Event,
    Joined,
    Launched,
    ParticipantsDrawn,
    ParticipantsLost,
    Refusal,
    Refuse,
    Repeat,
    Stopped,
    Submitted,
    Tick,
    Welcome,
)
from propeller.fl.round_spec import RoundSpec, quorum


class RoundState(StrEnum):
    """Where a round stands."""

    REGISTERED = "registered"
    COLLECTING = "collecting"
    AGGREGATING = "aggregating"
    COMPLETED = "completed"
    FAILED = "failed"


_R, _C, _A = RoundState.REGISTERED, RoundState.COLLECTING, RoundState.AGGREGATING
_DONE, _FAILED = RoundState.COMPLETED, RoundState.FAILED

MOVES: Final[Mapping[RoundState, frozenset[RoundState]]] = {
    _R: frozenset({_C, _FAILED}),
    _C: frozenset({_A, _FAILED}),
    _A: frozenset({_DONE, _FAILED}),
    _DONE: frozenset(),
    _FAILED: frozenset(),
}
"""The whole life of a round; any other move is a bug."""

TERMINAL: Final = frozenset(state for state, after in MOVES.items() if not after)


class Round:
    """A live round. `handle` is its only door; everything readable is for the store and for people.

    Deadlines are seconds of the monotonic clock that `now_mono_s` is read from.
    """

    def __init__(self, spec: RoundSpec, *, launched: bool, now_mono_s: float) -> None:
        self.spec = spec
        self.state = RoundState.COLLECTING if launched else RoundState.REGISTERED
        self.reason = ""
        self.accepted: dict[str, Accepted] = {}
        self.refused: Counter[str] = Counter()
        self.refusals: list[Refusal] = []
        """The first `limits.ROUND_REFUSALS_MAX` of them."""
        self.lost: dict[str, str] = {}
        """Participants that will not send, as far as is known, and why."""
        self.participants = dict.fromkeys(spec.participants)
        self.attempts = 0
        """Aggregations begun."""
        self.last_failure = ""
        """Why the last aggregation failed, if one did."""
        self.version: int | None = None
        self.model_hash = ""
        self.metrics: Mapping[str, float] = {}
        self.history: list[str] = [f"{self.state} at {now_mono_s:.3f}"]
        self._ends_mono_s = now_mono_s + self.full_s
        self._retry_mono_s: float | None = None

    @property
    def full_s(self) -> float:
        """How long the present state may last, from its beginning."""
        match self.state:
            case RoundState.REGISTERED:
                return limits.ROUND_LAUNCH_S
            case RoundState.COLLECTING:
                return self.spec.timeout_s
            case RoundState.AGGREGATING:
                return limits.ROUND_AGGREGATION_S
            case RoundState.COMPLETED | RoundState.FAILED:
                return 0.0

    @property
    def over(self) -> bool:
        """Whether the round has ended, for ever."""
        return self.state in TERMINAL

    @property
    def collecting(self) -> bool:
        """Whether updates are taken."""
        return self.state in {RoundState.REGISTERED, RoundState.COLLECTING}

    def too_late(self, participant: str) -> bool:
        """Whether an update of this participant can only count in a later round."""
        return self.spec.late and not self.collecting and participant not in self.accepted

    @property
    def samples(self) -> int:
        """Samples behind all accepted updates."""
        return sum(update.samples for update in self.accepted.values())

    @property
    def due_mono_s(self) -> float | None:
        """When the shell must say `Tick`; None if only another event can move the round."""
        if self.collecting:
            return self._ends_mono_s
        return self._retry_mono_s if self.state is RoundState.AGGREGATING else None

    def remaining_s(self, now_mono_s: float) -> float:
        """What is left of the present state's time, 0 if nothing."""
        return 0.0 if self.over else max(0.0, self._ends_mono_s - now_mono_s)

    def rearm(self, remaining_s: float, now_mono_s: float) -> None:
        """After a restart: at most the full time, and what the store says is left; aggregate anew."""
        self._ends_mono_s = now_mono_s + min(max(remaining_s, 0.0), self.full_s)
        if self.state is RoundState.AGGREGATING:
            self._retry_mono_s = now_mono_s

    def handle(  # noqa: PLR0911 - one return per kind of event
        self, event: Event, now_mono_s: float
    ) -> list[Command]:
        """Take one event in. Raises `Bug`, with the round's history, only for what cannot be."""
        match event:
            case Submitted(update=update):
                return self._submit(update, now_mono_s)
            case Tick():
                return self._tick(now_mono_s)
            case Launched(refused=refused):
                return self._launched(refused, now_mono_s)
            case ParticipantsDrawn():
                return self._drawn(event, now_mono_s)
            case ParticipantsLost(reasons=reasons):
                return self._lost(reasons, now_mono_s)
            case Joined():
                return self._join(event)
            case Aggregated():
                return self._aggregated(event, now_mono_s)
            case AggregationFailed():
                return self._aggregation_failed(event, now_mono_s)
            case Stopped(reason=reason):
                return [] if self.over else self._fail(reason, now_mono_s)

    @classmethod
    def restored(
        cls,
        spec: RoundSpec,
        *,
        state: RoundState,
        participants: Iterable[str],
        accepted: Iterable[Accepted],
        refused: Mapping[str, int],
        refusals: Iterable[Refusal] = (),
        lost: Mapping[str, str] | None = None,
        remaining_s: float,
        now_mono_s: float,
    ) -> "Round":
        """A live round as the store has it, its deadline re-armed. Raises `Bug` for one that has ended."""
        if state in TERMINAL:
            raise Bug(f"round {spec.round_id!r} is {state}; only live rounds are restored")
        round_ = cls(spec, launched=True, now_mono_s=now_mono_s)
        round_.state = state
        round_.participants = dict.fromkeys(participants)
        round_.accepted = {update.participant: update for update in accepted}
        round_.refused = Counter(refused)
        round_.refusals = list(refusals)
        round_.lost = dict(lost or {})
        round_.history = [f"{state} when restored at {now_mono_s:.3f}"]
        round_.rearm(remaining_s, now_mono_s)
        return round_

    def refuse(self, refusal: Refusal) -> None:
        """Count an update that was refused."""
        self.refused[refusal.code] += 1
        if len(self.refusals) < limits.ROUND_REFUSALS_MAX:
            self.refusals.append(refusal)

    # -------------------------------------------------------------------------------------------------------

    def _submit(self, update: Accepted, now_mono_s: float) -> list[Command]:
        known = self.accepted.get(update.participant)
        if known is not None and known.content == update.content:
            return [Repeat(participant=update.participant)]
        if refusal := self._objection(update.participant, repeated=known is not None):
            self.refuse(Refusal(participant=update.participant, code=refusal.reason, message=refusal.message))
            return [Refuse(error=refusal)]
        if self.state is RoundState.REGISTERED:
            self._move(RoundState.COLLECTING, now_mono_s, "its first update came")
        self.accepted[update.participant] = update
        self.lost.pop(update.participant, None)
        if len(self.accepted) < self.spec.k:
            return [Accept(update=update), *self._ended_early(now_mono_s)]
        return [Accept(update=update), *self._close(now_mono_s, f"update {self.spec.k} came")]

    def _objection(self, participant: str, *, repeated: bool) -> CallerError | None:
        where = f"round {self.spec.round_id!r}"
        if participant not in self.participants and participant not in self.spec.carried:
            return Denied(f"{participant!r} is not a participant of {where}", code="not_a_participant")
        if repeated:
            return Conflict(
                f"{participant!r} already sent another update for {where}; the first one counts",
                code="already_submitted",
            )
        if self.collecting:
            return None
        return Conflict(f"{where} is {self.state}; it takes no more updates", code="round_closed")

    def _tick(self, now_mono_s: float) -> list[Command]:
        due = self.due_mono_s
        if due is None or now_mono_s < due:
            return []
        match self.state:
            case RoundState.REGISTERED:
                return self._fail("not_launched", now_mono_s)
            case RoundState.COLLECTING if len(self.accepted) >= self.spec.min_updates:
                return self._close(now_mono_s, "the timeout came")
            case RoundState.COLLECTING:
                return self._fail("too_few_updates", now_mono_s)
            case _ if now_mono_s >= self._ends_mono_s:
                return self._fail(self.last_failure or "aggregation_timeout", now_mono_s)
            case _:
                return self._aggregate()

    def _launched(self, refused: str, now_mono_s: float) -> list[Command]:
        if self.over:
            return []
        if refused:
            return self._fail(f"refused: {refused}", now_mono_s)
        if self.state is RoundState.REGISTERED:
            self._move(RoundState.COLLECTING, now_mono_s, "its tasks were launched")
        return []

    def _drawn(self, event: ParticipantsDrawn, now_mono_s: float) -> list[Command]:
        if list(self.participants) == list(event.participants):
            return []
        where = f"round {self.spec.round_id!r}"
        if self.participants or not self.spec.drawn or self.state is not RoundState.REGISTERED:
            said = f"{where} is {self.state}, and has its participants"
            return [Refuse(error=Conflict(said, code="round_exists"))]
        k = quorum(event.k, len(event.participants))
        least = self.spec.min_updates or k
        self.spec = replace(self.spec, participants=event.participants, k=k, min_updates=min(least, k))
        self.participants = dict.fromkeys(event.participants)
        return self._fail("too_few_participants", now_mono_s) if least > k else []

    def _lost(self, reasons: Mapping[str, str], now_mono_s: float) -> list[Command]:
        if not self.collecting:
            return []
        for participant, reason in reasons.items():
            if participant not in self.accepted and (
                participant in self.participants or participant in self.spec.carried
            ):
                self.lost[participant] = reason
        return self._ended_early(now_mono_s)

    def _ended_early(self, now_mono_s: float) -> list[Command]:
        """What follows if waiting longer is of no use, because participants are lost."""
        if not self.lost or self.spec.manual:
            return []
        asked = len(self.participants) + len(self.spec.carried)
        left = asked - len(self.accepted) - len(self.lost)
        if len(self.accepted) + left < self.spec.min_updates:
            return self._fail("too_few_updates", now_mono_s)
        if left:
            return []
        return self._close(now_mono_s, "nobody else can send")

    def _join(self, event: Joined) -> list[Command]:
        where = f"round {self.spec.round_id!r}"
        if not self.collecting:
            return [Refuse(error=Conflict(f"{where} is {self.state}", code="round_closed"))]
        if event.base != self.spec.base:
            said = f"{where} starts from {self.spec.base.uri}, the task from {event.base.uri}"
            return [Refuse(error=Conflict(said, code="wrong_base"))]
        if event.participant not in self.participants:
            if not self.spec.manual:
                said = f"{event.participant!r} is not a participant of {where}"
                return [Refuse(error=Denied(said, code="not_a_participant"))]
            if len(self.participants) == limits.PARTICIPANTS_MAX:
                said = f"{where} has {limits.PARTICIPANTS_MAX} participants, the most there may be"
                return [Refuse(error=Conflict(said, code="round_full"))]
            self.participants[event.participant] = None
        return [Welcome(participant=event.participant)]

    def _close(self, now_mono_s: float, cause: str) -> list[Command]:
        self._move(RoundState.AGGREGATING, now_mono_s, cause)
        return self._aggregate()

    def _aggregate(self) -> list[Command]:
        self.attempts += 1
        self._retry_mono_s = None
        return [Aggregate(participants=tuple(sorted(self.accepted)))]

    def _aggregated(self, event: Aggregated, now_mono_s: float) -> list[Command]:
        if self.over:
            return []
        self.version, self.model_hash = event.version, event.model_hash
        self.metrics = event.metrics
        what = "its metrics were stored" if event.version is None else f"version {event.version} was stored"
        self._move(RoundState.COMPLETED, now_mono_s, what)
        return [Announce()]

    def _aggregation_failed(self, event: AggregationFailed, now_mono_s: float) -> list[Command]:
        if self.over:
            return []
        self.last_failure = event.reason
        if not event.retryable or now_mono_s >= self._ends_mono_s:
            return self._fail(event.reason, now_mono_s)
        pause_s = limits.ROUND_AGGREGATION_RETRY_S * 2 ** min(self.attempts - 1, 10)
        self._retry_mono_s = now_mono_s + min(pause_s, limits.ROUND_AGGREGATION_RETRY_S_MAX)
        return []

    def _fail(self, reason: str, now_mono_s: float) -> list[Command]:
        self.reason = reason
        self._move(RoundState.FAILED, now_mono_s, reason)
        return [Announce()]

    def _move(self, to: RoundState, now_mono_s: float, cause: str) -> None:
        if to not in MOVES[self.state]:
            story = "; ".join(self.history)
            raise Bug(f"round {self.spec.round_id!r} cannot go from {self.state} to {to} ({cause}): {story}")
        self.state = to
        self.history.append(f"{to} at {now_mono_s:.3f}: {cause}")
        self._ends_mono_s = now_mono_s + self.full_s
