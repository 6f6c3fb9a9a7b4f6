"""Routes of federated learning: experiments are launched here; all else is the coordinator's answer."""

from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, QueryParameter

from propeller import limits
from propeller.core.ids import check_id
from propeller.errors import BadInput, Unsupported
from propeller.http.answers import AnyRequest
from propeller.http.document import BYTES, said
from propeller.http.server import json_bytes
from propeller.manager.coordinator import CoordinatorClient
from propeller.manager.rounds import Rounds
from propeller.ports import Response as PeerAnswer
from propeller.wire.experiments import (
    ExperimentBody,
    ExperimentDetail,
    ExperimentPage,
    ExperimentView,
    MetricRows,
    ParticipantRows,
    RoundDetail,
    RoundPage,
    RoundStatusBoth,
    RoundTaskAnswer,
    UpdateAnswer,
    UpdateBody,
)
from propeller.wire.models import ModelPulled, PullModel

Offset = Annotated[int, QueryParameter(ge=0, le=limits.LIST_OFFSET_MAX, description="How many to skip")]
Limit = Annotated[int, QueryParameter(ge=1, le=limits.LIST_PAGE_MAX, description="How many to show")]
_CBOR = {"application/cbor", "application/cbor-seq"}


class Configured(msgspec.Struct):
    """Answer of a configured experiment."""

    experiment_id: str
    round_id: str
    status: str


def round_routes(rounds: Rounds, coordinator: CoordinatorClient | None) -> list[HTTPRouteHandler]:
    """Every route below `/fl`."""
    forward = _Forward(coordinator)
    return [_configure(rounds), *_updates(forward), *_records(forward), *_orders(forward)]


def _configure(rounds: Rounds) -> HTTPRouteHandler:
    @post(
        "/fl/experiments",
        status_code=200,
        summary="Configure an experiment and launch its first round",
        opt=said(takes=ExperimentBody),
    )
    async def configure_experiment(request: AnyRequest) -> Configured:
        """One task per participant is on disk and started when this answers."""
        answer = await rounds.configure(await json_bytes(request, "the experiment"))
        return Configured(**answer)

    return configure_experiment


class _Forward:
    """Hands a request on to the coordinator, and its answer back."""

    def __init__(self, coordinator: CoordinatorClient | None) -> None:
        self._coordinator = coordinator

    async def __call__(self, method: str, path: str, body: bytes = b"", **said: Any) -> Response[bytes]:
        if self._coordinator is None:
            raise Unsupported(
                "this manager has no coordinator: start it with a coordinator URL", code="no_coordinator"
            )
        answer: PeerAnswer = await self._coordinator.forward(method, path, body, **said)
        media_type = answer.headers.get("content-type", "application/json")
        return Response(answer.body, status_code=answer.status, media_type=media_type)


def _updates(forward: _Forward) -> list[HTTPRouteHandler]:
    @get("/fl/task", summary="What a participant is to train", opt=said(answers=RoundTaskAnswer))
    async def fl_task(round_id: FromQuery[str] = "", proplet_id: FromQuery[str] = "") -> Response[bytes]:
        if not round_id:
            raise BadInput("round_id is missing from the query", code="missing_round_id")
        query = f"round_id={check_id(round_id, 'round_id')}"
        if proplet_id:
            query += f"&proplet_id={check_id(proplet_id, 'proplet_id')}"
        return await forward("GET", f"/task?{query}")

    @post(
        "/fl/update",
        status_code=200,
        summary="Submit an update",
        opt=said(takes=UpdateBody, answers=UpdateAnswer),
    )
    async def fl_update(request: AnyRequest) -> Response[bytes]:
        body = await json_bytes(request, "the update")
        return await forward("POST", "/update", body, token=request.headers.get("x-update-token"))

    @post(
        "/fl/update_cbor",
        status_code=200,
        summary="Submit an update as CBOR",
        opt=said(takes=BYTES, types=("application/cbor", "application/cbor-seq"), answers=UpdateAnswer),
    )
    async def fl_update_cbor(request: AnyRequest) -> Response[bytes]:
        content_type = request.headers.get("content-type", "").split(";")[0].strip()
        if content_type not in _CBOR:
            raise BadInput(
                f"unsupported content type {content_type!r}: send application/cbor", code="content_type"
            )
        body = await request.body()
        token = request.headers.get("x-update-token")
        return await forward("POST", "/update_cbor", body, content_type=content_type, token=token)

    return [fl_task, fl_update, fl_update_cbor]


def _records(forward: _Forward) -> list[HTTPRouteHandler]:
    @get(
        "/fl/rounds/{round_id:str}/complete",
        summary="How far a round is",
        opt=said(answers=RoundStatusBoth),
    )
    async def fl_round(round_id: FromPath[str]) -> Response[bytes]:
        return await forward("GET", f"/rounds/{check_id(round_id, 'round_id')}/complete")

    @get(
        "/fl/rounds/{round_id:str}",
        summary="All that is known of a round",
        opt=said(answers=RoundDetail),
    )
    async def fl_round_record(round_id: FromPath[str]) -> Response[bytes]:
        return await forward("GET", f"/rounds/{check_id(round_id, 'round_id')}")

    @get("/fl/experiments", summary="List experiments, newest first", opt=said(answers=ExperimentPage))
    async def fl_experiments(offset: Offset = 0, limit: Limit = limits.LIST_PAGE_DEFAULT) -> Response[bytes]:
        return await forward("GET", f"/experiments?offset={offset}&limit={limit}")

    @get("/fl/experiments/{experiment_id:str}", summary="One experiment", opt=said(answers=ExperimentDetail))
    async def fl_experiment(experiment_id: FromPath[str]) -> Response[bytes]:
        return await forward("GET", _experiment(experiment_id))

    @get(
        "/fl/experiments/{experiment_id:str}/rounds",
        summary="Its rounds, newest first",
        opt=said(answers=RoundPage),
    )
    async def fl_rounds(
        experiment_id: FromPath[str], offset: Offset = 0, limit: Limit = limits.LIST_PAGE_DEFAULT
    ) -> Response[bytes]:
        known = check_id(experiment_id, "experiment_id")
        return await forward("GET", f"/rounds?experiment_id={known}&offset={offset}&limit={limit}")

    @get(
        "/fl/experiments/{experiment_id:str}/participants",
        summary="Who took part, and what each sent",
        opt=said(answers=ParticipantRows),
    )
    async def fl_participants(experiment_id: FromPath[str]) -> Response[bytes]:
        return await forward("GET", _experiment(experiment_id, "participants"))

    @get(
        "/fl/experiments/{experiment_id:str}/metrics",
        summary="Its rounds in numbers, oldest first",
        opt=said(answers=MetricRows),
    )
    async def fl_metrics(experiment_id: FromPath[str]) -> Response[bytes]:
        return await forward("GET", _experiment(experiment_id, "metrics"))

    return [fl_round, fl_round_record, fl_experiments, fl_experiment, fl_rounds, fl_participants, fl_metrics]


def _orders(forward: _Forward) -> list[HTTPRouteHandler]:
    @post(
        "/fl/experiments/{experiment_id:str}/stop",
        status_code=200,
        summary="End an experiment",
        opt=said(answers=ExperimentView),
    )
    async def fl_stop(experiment_id: FromPath[str]) -> Response[bytes]:
        return await forward("POST", _experiment(experiment_id, "stop"))

    @post(
        "/fl/experiments/{experiment_id:str}/pause",
        status_code=200,
        summary="Begin no further round",
        opt=said(answers=ExperimentView),
    )
    async def fl_pause(experiment_id: FromPath[str]) -> Response[bytes]:
        """The round under way goes on to its end, with its evaluation."""
        return await forward("POST", _experiment(experiment_id, "pause"))

    @post(
        "/fl/experiments/{experiment_id:str}/resume",
        status_code=200,
        summary="Go on after a pause",
        opt=said(answers=ExperimentView),
    )
    async def fl_resume(experiment_id: FromPath[str]) -> Response[bytes]:
        return await forward("POST", _experiment(experiment_id, "resume"))

    @post(
        "/fl/models/import",
        status_code=200,
        summary="Make an OCI registry's artefact a version of a model",
        opt=said(takes=PullModel, answers=ModelPulled),
    )
    async def fl_import(request: AnyRequest) -> Response[bytes]:
        """Once: the same artefact again is the same version."""
        body = await json_bytes(request, "the order")
        return await forward("POST", "/models/import", body, timeout_s=limits.HTTP_STREAM_S)

    return [fl_stop, fl_pause, fl_resume, fl_import]


def _experiment(experiment_id: str, what: str = "") -> str:
    path = f"/experiments/{check_id(experiment_id, 'experiment_id')}"
    return f"{path}/{what}" if what else path
