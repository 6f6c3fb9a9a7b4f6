"""The registry's routes. They must not know how versions are stored, nor what a model is for."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from litestar import HttpMethod, Response, get, post, put, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from propeller import limits
from propeller.core.ids import check_id
from propeller.errors import BadInput, NotFound, Unsupported
from propeller.federation.model_registry.content import info, measured_of, propose, render
from propeller.federation.model_registry.files import Pieces, store_files
from propeller.federation.model_registry.rendered import Rendered
from propeller.federation.offload import Offload, by_size
from propeller.fl.versions import GLOBAL_MODEL, ModelVersion, best_of, check_version
from propeller.http.answers import AnyRequest, unchanged
from propeller.http.document import said
from propeller.http.large import file_answer, json_answer
from propeller.http.server import json_body, json_bytes, media_type
from propeller.ports import Clock
from propeller.stores.models import ModelStore
from propeller.telemetry.logs import logger
from propeller.wire.models import MODEL_FILES, SAFETENSORS, ArtifactView, EvaluatedModel, StoreFiles

LATEST, BEST = "latest", "best"
"""Versions by what they are, wherever a number may stand in a path."""
_NUMBER = re.compile(r"[0-9]{1,18}")
_READ = [HttpMethod.GET, HttpMethod.HEAD]


def routes(
    store: ModelStore, clock: Clock, offload: Offload, stored: Callable[[], None]
) -> list[HTTPRouteHandler]:
    """The routes over `store` alone; `stored` is called when a version came."""
    reading = _readings(store, Rendered(store, offload), offload)
    return [
        _post_model(store, clock, offload, stored),
        _put_evaluation(store, clock),
        *_listings(store),
        *reading,
    ]


def _post_model(
    store: ModelStore, clock: Clock, offload: Offload, stored: Callable[[], None]
) -> HTTPRouteHandler:
    @post(
        "/models",
        status_code=201,
        summary="Store a model version",
        request_max_body_size=limits.MODEL_FILE_BYTES_MAX,
    )
    async def store_model(
        request: AnyRequest,
        name: FromQuery[str] = GLOBAL_MODEL,
        version: FromQuery[int | None] = None,
        parent: FromQuery[int | None] = None,
    ) -> Response[dict[str, Any]]:
        """Under the number given, or else the next; the same round or number again is the same version.

        A body of type `application/vnd.safetensors` is the model itself; the query then says its name,
        version and parent.
        """
        kind = media_type(request)
        if kind in {SAFETENSORS, MODEL_FILES}:
            head = StoreFiles(name=name, version=version, parent=parent) if kind == SAFETENSORS else None
            found, new = await store_files(Pieces(request.stream()), head, store, clock, offload)
        else:
            body = await json_bytes(request, "the model version")
            proposal, content, state = await by_size(offload, len(body), propose, body)
            found, new = await store.add(proposal, content, state=state, created_at_s=clock.now().wall_s)
        stored()
        return _answer(found, new)

    return store_model


def _put_evaluation(store: ModelStore, clock: Clock) -> HTTPRouteHandler:
    @put(
        "/models/{name:str}/versions/{version:str}/evaluation",
        summary="Write down what an evaluation of a version measured",
        opt=said(takes=EvaluatedModel),
    )
    async def store_evaluation(
        request: AnyRequest, name: FromPath[str], version: FromPath[str]
    ) -> dict[str, object]:
        """In place of the last one. The version stays what it is; `best` goes by evaluations from now on."""
        told = await json_body(request, EvaluatedModel, "the evaluation")
        found = await find(store, name, version)
        measured = measured_of(told, clock.now().wall_s)
        return info(await store.evaluated(found.name, found.version, measured))

    return store_evaluation


def _answer(stored: ModelVersion, new: bool) -> Response[dict[str, Any]]:  # noqa: FBT001 - as `add` answers
    if new:
        _tell(stored)
    answer = {
        "version": stored.version,
        "status": "stored",
        "name": stored.name,
        "sha256": stored.sha256,
    }
    return Response(answer if new else {**answer, "duplicate": True}, headers=_headers(stored))


def _listings(store: ModelStore) -> list[HTTPRouteHandler]:
    @get("/models", summary="The versions of global_model, and the names of all models")
    async def list_models() -> dict[str, Any]:
        return {"versions": await store.versions(GLOBAL_MODEL), "models": await store.names()}

    @get("/models/{name:str}/versions", summary="The versions of a named model")
    async def list_versions(name: FromPath[str]) -> dict[str, Any]:
        versions = await store.versions(check_id(name, "model name"))
        if not versions:
            raise NotFound(f"there is no model {name!r} in this registry", code="unknown_model")
        return {"name": name, "versions": versions, "latest": versions[-1]}

    return [list_models, list_versions]


def _readings(store: ModelStore, rendered: Rendered, offload: Offload) -> list[HTTPRouteHandler]:
    async def show(request: AnyRequest, name: str, version: str) -> Response[bytes] | Stream:
        found = await find(store, name, version)
        if _as_file(request.headers.get("accept", ""), found):
            return await _file(request, found, await store.mapped(found.name, found.version))
        if unchanged(request, _tag(found)):
            return Response(b"", status_code=304, headers=_headers(found))
        if found.content_bytes > limits.HTTP_BODY_BYTES_MAX:
            raise Unsupported(
                f"version {found.version} of model {found.name!r} is {found.content_bytes} bytes, too large "
                f"for JSON; ask for it with Accept: {SAFETENSORS}"
            )
        return json_answer(await rendered.json(found), headers=_headers(found))

    @route("/models/{version:str}", http_method=_READ, summary="A version of global_model, bare")
    async def show_global(request: AnyRequest, version: FromPath[str]) -> Response[bytes] | Stream:
        return await show(request, GLOBAL_MODEL, version)

    @route("/models/{name:str}/versions/{version:str}", http_method=_READ, summary="A version, bare")
    async def show_named(
        request: AnyRequest, name: FromPath[str], version: FromPath[str]
    ) -> Response[bytes] | Stream:
        return await show(request, name, version)

    @get("/models/{name:str}/versions/{version:str}/info", summary="Where a version came from")
    async def show_info(name: FromPath[str], version: FromPath[str]) -> Response[dict[str, object]]:
        """A deleted version's too: its number and lineage stay."""
        found = await find(store, name, version, deleted=True)
        artifacts = await store.artifacts(found.name, found.version)
        places = [
            ArtifactView(kind=one.kind, reference=one.reference, digest=one.digest) for one in artifacts
        ]
        more = {"artifacts": places} if places else {}
        return Response({**info(found), **more})

    @get("/models/{name:str}/versions/{version:str}/state", summary="What its strategy keeps")
    async def show_state(
        request: AnyRequest, name: FromPath[str], version: FromPath[str]
    ) -> Response[bytes] | Stream:
        """The tensors that the strategy wants back for the next round; `{}` or no bytes if it keeps none."""
        found = await find(store, name, version)
        if SAFETENSORS in request.headers.get("accept", ""):
            state = await store.state_mapped(found.name, found.version)
            return file_answer(state, SAFETENSORS, wanted=request.headers.get("range", ""))
        return json_answer(await offload(render, await store.state(found.name, found.version)))

    return [show_global, show_named, show_info, show_state]


async def find(store: ModelStore, name: str, version: str, *, deleted: bool = False) -> ModelVersion:
    """The version that a path names by number or tag. Raises `NotFound`, also if deleted, and `BadInput`."""
    check_id(name, "model name")
    if version in {LATEST, BEST}:
        return await _tagged(store, name, version)
    if not _NUMBER.fullmatch(version):
        raise BadInput(
            f"version {version[:40]!r} is no whole number, {LATEST} or {BEST}; "
            "GET /models/{version}, or for another model GET /models/{name}/versions/{version}",
            code="bad_version",
        )
    found = await store.find(name, check_version(int(version), "version"))
    if found is None:
        raise NotFound(f"model {name!r} has no version {int(version)}", code="unknown_version")
    if found.deleted_at_s is not None and not deleted:
        when = datetime.fromtimestamp(found.deleted_at_s, UTC).isoformat(timespec="seconds")
        what = f"version {int(version)} of model {name!r}"
        raise NotFound(f"{what} was deleted at {when}", code="version_deleted")
    return found


def _as_file(accept: str, found: ModelVersion) -> bool:
    """Whether a file is wanted: named first, or named at all where JSON would be large."""
    wanted = accept.find(SAFETENSORS)
    if wanted < 0:
        return False
    text = accept.find("application/json")
    return text < 0 or wanted < text or found.content_bytes > limits.MODEL_TEXT_BYTES_MAX


async def _tagged(store: ModelStore, name: str, tag: str) -> ModelVersion:
    """The newest version, or the best one: `fl.versions.best_of`."""
    found = [one for one in await store.records() if one.name == name and one.deleted_at_s is None]
    chosen = found[-1] if found and tag == LATEST else best_of(found)
    if chosen is None:
        why = (
            "has no version with the metric that its experiment stops by, nor accuracy or loss"
            if found
            else "is not in this registry"
        )
        raise NotFound(f"there is no {tag} version: model {name!r} {why}", code="unknown_version")
    return chosen


async def _file(request: AnyRequest, found: ModelVersion, content: memoryview) -> Response[bytes] | Stream:
    """The version as a safetensors file, or the range of it that is asked for."""
    tag = f'"{found.sha256}.safetensors"'
    headers = {"ETag": tag, "Vary": "Accept"}
    if unchanged(request, tag):
        return Response(b"", status_code=304, headers=headers)
    return file_answer(content, SAFETENSORS, wanted=request.headers.get("range", ""), headers=headers)


def _tag(version: ModelVersion) -> str:
    return f'"{version.sha256}"'


def _headers(version: ModelVersion) -> dict[str, str]:
    return {"ETag": _tag(version), "Vary": "Accept"}


def _tell(stored: ModelVersion) -> None:
    logger().info(
        "model version stored",
        model=stored.name,
        version=stored.version,
        parent=stored.parent,
        round_id=stored.round_id,
        sha256=stored.sha256,
    )
