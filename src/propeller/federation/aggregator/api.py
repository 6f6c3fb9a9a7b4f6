"""The aggregator's one route. It must not know how updates are folded, nor keep anything between requests."""

from litestar import MediaType, Response, post
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from propeller.errors import Unsupported
from propeller.federation.aggregator.fold import fold
from propeller.federation.offload import Offload
from propeller.http.answers import AnyRequest
from propeller.http.large import json_answer
from propeller.http.server import json_bytes

BY_REFERENCE = "application/vnd.propeller.aggregate+json"
"""The body that names updates by URL instead of holding them; kept free for it, not served yet."""


def routes(offload: Offload) -> list[HTTPRouteHandler]:
    """`POST /aggregate`: updates in, the new model out."""

    @post("/aggregate", status_code=200, media_type=MediaType.JSON, summary="Fold updates into a new model")
    async def aggregate(request: AnyRequest) -> Response[bytes] | Stream:
        """The weighted mean by `num_samples` (or what `strategy` makes) of the updates in the body."""
        if request.headers.get("content-type", "").startswith(BY_REFERENCE):
            raise Unsupported(f"{BY_REFERENCE} is not offered by this release; send the updates inline")
        body = await json_bytes(request, "the aggregation")
        return json_answer(await offload(fold, body))

    return [aggregate]
