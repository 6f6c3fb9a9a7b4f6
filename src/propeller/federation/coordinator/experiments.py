"""Registering, joining and stopping: what people and the manager ask of the coordinator. Knows no routes."""

import asyncio
from dataclasses import replace
from random import Random

from propeller import limits
from propeller.core.ids import check_id, new_id
from propeller.errors import BadInput, Conflict, NotFound
from propeller.federation.coordinator.engine import Engine
from propeller.federation.coordinator.intake import Decide
from propeller.federation.coordinator.peers import Peers
from propeller.fl.experiment import ExperimentSpec, plan
from propeller.fl.model_ref import ModelRef, parse_model_ref
from propeller.fl.round import RoundSpec
from propeller.fl.round_events import Joined
from propeller.fl.store import CoordinatorStore, ExperimentRecord
from propeller.fl.strategies.base import too_few
from propeller.fl.strategies.registry import DEFAULT, strategy, told
from propeller.wire import codec
from propeller.wire.experiments import ExperimentBody, JoinBody

MANUAL = "manual-"
"""Experiments of rounds that a task started by hand opened are named after the round."""


class Experiments:
    """Experiments and rounds as they are asked for. Every method returns once its effect is on disk."""

    def __init__(
        self, *, engine: Engine, store: CoordinatorStore, peers: Peers, decide: Decide, random: Random
    ) -> None:
        self._engine = engine
        self._store = store
        self._peers = peers
        self._decide = decide
        self._random = random
        # Looking an id up and taking it must not interleave with another registration.
        self._registering = asyncio.Lock()

    async def register(self, body: ExperimentBody) -> tuple[ExperimentSpec, bool]:
        """Begin an experiment. False if an equal request did so before.

        Raises `BadInput` naming what is wrong (`missing_model` if the registry lacks the version), `Conflict`
        `round_id_taken` if the round id is that of another request.
        """
        spec = self._planned(body)
        async with self._registering:
            known = await self._store.experiment(spec.series)
            if known is not None and known.digest == body.digest:
                return known.experiment.spec, False
            return await self._open(spec, body.digest)

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
        found = await self.find(experiment_id)
        series = found.experiment.spec.series
        await self._decide(lambda batch, now: self._engine.stop(series, batch=batch, now=now))
        return await self._store.experiment(series) or found

    async def find(self, experiment_id: str) -> ExperimentRecord:
        """The newest experiment of this id; raises `NotFound` `unknown_experiment`."""
        found = await self._store.latest_experiment(check_id(experiment_id, "experiment_id"))
        if found is None:
            raise NotFound(f"there is no experiment {experiment_id!r}", code="unknown_experiment")
        return found

    def _planned(self, body: ExperimentBody) -> ExperimentSpec:
        chosen = body.chosen
        algorithm = strategy(chosen.name or DEFAULT)
        settings = algorithm.settings(chosen.options or {})
        _check_size(body.hyperparams, "hyperparams")
        _check_size(chosen.options, "the strategy's options")
        planned = plan(
            experiment_id=body.experiment_id or new_id(self._random),
            round_id=body.round_id or "",
            participants=body.participants or [],
            model=parse_model_ref(body.model_ref or ""),
            k_of_n=body.k_of_n or 0,
            min_updates=body.min_updates,
            timeout_s=body.timeout_s or 0.0,
            rounds=1 if body.rounds is None else body.rounds,
            image=body.task_wasm_image or "",
            hyperparams=told(algorithm, chosen.options or {}, body.hyperparams),
            strategy=algorithm.name,
            options=chosen.options,
            seed=body.seed or 0,
        )
        least = algorithm.least_updates(settings)
        if body.min_updates is None:
            planned = replace(planned, min_updates=max(planned.min_updates, min(least, planned.k)))
        if planned.min_updates < least:
            raise too_few(algorithm.name, planned.min_updates, least)
        return planned

    async def _open(self, spec: ExperimentSpec, digest: str) -> tuple[ExperimentSpec, bool]:
        ids = [spec.round_id(number) for number in range(1, spec.rounds + 1)]
        if taken := await self._store.taken(ids):
            raise Conflict(
                f"round {taken!r} was registered before, with another request; choose another id",
                code="round_id_taken",
            )
        base_hash = (await self._peers.base(spec.model)).sha256
        opened = await self._decide(
            lambda batch, now: self._engine.open(
                spec, digest=digest, base_hash=base_hash, batch=batch, now=now
            )
        )
        return spec, opened


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
