"""The aggregator's one route. It must not know how updates are folded, nor keep anything between requests."""

from litestar import MediaType, Response, post
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from propeller import limits
from propeller.federation.aggregator.by_reference import Reach, Sources, fold_files
from propeller.federation.aggregator.fold import fold
from propeller.federation.offload import Offload, by_size
from propeller.http.answers import AnyRequest
from propeller.http.large import file_answer, json_answer
from propeller.http.server import json_bytes, media_type
from propeller.wire import codec
from propeller.wire.models import BY_REFERENCE, SAFETENSORS, AggregateFiles


def routes(offload: Offload, reach: Reach, threads: int) -> list[HTTPRouteHandler]:
    """`POST /aggregate`: updates in, the new model out. `threads` may work on one fold of files."""

    @post("/aggregate", status_code=200, media_type=MediaType.JSON, summary="Fold updates into a new model")
    async def aggregate(request: AnyRequest) -> Response[bytes] | Stream:
        """The weighted mean by `num_samples` (or what `strategy` makes) of the updates in the body.

        A body of type `application/vnd.propeller.aggregate+json` names files instead of holding updates; the
        answer then is the model as a safetensors file, and the strategy's state as another after it.
        """
        body = await json_bytes(request, "the aggregation")
        if media_type(request) == BY_REFERENCE:
            return await _folded(body, offload, reach, threads)
        return json_answer(await by_size(offload, len(body), fold, body))

    return [aggregate]


async def _folded(body: bytes, offload: Offload, reach: Reach, threads: int) -> Response[bytes] | Stream:
    asked = codec.decode(AggregateFiles, body, what="the body", limit_bytes=limits.HTTP_BODY_BYTES_MAX)
    async with Sources(reach) as sources:
        done = await offload(fold_files, asked, await sources.find(asked), threads)
    return file_answer(done.content, SAFETENSORS, headers={"x-model-bytes": str(done.model_bytes)})
