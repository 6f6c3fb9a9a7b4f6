"""The registry's routes. They must not know how versions are stored, nor what a model is for."""

import re
from typing import Any

from litestar import HttpMethod, Response, get, post, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Stream

from propeller.core.ids import check_id
from propeller.errors import BadInput, NotFound
from propeller.federation.model_registry.content import info, propose, render
from propeller.federation.model_registry.rendered import Rendered
from propeller.federation.offload import Offload
from propeller.fl.versions import GLOBAL_MODEL, ModelVersion, check_version
from propeller.http.answers import AnyRequest
from propeller.http.large import json_answer
from propeller.http.server import json_bytes
from propeller.ports import Clock, ModelStore
from propeller.telemetry.logs import logger

_NUMBER = re.compile(r"[0-9]{1,18}")
_READ = [HttpMethod.GET, HttpMethod.HEAD]


def routes(store: ModelStore, clock: Clock, offload: Offload) -> list[HTTPRouteHandler]:
    """All routes over `store`."""
    reading = _readings(store, Rendered(store, offload), offload)
    return [_post_model(store, clock, offload), *_listings(store), *reading]


def _post_model(store: ModelStore, clock: Clock, offload: Offload) -> HTTPRouteHandler:
    @post("/models", status_code=201, summary="Store a model version")
    async def store_model(request: AnyRequest) -> Response[dict[str, Any]]:
        """Under the number given, or else the next; the same round or number again is the same version."""
        proposal, content, state = await offload(propose, await json_bytes(request, "the model version"))
        stored, new = await store.add(proposal, content, state=state, created_at_s=clock.now().wall_s)
        if new:
            _tell(stored)
        answer = {
            "version": stored.version,
            "status": "stored",
            "name": stored.name,
            "sha256": stored.sha256,
        }
        return Response(answer if new else {**answer, "duplicate": True}, headers=_headers(stored))

    return store_model


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
        found = await _find(store, name, version)
        if _unchanged(request, found):
            return Response(b"", status_code=304, headers=_headers(found))
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
        found = await _find(store, name, version)
        return Response(info(found), headers=_headers(found))

    @get("/models/{name:str}/versions/{version:str}/state", summary="What its strategy keeps")
    async def show_state(name: FromPath[str], version: FromPath[str]) -> Response[bytes] | Stream:
        """The tensors that the strategy wants back for the next round; `{}` if it keeps none."""
        found = await _find(store, name, version)
        return json_answer(await offload(render, await store.state(found.name, found.version)))

    return [show_global, show_named, show_info, show_state]


async def _find(store: ModelStore, name: str, version: str) -> ModelVersion:
    check_id(name, "model name")
    if not _NUMBER.fullmatch(version):
        raise BadInput(
            f"version {version[:40]!r} is not a whole number; GET /models/{{version}}, or for another model "
            "GET /models/{name}/versions/{version}",
            code="bad_version",
        )
    found = await store.find(name, check_version(int(version), "version"))
    if found is None:
        raise NotFound(f"model {name!r} has no version {int(version)}", code="unknown_version")
    return found


def _headers(version: ModelVersion) -> dict[str, str]:
    return {"ETag": f'"{version.sha256}"'}


def _unchanged(request: AnyRequest, version: ModelVersion) -> bool:
    """Whether `If-None-Match` names this content (RFC 9110, 13.1.2: weak comparison)."""
    wanted = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    return not wanted.isdisjoint({"*", f'"{version.sha256}"'})


def _tell(stored: ModelVersion) -> None:
    logger().info(
        "model version stored",
        model=stored.name,
        version=stored.version,
        parent=stored.parent,
        round_id=stored.round_id,
        sha256=stored.sha256,
    )
