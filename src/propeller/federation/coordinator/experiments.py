"""Registering, joining and stopping: what people and the manager ask of the coordinator. Knows no routes."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from random import Random

import msgspec

from propeller import limits
from propeller.core.ids import check_id, new_id
from propeller.errors import BadInput, Conflict, NotFound, Unsupported
from propeller.federation.coordinator.engine import Engine
from propeller.federation.coordinator.intake import Decide
from propeller.federation.coordinator.peers import Peers
from propeller.fl.model_ref import ModelRef, is_artifact, parse_model_ref
from propeller.fl.plan import Evaluation, ExperimentSpec, Stopping, plan
from propeller.fl.round_events import Joined
from propeller.fl.round_spec import RoundSpec
from propeller.fl.selection import Selection
from propeller.fl.strategies.base import too_few
from propeller.fl.strategies.fedbuff import FedBuff
from propeller.fl.strategies.registry import DEFAULT, strategy, told
from propeller.fl.update_format import parse_format
from propeller.stores.coordinator import CoordinatorStore, ExperimentRecord
from propeller.wire import codec
from propeller.wire.experiments import EvaluationBody, ExperimentBody, LateBody
from propeller.wire.joining import DrawnBody, JoinBody, LostBody
from propeller.wire.models import ModelPulled, PullModel

MANUAL = "manual-"
"""Experiments of rounds that a task started by hand opened are named after the round."""


class Experiments:
    """Experiments and rounds as they are asked for. Every method returns once its effect is on disk."""

    def __init__(
        self,
        *,
        engine: Engine,
        store: CoordinatorStore,
        peers: Peers,
        decide: Decide,
        random: Random,
        show: Callable[[ModelRef], None],
    ) -> None:
        self._engine = engine
        self._show = show
        self._store = store
        self._peers = peers
        self._decide = decide
        self._random = random
        # Looking an id up and taking it must not interleave with another registration.
        self._registering = asyncio.Lock()

    async def register(self, body: ExperimentBody) -> tuple[ExperimentSpec, bool]:
        """Begin an experiment. False if an equal request did so before.

        A `model_ref` in an OCI registry is pulled first; while that cannot be reached nothing is registered,
        and `PeerUnavailable` says so. Raises `BadInput` naming what is wrong (`missing_model` if the registry
        lacks the version), `Conflict` `round_id_taken` if the round id is that of another request.
        """
        spec = self._planned(body)
        if is_artifact(body.model_ref or "") and await self._known(spec, body) is None:
            pulled = await self.pulled(PullModel(reference=body.model_ref or ""))
            spec = replace(spec, model=parse_model_ref(pulled.model_ref), source=pulled.reference)
        elif body.model_source and not await self._peers.came_from(spec.model, body.model_source):
            raise BadInput(
                f"model_source: {spec.model.uri} was not pulled from {body.model_source[:200]!r}",
                code="bad_model_source",
            )
        async with self._registering:
            if known := await self._known(spec, body):
                return known.experiment.spec, False
            return await self._open(spec, body.digest)

    async def pulled(self, order: PullModel) -> ModelPulled:
        """Have an artefact made a version of a model. Raises `BadInput`, `PeerUnavailable`, `PeerRefused`."""
        return await self._peers.pulled(order)

    async def _known(self, spec: ExperimentSpec, body: ExperimentBody) -> ExperimentRecord | None:
        """The experiment that an equal request made before."""
        known = await self._store.experiment(spec.series)
        return known if known is not None and known.digest == body.digest else None

    async def join(self, round_id: str, body: JoinBody) -> RoundSpec:
        """Let a task started by hand take part in a round, which is opened for it if there is none.

        Raises `Conflict` (`round_closed`, `wrong_base`), `Denied` `not_a_participant`, `BadInput`.
        """
        participant = check_id(body.proplet_id or "", "proplet_id")
        if not body.model_uri:
            raise BadInput(
                "model_uri is missing; a task that trains by hand says MODEL_URI", code="missing_model_uri"
            )
        base = parse_model_ref(body.model_uri, "model_uri")
        async with self._registering:
            event = Joined(participant=participant, base=base)
            joined = await self._decide(
                lambda batch, now: self._engine.join(round_id, event, batch=batch, now=now)
            )
            if joined is not None:
                return joined
            if record := await self._store.round(round_id):
                raise Conflict(
                    f"round {round_id!r} is {record.state}; choose another ROUND_ID", code="round_closed"
                )
            spec, _ = await self._open(_manual(round_id, participant, base, body), "")
        return spec.round_spec(1, spec.model, "")

    async def stop(self, experiment_id: str) -> ExperimentRecord:
        """End the newest experiment of this id, and its round. One that has ended stays as it is."""
        return await self._asked(experiment_id, self._engine.stop)

    async def pause(self, experiment_id: str) -> ExperimentRecord:
        """Let no further round begin; the one under way goes on. Raises `Conflict` after the end."""
        return _live(await self._asked(experiment_id, self._engine.pause))

    async def resume(self, experiment_id: str) -> ExperimentRecord:
        """Let a paused experiment go on; one that runs is left alone. Raises `Conflict` after the end."""
        return _live(await self._asked(experiment_id, self._engine.resume))

    async def drawn(self, round_id: str, body: DrawnBody) -> None:
        """The manager says who takes part in a round. Raises `Conflict` if others do or it is not live."""
        who = tuple(sorted(check_id(one, "participant") for one in body.participants))
        if not who or len(set(who)) != len(who):
            raise BadInput("participants must be some, each once", code="bad_participants")
        live = await self._decide(
            lambda batch, now: self._engine.drawn(round_id, who, body.k_of_n, batch=batch, now=now)
        )
        if not live:
            raise Conflict(f"round {round_id[:80]!r} is not under way", code="round_closed")

    async def lost(self, round_id: str, body: LostBody) -> None:
        """The manager says that these will not send; without a live round that changes nothing."""
        reasons = {name: why[: limits.REASON_CHARS_MAX] for name, why in body.participants.items()}
        await self._decide(lambda batch, now: self._engine.lost(round_id, reasons, batch=batch, now=now))

    async def _asked(self, experiment_id: str, ask: Callable[..., None]) -> ExperimentRecord:
        found = await self.find(experiment_id)
        series = found.experiment.spec.series
        await self._decide(lambda batch, now: ask(series, batch=batch, now=now))
        return await self._store.experiment(series) or found

    async def find(self, experiment_id: str) -> ExperimentRecord:
        """The newest experiment of this id; raises `NotFound` `unknown_experiment`."""
        found = await self._store.latest_experiment(check_id(experiment_id, "experiment_id"))
        if found is None:
            raise NotFound(f"there is no experiment {experiment_id!r}", code="unknown_experiment")
        return found

    def _planned(self, body: ExperimentBody) -> ExperimentSpec:
        _refuse_reserved(body)
        chosen = body.chosen
        algorithm = strategy(chosen.name or DEFAULT)
        settings = algorithm.settings(chosen.options or {})
        parse_format(body.update_format or "")
        _check_size(body.hyperparams, "hyperparams")
        _check_size(chosen.options, "the strategy's options")
        planned = plan(
            experiment_id=body.experiment_id or new_id(self._random),
            round_id=body.round_id or "",
            participants=body.participants or [],
            # What an artefact becomes is known once it is pulled, which is not begun for a bad request.
            model=ModelRef(version=0)
            if is_artifact(body.model_ref or "")
            else parse_model_ref(body.model_ref or ""),
            k_of_n=body.k_of_n or 0,
            min_updates=body.min_updates,
            timeout_s=body.timeout_s or 0.0,
            rounds=1 if body.rounds is None else body.rounds,
            image=body.task_wasm_image or "",
            hyperparams=told(algorithm, chosen.options or {}, body.hyperparams),
            strategy=algorithm.name,
            options=chosen.options,
            seed=body.seed or 0,
            mode="evaluate" if body.mode == "infer" else "train",
            selection=_selection(body),
            evaluation=_evaluation(body),
            stopping=Stopping(**msgspec.structs.asdict(body.stop)) if body.stop else None,
            failures_max=body.round_failures_max,
            update_format=body.update_format or "",
            files=bool(body.files) or algorithm.clients_remember,
            staleness_max=_staleness(body, algorithm.name),
            data_part=body.data_part or "",
        )
        planned = replace(planned, source=body.model_source or "")
        return _enough(planned, body, algorithm.name, algorithm.least_updates(settings))

    async def _open(self, spec: ExperimentSpec, digest: str) -> tuple[ExperimentSpec, bool]:
        if taken := await self._store.taken(spec.round_ids()):
            raise Conflict(
                f"round {taken!r} was registered before, with another request; choose another id",
                code="round_id_taken",
            )
        await self._peers.hold(spec.model)
        base_hash = (await self._peers.base(spec.model)).sha256
        opened = await self._decide(
            lambda batch, now: self._engine.open(
                spec, digest=digest, base_hash=base_hash, batch=batch, now=now
            )
        )
        self._show(spec.model)
        return spec, opened


def _refuse_reserved(body: ExperimentBody) -> None:
    if body.privacy:
        raise Unsupported(
            "privacy options are not offered by this release; leave out `privacy`", code="not_offered"
        )


def _selection(body: ExperimentBody) -> Selection | None:
    """The selector, with the body's `k_of_n` if it has none of its own."""
    if body.selector is None:
        return None
    asked = msgspec.structs.asdict(body.selector)
    asked["k_of_n"] = asked["k_of_n"] or body.k_of_n or 0
    if body.participants and asked["labels"]:
        raise BadInput("selector.labels and participants both say who may take part; give one of them")
    return Selection(**asked)


def _evaluation(body: ExperimentBody) -> Evaluation | None:
    asked = body.evaluation
    if isinstance(asked, EvaluationBody):
        return Evaluation(every=asked.every, timeout_s=asked.timeout_s)
    return Evaluation() if asked else None


def _staleness(body: ExperimentBody, strategy_name: str) -> int | None:
    """How late updates may be. FedBuff without late updates would be no FedBuff."""
    late = body.late or (LateBody() if strategy_name == FedBuff.name else LateBody(policy="drop"))
    if late.policy == "drop":
        if strategy_name == FedBuff.name:
            raise BadInput("strategy fedbuff counts late updates; leave late.policy out", code="bad_late")
        return None
    if body.mode == "infer":
        raise BadInput("an experiment of mode infer has one round; leave out late", code="bad_late")
    return late.staleness_max


def _enough(planned: ExperimentSpec, body: ExperimentBody, strategy_name: str, least: int) -> ExperimentSpec:
    """The plan with as many updates as its strategy needs to keep its promise. Raises `BadInput`."""
    if planned.mode == "evaluate":
        return planned
    if planned.selection is not None and body.min_updates is None:
        return planned if least == 1 else replace(planned, min_updates=least)
    if body.min_updates is None:
        planned = replace(planned, min_updates=max(planned.min_updates, min(least, planned.k)))
    if planned.min_updates < least:
        raise too_few(strategy_name, planned.min_updates, least)
    return planned


def _live(record: ExperimentRecord) -> ExperimentRecord:
    if record.experiment.over:
        experiment = record.experiment
        raise Conflict(
            f"experiment {experiment.spec.experiment_id!r} is {experiment.state}", code="experiment_over"
        )
    return record


def _manual(round_id: str, participant: str, base: ModelRef, body: JoinBody) -> ExperimentSpec:
    check_id(round_id, "round_id")
    _check_size(body.hyperparams, "hyperparams")
    named = MANUAL + round_id
    return plan(
        experiment_id=named if len(named) <= limits.ID_CHARS_MAX else round_id,
        round_id=round_id,
        participants=[participant],
        model=base,
        k_of_n=1,
        timeout_s=body.timeout_s or limits.ROUND_MANUAL_TIMEOUT_S,
        image=body.image or "",
        hyperparams=body.hyperparams,
        strategy=DEFAULT,
        manual=True,
    )


def _check_size(value: object, what: str) -> None:
    size = len(codec.encode(value))
    if size > limits.HYPERPARAMS_BYTES_MAX:
        raise BadInput(
            f"{what} are {size} bytes of JSON; the limit is {limits.HYPERPARAMS_BYTES_MAX}", code="too_large"
        )
