"""All live experiments and rounds in memory, and what one batch of events changes in them. No I/O, no clock.

Every method is one decision: it moves machines of `fl` and notes in a `Batch` what must be written and done.
Nothing noted counts before the store has committed the batch; if it cannot, the engine is loaded anew.
A round that has ended stays here until its end is written (`settle`), so that late updates hear the same.
"""

from collections.abc import Mapping

from propeller.errors import Bug, CallerError, Conflict, PeerUnavailable
from propeller.federation.coordinator.live import Batch, LiveRound, Place, outcome, restored, weight
from propeller.federation.coordinator.notices import complete_notice, next_notice, start_notice
from propeller.fl.experiment import (
    Experiment,
    ExperimentEvent,
    OpenRound,
    PauseAsked,
    ResumeAsked,
    StopAsked,
    StopRound,
    begun,
)
from propeller.fl.model_ref import ModelRef
from propeller.fl.plan import EVALUATION, ExperimentSpec, generated_id
from propeller.fl.round import Round, RoundState
from propeller.fl.round_events import (
    Accept,
    Accepted,
    Aggregate,
    Aggregated,
    AggregationFailed,
    Announce,
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
)
from propeller.fl.round_spec import RoundSpec
from propeller.fl.update import Update
from propeller.ports import Instant
from propeller.stores.coordinator import (
    Content,
    ExperimentRecord,
    Live,
    Notice,
    NoticeKind,
    StoredUpdate,
    UpdateRecord,
)


class Engine:
    """The live part of the coordinator. Methods raise `CallerError` for what a caller must hear."""

    def __init__(self) -> None:
        self.rounds: dict[str, LiveRound] = {}
        self.experiments: dict[str, ExperimentRecord] = {}

    def load(self, live: Live, now: Instant) -> None:
        """Replace everything by what the store holds, deadlines re-armed for `now`."""
        self.experiments = {record.experiment.spec.series: record for record in live.experiments}
        self.rounds = {
            record.spec.round_id: LiveRound(
                round=restored(record, accepted, now),
                started_wall_s=record.started_wall_s,
                config_hash=record.config_hash,
            )
            for record, accepted in live.rounds
        }

    def in_use(self) -> tuple[list[ModelRef], list[str]]:
        """Model versions that live experiments and rounds need, and the ids of the latter.

        Of an experiment its first, its newest and its best model; of a round its base, and the bases of those
        who were asked before and may bring their update in it.
        """
        versions: set[ModelRef] = set()
        for record in self.experiments.values():
            experiment = record.experiment
            versions |= {experiment.spec.model, experiment.model}
            if experiment.best_version is not None:
                versions.add(ModelRef(name=experiment.model.name, version=experiment.best_version))
            if experiment.buffer is not None:
                versions |= {origin.base for origin in experiment.buffer.away().values()}
        for live in self.rounds.values():
            spec = live.round.spec
            versions |= {spec.base, *(origin.base for origin in spec.carried.values())}
        return sorted(versions, key=lambda one: (one.name, one.version)), sorted(self.rounds)

    def settle(self, batch: Batch) -> None:
        """The batch is written: forget what has ended."""
        for round_id, live in batch.rounds.items():
            if live.round.over:
                self.rounds.pop(round_id, None)
        for series, record in batch.experiments.items():
            if record.experiment.over:
                self.experiments.pop(series, None)

    def due_mono_s(self) -> float | None:
        """When `tick` is next of use."""
        dues = [due for live in self.rounds.values() if (due := live.round.due_mono_s) is not None]
        return min(dues, default=None)

    def claims(self, round_ids: set[str], experiment_id: str) -> str | None:
        """One of `round_ids` that is live or promised to a later round of a live experiment, or None."""
        for round_id in round_ids & self.rounds.keys():
            return round_id
        for record in self.experiments.values():
            spec = record.experiment.spec
            if spec.rounds == 1:
                continue
            if spec.experiment_id == experiment_id:
                return spec.series
            for round_id in round_ids:
                head, _, number = round_id.removesuffix(EVALUATION).rpartition("-")
                if (
                    head == spec.experiment_id
                    and number.isdecimal()
                    and _promised(spec, round_id, int(number))
                ):
                    return round_id
        return None

    # --- decisions -----------------------------------------------------------------------------------------

    def open(self, spec: ExperimentSpec, *, digest: str, base_hash: str, batch: Batch, now: Instant) -> bool:
        """Begin an experiment. False if this very request opened it.

        Its first round collects at once, unless the manager is yet to draw its participants.
        """
        known = self.experiments.get(spec.series)
        if known is not None and known.digest == digest:
            return False
        if taken := self.claims(set(spec.round_ids()), spec.experiment_id):
            raise Conflict(
                f"round {taken!r} belongs to an experiment that is under way; choose other ids, or stop it",
                code="round_id_taken",
            )
        experiment, first = begun(spec, base_hash)
        self._keep(experiment, digest, batch, now)
        self._open_round(first, batch, now, launched=not first.drawn)
        if first.drawn:
            _note(batch, start_notice(spec, first, now.wall_s))
        return True

    def submit(
        self,
        update: Update,
        *,
        size: int,
        content: Content,
        trainer: str = "",
        place: Place | None = None,
        batch: Batch,
        now: Instant,
    ) -> bool | None:
        """True if the update counts now, False if it counted already, None if the round is not live.

        With a `place` it is late, and counts there, if that round still is what it was.
        """
        live = self.rounds.get(place.round_id if place else update.round_id)
        if live is None or live.round.too_late(update.participant):
            return None
        staleness = live.round.spec.made - place.origin.made if place else 0
        accepted = Accepted(
            participant=update.participant,
            samples=update.samples,
            content=update.content,
            metrics=update.metrics,
            staleness=staleness,
        )
        record = UpdateRecord(
            round_id=live.round.spec.round_id,
            accepted=accepted,
            bytes=size,
            received_wall_s=now.wall_s,
            seconds=max(0.0, now.wall_s - live.started_wall_s),
            trainer=trainer,
            origin=update.round_id if place else "",
            staleness=staleness,
        )
        reply = self._apply(live, Submitted(update=accepted), batch, now)
        if isinstance(reply, Accept):
            batch.updates.append(StoredUpdate(record=record, content=content))
        return isinstance(reply, Accept)

    def refused(self, round_id: str, refusal: Refusal) -> None:
        """Count a refusal; it is written with the round's next change."""
        if live := self.rounds.get(round_id):
            live.round.refuse(refusal)

    def place(self, round_id: str, participant: str) -> Place | None:
        """Where an update that was asked for in the closed round `round_id` may count now, or None.

        Raises `PeerUnavailable` if it may count soon: the next round is not open yet.
        """
        for live in self.rounds.values():
            origin = live.round.spec.carried.get(participant)
            if origin is not None and origin.round_id == round_id and live.round.collecting:
                return Place(round_id=live.round.spec.round_id, base=live.round.spec.base, origin=origin)
        for record in self.experiments.values():
            buffer = record.experiment.buffer
            away = buffer.away().get(participant) if buffer else None
            if away is not None and away.round_id == round_id:
                raise PeerUnavailable(
                    f"round {round_id!r} is closed, and the next one is not open; send again",
                    code="later",
                )
        return None

    def drawn(
        self, round_id: str, participants: tuple[str, ...], k: int, *, batch: Batch, now: Instant
    ) -> bool:
        """These take part in the round; False if it is not live. Raises `Conflict` if others do."""
        live = self.rounds.get(round_id)
        if live is not None:
            self._apply(live, ParticipantsDrawn(participants=participants, k=k), batch, now)
        return live is not None

    def lost(self, round_id: str, reasons: Mapping[str, str], *, batch: Batch, now: Instant) -> None:
        """These participants will not send; the round may end early of it."""
        if live := self.rounds.get(round_id):
            self._apply(live, ParticipantsLost(reasons=reasons), batch, now)
            return
        for live in list(self.rounds.values()):
            carried = live.round.spec.carried
            theirs = {
                name: why
                for name, why in reasons.items()
                if name in carried and carried[name].round_id == round_id
            }
            if theirs:
                self._apply(live, ParticipantsLost(reasons=theirs), batch, now)

    def join(self, round_id: str, event: Joined, *, batch: Batch, now: Instant) -> RoundSpec | None:
        """The round that a task started by hand takes part in from now on; None if it is not live."""
        live = self.rounds.get(round_id)
        if live is None:
            return None
        self._apply(live, event, batch, now)
        return live.round.spec

    def launched(self, round_id: str, refused: str, *, batch: Batch, now: Instant) -> None:
        """The manager has (or refused) the round."""
        batch.done.add((round_id, "start"))
        if live := self.rounds.get(round_id):
            self._apply(live, Launched(refused=refused), batch, now)

    def closed(self, round_id: str, *, batch: Batch) -> None:
        """The manager knows that the round has ended."""
        batch.done.add((round_id, "complete"))

    def expire(self, key: tuple[str, NoticeKind], *, batch: Batch) -> None:
        """A notice went out as often as it should."""
        batch.done.add(key)

    def stop(self, series: str, *, batch: Batch, now: Instant) -> None:
        """End an experiment and its round; one that is not live has ended already."""
        self._ask(series, StopAsked(), batch, now)

    def pause(self, series: str, *, batch: Batch, now: Instant) -> None:
        """Let no further round of an experiment begin."""
        self._ask(series, PauseAsked(), batch, now)

    def resume(self, series: str, *, batch: Batch, now: Instant) -> None:
        """Let a paused experiment go on."""
        self._ask(series, ResumeAsked(), batch, now)

    def tick(self, *, batch: Batch, now: Instant) -> None:
        """Let every round see the time."""
        for live in list(self.rounds.values()):
            due = live.round.due_mono_s
            if due is not None and now.mono_s >= due:
                self._apply(live, Tick(), batch, now)

    def aggregation(
        self, round_id: str, event: Aggregated | AggregationFailed, *, batch: Batch, now: Instant
    ) -> None:
        """An attempt to aggregate a round ended."""
        if live := self.rounds.get(round_id):
            self._apply(live, event, batch, now)

    # -------------------------------------------------------------------------------------------------------

    def _ask(self, series: str, event: ExperimentEvent, batch: Batch, now: Instant) -> None:
        if record := self.experiments.get(series):
            self._advance(record, event, batch, now)

    def _apply(self, live: LiveRound, event: Event, batch: Batch, now: Instant) -> Accept | Repeat | None:
        """Move one round; raise what its sender must hear. Only changes that matter are written."""
        reply: Accept | Repeat | None = None
        refusal: CallerError | None = None
        before = weight(live.round)
        for command in live.round.handle(event, now.mono_s):
            match command:
                case Accept() | Repeat():
                    reply = command
                case Refuse(error=refusal):
                    pass
                case Aggregate(participants=participants):
                    batch.aggregate[live.round.spec.round_id] = participants
                case Announce():
                    self._announce(live, batch, now)
        if weight(live.round) != before:
            batch.rounds[live.round.spec.round_id] = live
        if refusal is not None:
            raise refusal
        return reply

    def _announce(self, live: LiveRound, batch: Batch, now: Instant) -> None:
        round_ = live.round
        live.ended_wall_s = now.wall_s
        batch.done.add((round_.spec.round_id, "start"))
        batch.notices.pop((round_.spec.round_id, "start"), None)
        record = self.experiments.get(round_.spec.series)
        if round_.state is RoundState.COMPLETED and round_.version is not None:
            _note(batch, next_notice(round_, now.wall_s))
        if record is not None:
            began = Instant(record.created_mono_s, record.created_wall_s)
            self._advance(record, outcome(round_, now.elapsed_s(began)), batch, now)
        after = self.experiments.get(round_.spec.series)
        experiments = [one.experiment for one in (record, after) if one is not None]
        _note(batch, complete_notice(round_, experiments, now.wall_s))

    def _advance(self, record: ExperimentRecord, event: ExperimentEvent, batch: Batch, now: Instant) -> None:
        experiment, commands = record.experiment.handle(event)
        if experiment == record.experiment:
            return
        spec = experiment.spec
        self._keep(experiment, record.digest, batch, now, before=record)
        for command in commands:
            match command:
                case OpenRound(spec=following):
                    # Where everybody is still at work, nobody is to be asked.
                    idle = bool(following.participants) or following.drawn
                    self._open_round(following, batch, now, launched=not idle)
                    if idle:
                        _note(batch, start_notice(spec, following, now.wall_s))
                case StopRound(round_id=round_id):
                    if live := self.rounds.get(round_id):
                        self._apply(live, Stopped(reason="stopped"), batch, now)

    def _keep(
        self,
        experiment: Experiment,
        digest: str,
        batch: Batch,
        now: Instant,
        *,
        before: ExperimentRecord | None = None,
    ) -> None:
        record = ExperimentRecord(
            experiment=experiment,
            digest=digest,
            created_wall_s=before.created_wall_s if before else now.wall_s,
            created_mono_s=before.created_mono_s if before else now.mono_s,
            ended_wall_s=now.wall_s if experiment.over else None,
        )
        self.experiments[experiment.spec.series] = record
        batch.experiments[experiment.spec.series] = record

    def _open_round(self, spec: RoundSpec, batch: Batch, now: Instant, *, launched: bool) -> None:
        if spec.round_id in self.rounds:
            raise Bug(f"round {spec.round_id!r} is opened twice: {self.rounds[spec.round_id].round.history}")
        live = LiveRound(
            round=Round(spec, launched=launched, now_mono_s=now.mono_s),
            started_wall_s=now.wall_s,
            config_hash=self.experiments[spec.series].digest,
        )
        self.rounds[spec.round_id] = live
        batch.rounds[spec.round_id] = live


def _promised(spec: ExperimentSpec, round_id: str, number: int) -> bool:
    return 1 < number <= spec.rounds and generated_id(spec.experiment_id, number) == round_id


def _note(batch: Batch, notice: Notice) -> None:
    batch.notices[notice.key] = notice
    batch.done.discard(notice.key)
