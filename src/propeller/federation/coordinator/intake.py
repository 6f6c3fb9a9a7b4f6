"""Where updates come in, whatever path they took: one way to read, admit and store them.

Knows no topics and no routes. What a sender must hear is raised; `Answer` is the good news.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal, ParamSpec, Protocol, TypeVar

from propeller import limits
from propeller.errors import BadInput, Bug, CallerError, Conflict, Denied, NotFound, PeerUnavailable
from propeller.federation.coordinator import late
from propeller.federation.coordinator.arriving import Arriving
from propeller.federation.coordinator.engine import Engine
from propeller.federation.coordinator.live import Batch, Place
from propeller.federation.coordinator.peers import Peers
from propeller.federation.coordinator.reading import (
    Form,
    Reading,
    Said,
    Sender,
    admit_file,
    admit_update,
    draft_file,
    named,
    read_update,
)
from propeller.federation.coordinator.settings import CoordinatorSettings
from propeller.federation.offload import Offload, by_size
from propeller.fl import update as updates
from propeller.fl.formats import unpack
from propeller.fl.model_ref import ModelRef
from propeller.fl.round import Round
from propeller.fl.round_events import Refusal
from propeller.fl.strategies.registry import strategy
from propeller.fl.tensors import Tensors
from propeller.fl.token import verify_token
from propeller.fl.update import Draft, Terms, Update
from propeller.fl.update_format import JSON
from propeller.ports import BlobFiles, Instant
from propeller.stores.coordinator import Content, CoordinatorStore, UpdateRecord

P = ParamSpec("P")
T = TypeVar("T")
Answer = Literal["accepted", "duplicate"]


class Decide(Protocol):
    """Has a decision made and committed; returns its result, raises what it raised."""

    async def __call__(self, decision: Callable[[Batch, Instant], T], /) -> T:
        """Wait until what was decided is on disk."""
        ...


class Intake:
    """Takes updates in."""

    def __init__(
        self,
        *,
        settings: CoordinatorSettings,
        engine: Engine,
        store: CoordinatorStore,
        blobs: BlobFiles,
        peers: Peers,
        offload: Offload,
        decide: Decide,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._store = store
        self._blobs = blobs
        self._peers = peers
        self._offload = offload
        self._decide = decide
        self._arriving = Arriving(blobs, store)

    async def take(self, raw: bytes, form: Form, sender: Sender) -> Answer:
        """The update in `raw` counts once this returns. Raises `CallerError` with the reason, `PeerError`."""
        reading = await by_size(self._offload, len(raw), read_update, raw, form, sender)
        if reading.file is not None:
            return await self.take_file(_one(reading.file[0]), reading.file[1])
        try:
            draft = _drafted(reading)
            self._check_token(draft, reading.token, sender)
            prepared = await self._prepare(draft)
        except CallerError as error:
            self._refused(reading.round_id, reading.participant, error)
            raise
        if prepared is None:
            return await self._late_or_never(draft, len(raw), reading.trainer)
        update, content = prepared
        async with self._stored(update, content) as stored:
            counted = await self._decide(
                lambda batch, now: self._engine.submit(
                    update, size=len(raw), content=stored, trainer=reading.trainer, batch=batch, now=now
                )
            )
        if counted is None:
            return await self._late_or_never(draft, len(raw), reading.trainer)
        return "accepted" if counted else "duplicate"

    async def _late_or_never(self, draft: Draft, size: int, trainer: str) -> Answer:
        """An update for a round that is not live: it may count in a later one, or be a repetition."""
        place = self._engine.place(draft.round_id, draft.participant)
        if place is None:
            return await self._after_the_end(draft)
        chosen = self._strategy_of(place.round_id)
        try:
            update, content = await late.prepared(draft, place, chosen, self._peers, self._offload)
        except CallerError as error:
            self._refused(place.round_id, draft.participant, error)
            raise
        async with self._stored(update, content, place.round_id) as stored:
            counted = await self._decide(
                lambda batch, now: self._engine.submit(
                    update, size=size, content=stored, trainer=trainer, place=place, batch=batch, now=now
                )
            )
        if counted is None:
            raise _again(place.round_id)
        return "accepted" if counted else "duplicate"

    def _strategy_of(self, round_id: str) -> str:
        series = self._engine.rounds[round_id].round.spec.series
        return self._engine.experiments[series].experiment.spec.strategy

    def _refused(self, round_id: str, participant: str, error: CallerError) -> None:
        message = error.message[: limits.REASON_CHARS_MAX]
        self._engine.refused(round_id, Refusal(participant=participant, code=error.reason, message=message))

    async def welcome(self, said: Said) -> int:
        """How much an announced update may weigh (bytes). Raises what `take` would before reading it."""
        try:
            self._check_token(said, "", said.sender)
            live = self._engine.rounds.get(said.round_id)
            if live is not None and not live.round.too_late(said.participant):
                updates.check_participant(said, self._terms(live.round))
                ref, series = live.round.spec.base, said.round_id
            elif place := self._engine.place(said.round_id, said.participant):
                ref, series = place.origin.base, place.round_id
            else:
                return await self._repeated(said)
        except CallerError as error:
            self._refused(said.round_id, said.participant, error)
            raise
        if said.form.name == JSON:
            return limits.UPDATE_BYTES_MAX
        like = strategy(self._strategy_of(series)).expects((await self._peers.base(ref)).tensors)
        return _most(_room(like))

    async def _repeated(self, said: Said) -> int:
        """The size of an update that counts already, of a round that has ended; raises what it is told."""
        if known := await self._counted(said):
            return max(known.bytes, limits.UPDATE_BYTES_MAX)
        await self._after_the_end(said)
        raise Bug(f"{named(said)} counts, and does not")

    async def _counted(self, said: Draft | Update | Said) -> UpdateRecord | None:
        """The sender's update of that round, if one counts: there, or late in a later one."""
        for known in await self._store.updates(said.round_id):
            if known.accepted.participant == said.participant:
                return known
        return await self._store.late_update(said.round_id, said.participant)

    async def take_file(self, pieces: AsyncIterator[bytes], said: Said) -> Answer:
        """The same of an update that is a safetensors file: it goes to disk as it comes, and is read there.

        Who may not send, or sends for a round that is not live, is told before anything is read.
        """
        try:
            self._check_token(said, "", said.sender)
            live = self._engine.rounds.get(said.round_id)
            if live is None or live.round.too_late(said.participant):
                return await self._filed_late(pieces, said)
            updates.check_participant(said, self._terms(live.round))
            if live.round.spec.mode == "evaluate":
                raise BadInput(
                    f"round {said.round_id!r} evaluates: send JSON with `metrics`, and no model",
                    code="not_an_evaluation",
                )
            return await self._filed(pieces, said, live.round)
        except CallerError as error:
            self._refused(said.round_id, said.participant, error)
            raise

    async def _filed(self, pieces: AsyncIterator[bytes], said: Said, round_: Round) -> Answer:
        base = (await self._peers.base(round_.spec.base)).tensors
        chosen = self._engine.experiments[round_.spec.series].experiment.spec.strategy
        size, digest = await self._written(pieces, _room(strategy(chosen).expects(base)))
        digest = await self._unpacked(digest, said, round_.spec.base, chosen)
        with self._arriving.held(digest):
            try:
                file = await self._blobs.mapped(digest)
                update = await self._offload(admit_file, file, said, self._terms(round_), base, chosen)
                counted = await self._decide(
                    lambda batch, now: self._engine.submit(
                        update,
                        size=size,
                        content=Content(blob=digest),
                        trainer=said.trainer,
                        batch=batch,
                        now=now,
                    )
                )
                if counted is None:
                    if self._engine.place(said.round_id, said.participant):
                        raise _again(said.round_id)
                    return await self._after_the_end(update)
            except CallerError:
                await self._arriving.drop(digest)
                raise
        return "accepted" if counted else "duplicate"

    async def _filed_late(self, pieces: AsyncIterator[bytes], said: Said) -> Answer:
        """A file for a round that is not live: read only if it may count later, or be a repetition."""
        if place := self._engine.place(said.round_id, said.participant):
            return await self._filed_in_place(pieces, said, place)
        known = await self._counted(said)
        if known is None:
            return await self._after_the_end(said)
        record = await self._store.round(said.round_id)
        series = await self._store.experiment(record.spec.series) if record is not None else None
        if record is None or series is None:
            return await self._after_the_end(said)
        _, digest = await self._written(pieces, known.bytes)
        digest = await self._unpacked(digest, said, record.spec.base, series.experiment.spec.strategy)
        with self._arriving.held(digest):
            try:
                return await self._after_the_end(
                    await self._offload(draft_file, await self._blobs.mapped(digest), said)
                )
            finally:
                await self._arriving.drop(digest)

    async def _filed_in_place(self, pieces: AsyncIterator[bytes], said: Said, place: Place) -> Answer:
        chosen = self._strategy_of(place.round_id)
        like = strategy(chosen).expects((await self._peers.base(place.origin.base)).tensors)
        size, digest = await self._written(pieces, _room(like))
        digest = await self._unpacked(digest, said, place.origin.base, chosen)
        with self._arriving.held(digest):
            try:
                draft = await self._offload(draft_file, await self._blobs.mapped(digest), said)
                return await self._late_or_never(draft, size, said.trainer)
            finally:
                # What counts is the update moved onto another base, which is stored by itself.
                await self._arriving.drop(digest)

    async def _written(self, pieces: AsyncIterator[bytes], wanted: int) -> tuple[int, str]:
        """Size and digest, held, of a file that came whole; its data should weigh `wanted` bytes."""
        async with self._blobs.open_writer(_most(wanted)) as writer:
            async for piece in pieces:
                await writer.write(piece)
            return writer.size, await self._arriving.keep(writer)

    async def _unpacked(self, digest: str, said: Said, ref: ModelRef, chosen: str) -> str:
        """The digest, held, of the whole model in a file of any format; a packed file is not kept."""
        if not said.form.delta:
            return digest
        with self._arriving.held(digest):
            try:
                base = strategy(chosen).expects(await self._peers.values(ref))
                packed, what = await self._blobs.mapped(digest), named(said)
                made = await self._offload(unpack, packed, said.form, base, what)
                async with self._blobs.open_writer(made.size_bytes) as writer:
                    while piece := await self._offload(next, made.pieces, b""):
                        await writer.write(piece)
                    # Before the other goes: a difference from a base of zeros is the very file of the model.
                    return await self._arriving.keep(writer)
            finally:
                await self._arriving.drop(digest)

    def _check_token(self, draft: Draft | Said, in_body: str, sender: Sender) -> None:
        token = sender.token or in_body
        if not token and (sender.proven or not self._settings.require_update_token):
            return
        secret = self._settings.token_secret
        if not secret or not verify_token(secret, draft.round_id, draft.participant, token):
            raise Denied(
                f"the update of {draft.participant!r} for round {draft.round_id!r} "
                + ("carries a wrong update token" if token else "carries no update token")
                + "; the task's start message has the right one",
                code="bad_token",
            )

    async def _prepare(self, draft: Draft) -> tuple[Update, bytes] | None:
        live = self._engine.rounds.get(draft.round_id)
        if live is None or live.round.too_late(draft.participant):
            return None
        spec, terms = live.round.spec, self._terms(live.round)
        updates.check_participant(draft, terms)
        if spec.mode == "evaluate":
            return updates.admit_evaluation(draft, terms), b""
        updates.check_trained(draft)
        base = (await self._peers.base(spec.base)).tensors
        chosen = self._engine.experiments[spec.series].experiment.spec.strategy
        return await by_size(self._offload, draft.tensors.bytes, admit_update, draft, terms, base, chosen)

    def _terms(self, round_: Round) -> Terms:
        spec = round_.spec
        return Terms(
            round_id=spec.round_id,
            participants=frozenset(round_.participants),
            base=spec.base,
            base_hash=spec.base_hash,
        )

    @asynccontextmanager
    async def _stored(self, update: Update, content: bytes, round_id: str = "") -> AsyncIterator[Content]:
        """Where the tensors are kept of an update that is to count in `round_id`, or in its own round."""
        live = self._engine.rounds.get(round_id or update.round_id)
        hopeless = live is None or live.round.over or update.participant in live.round.accepted
        if hopeless or len(content) <= limits.BLOB_INLINE_BYTES_MAX:
            yield Content(inline=content)
            return
        digest = await self._arriving.put(content)
        with self._arriving.held(digest):
            yield Content(blob=digest)

    async def _after_the_end(self, draft: Draft | Update | Said) -> Answer:
        """The answer for a round that is not live: unknown, or closed for all but a repetition."""
        where = f"round {draft.round_id!r}"
        record = await self._store.round(draft.round_id)
        if record is None:
            raise NotFound(f"there is no {where}; register it first", code="unknown_round")
        if draft.participant not in record.participants:
            raise Denied(f"{draft.participant!r} is not a participant of {where}", code="not_a_participant")
        if known := await self._counted(draft):
            if not isinstance(draft, Said) and known.accepted.content == draft.content:
                return "duplicate"
            raise Conflict(
                f"{draft.participant!r} already sent another update for {where}; the first one counts",
                code="already_submitted",
            )
        raise Conflict(f"{where} is {record.state}; it takes no more updates", code="round_closed")


def _drafted(reading: Reading) -> Draft:
    if reading.draft is None:
        raise reading.error or BadInput("the update is not readable")
    return reading.draft


def _again(round_id: str) -> PeerUnavailable:
    return PeerUnavailable(f"round {round_id!r} has just closed; the next one may count it", code="later")


def _room(like: Tensors) -> int:
    """What the data of an update may weigh in any format: an index and a value for every element, at most."""
    return max(like.bytes, 12 * like.elements) + 4 * len(like)


def _most(wanted: int) -> int:
    """What a file may weigh whose data should weigh `wanted`."""
    return min(wanted + limits.TENSOR_HEADER_BYTES_MAX, limits.MODEL_FILE_BYTES_MAX)


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content
