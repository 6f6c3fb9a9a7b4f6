"""The coordinator's routes: bodies in, decisions asked for, views out. It decides and stores nothing."""

from typing import Annotated, Any

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from propeller import limits
from propeller.core.ids import check_id
from propeller.errors import BadInput, NotFound
from propeller.federation.coordinator.live import round_record
from propeller.federation.coordinator.reading import Said, Sender, trainer_of
from propeller.federation.coordinator.shell import Coordinator
from propeller.federation.coordinator.views import (
    experiment_detail,
    experiment_view,
    metric_rows,
    next_view,
    participant_rows,
    round_detail,
    round_view,
    status_view,
    task_view,
)
from propeller.fl.update_format import JSON, WHOLE, Format, parse_format
from propeller.http.answers import AnyRequest
from propeller.http.large import file_answer
from propeller.http.server import json_body, json_bytes, media_type
from propeller.stores.coordinator import RoundRecord
from propeller.wire import codec
from propeller.wire.experiments import (
    ExperimentBody,
    ExperimentConfigured,
    ExperimentDetail,
    ExperimentPage,
    ExperimentView,
    MetricRows,
    NextRound,
    ParticipantRows,
    RoundDetail,
    RoundPage,
    RoundStatusBoth,
    RoundTaskAnswer,
    UpdateAnswer,
)
from propeller.wire.joining import DrawnBody, JoinAnswer, JoinBody, LostBody
from propeller.wire.models import SAFETENSORS, ModelPulled, PullModel
from propeller.wire.retention import ModelsInUse, VersionName

TOKEN_HEADER = "x-update-token"  # noqa: S105 - the name of a header
_DIGITS_MAX = 20
CBOR_TYPES = frozenset({"application/cbor", "application/cbor-seq"})

Offset = Annotated[int, QueryParameter(ge=0, le=limits.LIST_OFFSET_MAX, description="How many to skip")]
Limit = Annotated[int, QueryParameter(ge=1, le=limits.LIST_PAGE_MAX, description="How many to show")]


def routes(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    """All routes of the role but health and metrics."""
    return [
        *_experiments(coordinator),
        *_numbers(coordinator),
        *_updates(coordinator),
        *_rounds(coordinator),
        *_joining(coordinator),
    ]


def _experiments(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    @post("/experiments", summary="Register an experiment, or a single round")
    async def register(request: AnyRequest) -> Response[ExperimentConfigured]:
        """201; 200 for an equal request again; 409 for another one with the same round id."""
        body = await json_body(request, ExperimentBody, "the experiment")
        spec, new = await coordinator.experiments.register(body)
        answer = ExperimentConfigured(
            experiment_id=spec.experiment_id, round_id=spec.series, model_version=spec.model.version
        )
        return Response(answer, status_code=201 if new else 200)

    @get("/experiments", summary="Experiments, newest first")
    async def list_experiments(offset: Offset = 0, limit: Limit = limits.LIST_PAGE_DEFAULT) -> ExperimentPage:
        total, found = await coordinator.store.experiments(offset=offset, limit=limit)
        shown = [experiment_view(one) for one in found]
        return ExperimentPage(offset=offset, limit=limit, total=total, experiments=shown)

    @get("/experiments/{experiment_id:str}", summary="One experiment with its latest rounds")
    async def show_experiment(experiment_id: FromPath[str]) -> ExperimentDetail:
        found = await coordinator.experiments.find(experiment_id)
        _, rounds = await coordinator.store.rounds(
            offset=0, limit=limits.LIST_PAGE_MAX, experiment_id=experiment_id
        )
        return experiment_detail(
            found, [_now(coordinator, one) for one in rounds], coordinator.clock.now().wall_s
        )

    @post("/experiments/{experiment_id:str}/stop", status_code=200, summary="End an experiment")
    async def stop(experiment_id: FromPath[str]) -> ExperimentView:
        return experiment_view(await coordinator.experiments.stop(experiment_id))

    @post("/experiments/{experiment_id:str}/pause", status_code=200, summary="Begin no further round")
    async def pause(experiment_id: FromPath[str]) -> ExperimentView:
        return experiment_view(await coordinator.experiments.pause(experiment_id))

    @post("/experiments/{experiment_id:str}/resume", status_code=200, summary="Go on after a pause")
    async def resume(experiment_id: FromPath[str]) -> ExperimentView:
        return experiment_view(await coordinator.experiments.resume(experiment_id))

    @post("/models/import", summary="Make an OCI registry's artefact a version of a model", status_code=200)
    async def import_model(request: AnyRequest) -> ModelPulled:
        """Once: the same artefact again is the same version."""
        return await coordinator.experiments.pulled(await json_body(request, PullModel, "the order"))

    @get("/models/in-use", summary="Model versions that experiments and rounds in progress need")
    async def models_in_use() -> ModelsInUse:
        versions, rounds = coordinator.engine.in_use()
        return ModelsInUse(
            versions=[VersionName(name=one.name, version=one.version) for one in versions], rounds=rounds
        )

    return [register, list_experiments, show_experiment, stop, pause, resume, import_model, models_in_use]


def _numbers(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    async def every_round(experiment_id: str) -> list[RoundRecord]:
        await coordinator.experiments.find(experiment_id)
        _, found = await coordinator.store.rounds(
            offset=0, limit=3 * limits.ROUNDS_MAX, experiment_id=experiment_id
        )
        return [_now(coordinator, one) for one in found]

    @get("/experiments/{experiment_id:str}/metrics", summary="An experiment's rounds in numbers")
    async def metrics(experiment_id: FromPath[str]) -> MetricRows:
        rounds = await every_round(experiment_id)
        updates = await coordinator.store.updates_of(experiment_id)
        return metric_rows(experiment_id, rounds, updates, coordinator.clock.now().wall_s)

    @get("/experiments/{experiment_id:str}/participants", summary="Who took part, and what each sent")
    async def participants(experiment_id: FromPath[str]) -> ParticipantRows:
        rounds = await every_round(experiment_id)
        return participant_rows(experiment_id, rounds, await coordinator.store.updates_of(experiment_id))

    return [metrics, participants]


def _updates(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    def sender(request: AnyRequest) -> Sender:
        return Sender(token=request.headers.get(TOKEN_HEADER, ""))

    @post(
        "/update",
        status_code=200,
        summary="A participant's update",
        request_max_body_size=limits.MODEL_FILE_BYTES_MAX,
    )
    async def update(request: AnyRequest) -> UpdateAnswer:
        """200 once the update is on disk; `duplicate` if this very update was there already.

        A body of type `application/vnd.safetensors` is the trained model itself, in the dtypes of the base,
        or, with `x-update-format`, what that format makes of it; what JSON says beside `update` is then said
        by headers: `x-round-id`, `x-proplet-id`, `x-num-samples`, `x-metrics` (JSON), `x-base-model-uri`,
        `x-base-hash`, `x-trainer-hash`, `x-update-token`.
        """
        if media_type(request) == SAFETENSORS:
            return _taken(await coordinator.intake.take_file(request.stream(), _said(request)))
        raw = await json_bytes(request, "the update")
        return _taken(await coordinator.intake.take(raw, "json", sender(request)))

    @post("/update_cbor", status_code=200, summary="The same, as CBOR")
    async def update_cbor(request: AnyRequest) -> UpdateAnswer:
        """The map that `/update` takes, as one CBOR item; nested maps work."""
        given = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if given not in CBOR_TYPES:
            raise BadInput(f"content type {given!r}: send application/cbor", code="content_type")
        return _taken(await coordinator.intake.take(await request.body(), "cbor", sender(request)))

    @get("/blobs/{digest:str}", summary="An accepted update's file, for the aggregator")
    async def blob(digest: FromPath[str], token: FromQuery[str] = "") -> Response[bytes] | Stream:
        """Only with the token that the coordinator itself made for this file."""
        return file_answer(await coordinator.blob(digest, token), SAFETENSORS)

    return [update, update_cbor, blob]


def _said(request: AnyRequest) -> Said:
    """What headers say of an update that comes as a file. Raises `BadInput`, `DecodeError`."""
    told = request.headers.get
    samples, metrics = told("x-num-samples", ""), told("x-metrics", "")
    return Said(
        round_id=check_id(told("x-round-id", ""), "x-round-id"),
        participant=check_id(told("x-proplet-id", ""), "x-proplet-id"),
        samples=int(samples) if samples.isdecimal() and len(samples) < _DIGITS_MAX else samples,
        metrics=codec.decode(dict[str, Any], metrics.encode(), what="x-metrics") if metrics else None,
        base_uri=told("x-base-model-uri", ""),
        base_hash=told("x-base-hash", ""),
        sender=Sender(token=told(TOKEN_HEADER, "")),
        form=_file_format(told("x-update-format", "")),
        trainer=trainer_of(told("x-trainer-hash", "")),
    )


def _file_format(text: str) -> Format:
    found = parse_format(text or WHOLE)
    if found.name == JSON:
        raise BadInput(f"a file of type {SAFETENSORS} is no {JSON}", code="bad_update_format")
    return found


def _rounds(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    @get("/task", summary="What a participant does in a round")
    async def task(round_id: FromQuery[str] = "", proplet_id: FromQuery[str] = "") -> RoundTaskAnswer:
        if not round_id:
            raise BadInput("round_id is missing; GET /task?round_id=…", code="missing_round_id")
        found = await _found(coordinator, round_id)
        return task_view(found, await coordinator.store.experiment(found.spec.series), proplet_id)

    @get("/rounds", summary="Rounds, newest first")
    async def list_rounds(
        offset: Offset = 0,
        limit: Limit = limits.LIST_PAGE_DEFAULT,
        experiment_id: FromQuery[str | None] = None,
    ) -> RoundPage:
        if experiment_id is not None:
            await coordinator.experiments.find(experiment_id)
        total, found = await coordinator.store.rounds(offset=offset, limit=limit, experiment_id=experiment_id)
        wall_s = coordinator.clock.now().wall_s
        shown = [round_view(_now(coordinator, one), wall_s) for one in found]
        return RoundPage(offset=offset, limit=limit, total=total, rounds=shown)

    @get("/rounds/next", summary="The newest model that a round made")
    async def next_round() -> NextRound:
        return next_view(await coordinator.store.last_completed())

    @get("/rounds/{round_id:str}", summary="One round with its updates")
    async def show_round(round_id: FromPath[str]) -> RoundDetail:
        found = await _found(coordinator, round_id)
        updates = await coordinator.store.updates(round_id)
        return round_detail(found, updates, coordinator.clock.now().wall_s)

    @get("/rounds/{round_id:str}/complete", summary="How far a round is")
    async def status(round_id: FromPath[str]) -> RoundStatusBoth:
        """200 for every known round; `completed` only once its model is stored."""
        return status_view(await _found(coordinator, round_id))

    return [task, list_rounds, next_round, show_round, status]


def _joining(coordinator: Coordinator) -> list[HTTPRouteHandler]:
    @post("/rounds/{round_id:str}/join", status_code=200, summary="A task started by hand takes part")
    async def join(request: AnyRequest, round_id: FromPath[str]) -> JoinAnswer:
        """200 if it does; the round is opened if there is none; 409 if it is closed."""
        joined = await coordinator.experiments.join(
            round_id, await json_body(request, JoinBody, "the joining")
        )
        return JoinAnswer(round_id=round_id, manual=joined.manual, model_ref=joined.base.uri)

    @post("/rounds/{round_id:str}/participants", status_code=200, summary="The manager drew the participants")
    async def drawn(request: AnyRequest, round_id: FromPath[str]) -> RoundStatusBoth:
        """200 if these take part now, also if they did before; 409 if others do."""
        body = await json_body(request, DrawnBody, "the participants")
        await coordinator.experiments.drawn(round_id, body)
        return status_view(await _found(coordinator, round_id))

    @post("/rounds/{round_id:str}/lost", status_code=200, summary="Participants that will not send")
    async def lost(request: AnyRequest, round_id: FromPath[str]) -> RoundStatusBoth:
        """The round may end early of it. A participant that sends after all still counts while it is open."""
        await coordinator.experiments.lost(round_id, await json_body(request, LostBody, "the participants"))
        return status_view(await _found(coordinator, round_id))

    return [join, drawn, lost]


async def _found(coordinator: Coordinator, round_id: str) -> RoundRecord:
    found = await coordinator.store.round(round_id)
    if found is None:
        raise NotFound(f"there is no round {round_id[:80]!r}", code="unknown_round")
    return _now(coordinator, found)


def _now(coordinator: Coordinator, stored: RoundRecord) -> RoundRecord:
    """A live round as memory has it: refusals are counted there before they are stored."""
    live = coordinator.engine.rounds.get(stored.spec.round_id)
    if live is None or live.round.over or len(live.round.accepted) != stored.num_updates:
        return stored
    return round_record(live, coordinator.clock.now())


def _taken(answer: str) -> UpdateAnswer:
    return UpdateAnswer(status="accepted", duplicate=answer == "duplicate")
