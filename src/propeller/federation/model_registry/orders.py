"""The registry's routes that reach beyond it: versions pushed, pulled, held for somebody, deleted."""

from collections.abc import Awaitable, Callable

from litestar import Response, delete, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from propeller.errors import BadInput
from propeller.federation.model_registry.exchange import Exchange, reference_in
from propeller.federation.model_registry.keeping import Holds, Keeping
from propeller.fl.model_ref import ModelRef
from propeller.fl.versions import ModelVersion
from propeller.http.answers import AnyRequest
from propeller.http.document import said
from propeller.http.server import json_body
from propeller.wire.models import ModelPulled, ModelPushed, PullModel, PushModel
from propeller.wire.retention import VersionName

Find = Callable[[str, str], Awaitable[ModelVersion]]
"""The version of a model that a path names."""


def order_routes(
    exchange: Exchange, find: Find, target: str, stored: Callable[[], None]
) -> list[HTTPRouteHandler]:
    """`target` is where versions go that say no reference; `stored` is called when one came."""

    @post(
        "/models/{name:str}/versions/{version:str}/push",
        status_code=200,
        summary="Push a version to an OCI registry",
        opt=said(takes=PushModel, answers=ModelPushed),
    )
    async def push_model(
        request: AnyRequest, name: FromPath[str], version: FromPath[str]
    ) -> Response[ModelPushed]:
        """The same version is the same artefact: pushing it again changes nothing."""
        asked = await json_body(request, PushModel, "the order")
        found = await find(name, version)
        if not (asked.reference or target):
            raise BadInput("reference is missing: HOST[:PORT]/NAME[:TAG]", code="missing_reference")
        pushed = await exchange.push(found, asked.reference or reference_in(target, found))
        return Response(
            ModelPushed(
                name=found.name, version=found.version, reference=pushed.reference, digest=pushed.digest
            )
        )

    @post(
        "/models/import",
        summary="Make an OCI registry's artefact a version of a model",
        opt=said(takes=PullModel, answers=ModelPulled),
    )
    async def import_model(request: AnyRequest) -> Response[ModelPulled]:
        """201; 200 if this very artefact is a version of the model already."""
        asked = await json_body(request, PullModel, "the order")
        found, reference, new = await exchange.pull(asked.reference, asked.name)
        stored()
        answer = ModelPulled(
            name=found.name,
            version=found.version,
            model_ref=ModelRef(name=found.name, version=found.version).uri,
            reference=reference,
            digest=reference.rpartition("@")[2],
            new=new,
        )
        return Response(answer, status_code=201 if new else 200)

    return [push_model, import_model]


def keeping_routes(keeping: Keeping, holds: Holds, find: Find) -> list[HTTPRouteHandler]:
    """Routes that decide whether a version stays."""

    @post(
        "/models/{name:str}/versions/{version:str}/hold",
        status_code=200,
        summary="Keep a version from being deleted for a minute",
        opt=said(answers=VersionName),
    )
    async def hold_model(name: FromPath[str], version: FromPath[str]) -> VersionName:
        """For who is about to use it: it was there after it was held, or this is 404."""
        found = await find(name, version)
        holds.hold((found.name, found.version))
        # Asked again: it may have been deleted between the two.
        found = await find(name, str(found.version))
        return VersionName(name=found.name, version=found.version)

    @delete(
        "/models/{name:str}/versions/{version:str}",
        status_code=204,
        summary="Delete a version's content for ever",
    )
    async def delete_model(name: FromPath[str], version: FromPath[str]) -> None:
        """Its number is not given again. 409 while anything needs it."""
        await keeping.delete(await find(name, version))

    return [hold_model, delete_model]
