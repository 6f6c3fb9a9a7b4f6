"""The data store's routes, and who may use them. They must not know how documents are stored or split."""

from collections.abc import Callable, Sequence
from typing import Any

from litestar import HttpMethod, Response, get, post, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Stream

from propeller.core.ids import check_id
from propeller.errors import BadInput, Bug, Denied, NotFound
from propeller.federation.data_store import dataset
from propeller.federation.offload import Offload
from propeller.http.answers import AnyRequest, unchanged
from propeller.http.large import json_answer
from propeller.http.server import json_bytes
from propeller.stores.models import DatasetStore
from propeller.telemetry.logs import logger

_PARTS = (None, "train", "test")
Credentials = Callable[[str, str], bool]
"""Whether a token is the credential of a proplet id."""


def routes(
    store: DatasetStore, offload: Offload, *, credentials: Credentials | None = None
) -> list[HTTPRouteHandler]:
    """All routes over `store`. With `credentials`, each proplet reads and writes its own data set only."""
    return [_list(store), _show(store, offload, credentials), _post(store, offload, credentials)]


async def seed(store: DatasetStore, proplet_ids: Sequence[str]) -> list[str]:
    """Give each proplet that has no data set the synthetic one; the ids that got one.

    Raises `BadInput` for an id that is none, before anything is stored.
    """
    for proplet_id in proplet_ids:
        check_id(proplet_id, "proplet id")
    return [one for one in proplet_ids if await store.put_if_absent(one, dataset.synthetic(one))]


def _list(store: DatasetStore) -> HTTPRouteHandler:
    @get("/datasets", summary="The proplets that have a data set")
    async def list_datasets() -> dict[str, Any]:
        ids = await store.ids()
        return {"clients": ids, "count": len(ids)}

    return list_datasets


def _show(store: DatasetStore, offload: Offload, credentials: Credentials | None) -> HTTPRouteHandler:
    @route(
        "/datasets/{proplet_id:str}",
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        summary="A proplet's data set, or its train or test part",
    )
    async def show_dataset(request: AnyRequest, proplet_id: FromPath[str]) -> Response[bytes] | Stream:
        _check_caller(request, proplet_id, credentials)
        digest = await store.digest(proplet_id)
        if digest is None:
            raise NotFound(
                f"there is no data set for proplet {proplet_id!r}; POST one to /datasets/{proplet_id}",
                code="unknown_dataset",
            )
        asked = request.query_params.get("part")
        if asked not in _PARTS:
            raise BadInput(f"part is {str(asked)[:40]!r}; it may be 'train' or 'test'", code="bad_part")
        tag = f'"{digest[:32]}.{asked or "all"}"'
        if unchanged(request, tag):
            return Response(b"", status_code=304, headers={"ETag": tag})
        document = await store.get(proplet_id)
        if document is None:
            raise Bug(f"the data set of {proplet_id!r} went away, and nobody can delete one")
        # Replaced in between, what is sent is not what the tag names: the next answer has the right one.
        headers = {"ETag": tag} if await store.digest(proplet_id) == digest else {}
        body = document if asked is None else await offload(dataset.part, document, asked)
        return json_answer(body, headers=headers)

    return show_dataset


def _post(store: DatasetStore, offload: Offload, credentials: Credentials | None) -> HTTPRouteHandler:
    @post("/datasets/{proplet_id:str}", status_code=201, summary="Store a proplet's data set")
    async def store_dataset(request: AnyRequest, proplet_id: FromPath[str]) -> dict[str, Any]:
        """Replaces what was there; the answer means that it is on disk."""
        _check_caller(request, proplet_id, credentials)
        body = await json_bytes(request, "the data set")
        document, size = await offload(dataset.accept, proplet_id, body)
        await store.put(proplet_id, document)
        logger().info("data set stored", proplet_id=proplet_id, rows=size)
        return {"proplet_id": proplet_id, "size": size, "status": "stored"}

    return store_dataset


def _check_caller(request: AnyRequest, proplet_id: str, credentials: Credentials | None) -> None:
    check_id(proplet_id, "proplet id")
    if credentials is None:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credentials(proplet_id, token.strip()):
        raise Denied(
            f"the data set of {proplet_id!r} is for that proplet only; send its credential as "
            "'Authorization: Bearer …'",
            code="bad_credential",
        )
