"""Rounds in memory and what a batch of decisions is about to write: the engine's nouns. Decides nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from propeller import limits
from propeller.fl.buffer import Origin
from propeller.fl.experiment import Evaluated, ExperimentEvent, RoundDone, RoundLost
from propeller.fl.model_ref import ModelRef
from propeller.fl.round import Round, RoundState
from propeller.fl.round_events import Accepted
from propeller.ports import Instant
from propeller.stores.coordinator import (
    Changes,
    ExperimentRecord,
    Notice,
    NoticeKind,
    RoundRecord,
    StoredUpdate,
)


@dataclass(slots=True, kw_only=True)
class LiveRound:
    """A round in memory, with its times for people."""

    round: Round
    started_wall_s: float
    ended_wall_s: float | None = None
    config_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a late update counts: a round that is open, from another version than the update's own."""

    round_id: str
    base: ModelRef
    origin: Origin


@dataclass(slots=True)
class Batch:
    """What a batch of decisions wants written, and what to do once it is."""

    rounds: dict[str, LiveRound] = field(default_factory=dict)
    experiments: dict[str, ExperimentRecord] = field(default_factory=dict)
    updates: list[StoredUpdate] = field(default_factory=list)
    notices: dict[tuple[str, NoticeKind], Notice] = field(default_factory=dict)
    done: set[tuple[str, NoticeKind]] = field(default_factory=set)
    aggregate: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Rounds to aggregate: id → participants of the closed set."""

    def changes(self, now: Instant) -> Changes:
        """What the store must commit."""
        return Changes(
            experiments=tuple(self.experiments.values()),
            rounds=tuple(round_record(live, now) for live in self.rounds.values()),
            updates=tuple(self.updates),
            notices=tuple(self.notices.values()),
            done=tuple(sorted(self.done)),
        )


def round_record(live: LiveRound, now: Instant) -> RoundRecord:
    """A live round as it is stored at `now`."""
    round_ = live.round
    return RoundRecord(
        spec=round_.spec,
        state=round_.state,
        reason=round_.reason,
        participants=tuple(round_.participants),
        num_updates=len(round_.accepted),
        samples=round_.samples,
        version=round_.version,
        model_hash=round_.model_hash,
        metrics=dict(round_.metrics),
        refused=dict(round_.refused),
        refusals=tuple(round_.refusals),
        lost=dict(round_.lost),
        config_hash=live.config_hash,
        remaining_s=round_.remaining_s(now.mono_s),
        stamped_wall_s=now.wall_s,
        stamped_mono_s=now.mono_s,
        started_wall_s=live.started_wall_s,
        ended_wall_s=live.ended_wall_s,
    )


def restored(record: RoundRecord, accepted: Sequence[Accepted], now: Instant) -> Round:
    """What is left of a deadline, never nothing: peers could not reach us."""
    gone_s = now.elapsed_s(Instant(record.stamped_mono_s, record.stamped_wall_s))
    return Round.restored(
        record.spec,
        state=record.state,
        participants=record.participants,
        accepted=accepted,
        refused=record.refused,
        refusals=record.refusals,
        lost=record.lost,
        remaining_s=max(record.remaining_s - gone_s, limits.ROUND_RESTART_GRACE_S),
        now_mono_s=now.mono_s,
    )


def weight(round_: Round) -> tuple[object, ...]:
    """What of a round is worth a write when it changes."""
    return round_.state, len(round_.accepted), len(round_.participants), len(round_.lost)


def outcome(round_: Round, elapsed_s: float) -> ExperimentEvent:
    """What the end of a round, `elapsed_s` after its experiment began, is to the experiment."""
    spec = round_.spec
    completed = round_.state is RoundState.COMPLETED
    if spec.mode == "evaluate":
        failure = "" if completed else round_.reason
        return Evaluated(number=spec.number, metrics=round_.metrics, failure=failure, elapsed_s=elapsed_s)
    if completed and round_.version is not None:
        made = ModelRef(name=spec.base.name, version=round_.version)
        return RoundDone(
            number=spec.number,
            base=made,
            base_hash=round_.model_hash,
            metrics=round_.metrics,
            counted=tuple(round_.accepted),
            lost=tuple(round_.lost),
            elapsed_s=elapsed_s,
        )
    # What the manager refused it would refuse again: the next round asks for the same.
    final = round_.reason.startswith("refused: ")
    return RoundLost(
        number=spec.number,
        reason=round_.reason,
        final=final,
        counted=tuple(round_.accepted),
        lost=tuple(round_.lost),
        elapsed_s=elapsed_s,
    )
