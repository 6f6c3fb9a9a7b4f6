"""The route that calls a latent task."""

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from propeller.http.answers import AnyRequest
from propeller.http.direct import DIRECT
from propeller.http.document import said
from propeller.http.server import json_body
from propeller.manager.invoke import Invocations
from propeller.wire.tasks import InvokeBody


class Invoked(msgspec.Struct):
    """Answer of a call."""

    results: str
    invoked: bool = True


def invoke_routes(invocations: Invocations) -> list[HTTPRouteHandler]:
    """`POST /tasks/{id}/invoke`."""

    @post(
        "/tasks/{task_id:str}/invoke",
        status_code=200,
        summary="Call a latent task",
        opt={**said(takes=InvokeBody, optional=True), **DIRECT},
    )
    async def invoke_task(task_id: FromPath[str], request: AnyRequest) -> Invoked:
        """Waits for the answer, at most 30 s. `inputs` replace the task's own, `env` goes over its env."""
        empty = request.headers.get("content-length", "0") == "0"
        chunked = "transfer-encoding" in request.headers
        body = InvokeBody() if empty and not chunked else await json_body(request, InvokeBody, "the call")
        return Invoked(results=await invocations.invoke(task_id, body))

    return [invoke_task]
