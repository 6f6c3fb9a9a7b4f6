"""The registry's application: routes to handlers, faults to answers, and the life of what is behind them."""

from collections.abc import Awaitable, Callable, Mapping
from random import Random
from types import MappingProxyType

from litestar import asgi
from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from propeller.core.retention import Keep
from propeller.errors import Bug, PropellerError, Unsupported
from propeller.images.registry.blobs import BlobRoutes
from propeller.images.registry.catalogue import Catalogue
from propeller.images.registry.content import ContentStore
from propeller.images.registry.exchange import Reply, Request, read_request, send_reply
from propeller.images.registry.faults import ClientGone, FaultCode, RegistryFault, body_of, status_of
from propeller.images.registry.index import RegistryIndex
from propeller.images.registry.manifests import ManifestRoutes
from propeller.images.registry.routes import Resource, Route, match
from propeller.images.registry.uploads import Uploads
from propeller.ports import Clock
from propeller.telemetry.logs import logger

Handler = Callable[[Route, Request], Awaitable[Reply]]


class RegistryApp:
    """The registry as an ASGI application, complete in itself; `create_registry_app` mounts it in another."""

    def __init__(self, content: ContentStore, index: RegistryIndex, clock: Clock, random: Random) -> None:
        self._catalogue = Catalogue(index, content, clock)
        self._uploads = Uploads(content, clock, random)
        self._handlers = _table(BlobRoutes(self._catalogue, self._uploads), ManifestRoutes(self._catalogue))

    async def open(self) -> None:
        """Read the index. Raises `StorageBroken`; without this call the first request reads it."""
        await self._catalogue.open()

    async def collect(self) -> int:
        """Delete content that no repository links; how many. Only if the store is the registry's alone."""
        await self._catalogue.open()
        return await self._catalogue.collect()

    async def sweep(self, keep: Keep, *, dry: bool = False) -> dict[str, int]:
        """Drop loose manifests beyond `keep`, blobs of none, abandoned uploads; how many, or would be."""
        await self._catalogue.open()
        gone = {"images": await self._catalogue.sweep(keep, dry=dry)}
        return gone if dry else {**gone, "uploads": await self._uploads.sweep()}

    async def close(self) -> None:
        """Drop unfinished uploads."""
        await self._uploads.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] == ScopeType.WEBSOCKET:
            raise Unsupported("the registry speaks HTTP only")
        request = read_request(scope, receive)
        try:
            reply = await self._answer(request)
        except ClientGone:
            # Nobody listens any more, but the server wants a reply before it lets go of the connection.
            reply = Reply(status=400)
        except PropellerError as error:
            reply = _refusal(error)
        await send_reply(send, reply, with_body=request.method != "HEAD")

    async def _answer(self, request: Request) -> Reply:
        await self._catalogue.open()
        route = match(request.path)
        methods = self._handlers[route.resource]
        handler = methods.get(request.method)
        if handler is None:
            raise RegistryFault(
                FaultCode.UNSUPPORTED,
                f"{request.method} is not offered here; {', '.join(sorted(methods))} are",
                headers={"allow": ", ".join(sorted(methods))},
            )
        _check_origin(request)
        return await handler(route, request)


def _check_origin(request: Request) -> None:
    """Refuse changes on behalf of a web page of another origin: browsers send some without asking."""
    origin = request.headers.get("origin")
    if origin is None or request.method in {"GET", "HEAD"}:
        return
    if origin.partition("://")[2] != request.headers.get("host"):
        raise RegistryFault(FaultCode.DENIED, f"a web page of {origin[:200]} may not change this registry")


def create_registry_app(registry: RegistryApp) -> ASGIRouteHandler:
    """The registry as a route handler for `/v2`, beside the other routes of a role's application."""

    @asgi("/v2", is_mount=True, copy_scope=True)
    async def serve_registry(scope: Scope, receive: Receive, send: Send) -> None:
        await registry(scope, receive, send)

    return serve_registry


def _table(blobs: BlobRoutes, manifests: ManifestRoutes) -> Mapping[Resource, Mapping[str, Handler]]:
    return MappingProxyType(
        {
            Resource.ROOT: {"GET": _show_root, "HEAD": _show_root},
            Resource.CATALOG: {"GET": manifests.list_repositories},
            Resource.UPLOADS: {"POST": blobs.begin},
            Resource.UPLOAD: {
                "GET": blobs.progress,
                "PATCH": blobs.append,
                "PUT": blobs.finish,
                "DELETE": blobs.cancel,
            },
            Resource.BLOB: {"GET": blobs.read, "HEAD": blobs.read, "DELETE": blobs.delete},
            Resource.MANIFEST: {
                "GET": manifests.read,
                "HEAD": manifests.read,
                "PUT": manifests.write,
                "DELETE": manifests.delete,
            },
            Resource.TAGS: {"GET": manifests.list_tags},
            Resource.REFERRERS: {"GET": manifests.list_referrers},
        }
    )


async def _show_root(_route: Route, _request: Request) -> Reply:
    """`GET /v2/` (end-1): this is a registry."""
    return Reply(status=200, headers={"content-type": "application/json"}, body=b"{}")


def _refusal(error: PropellerError) -> Reply:
    if isinstance(error, Bug):
        logger().error("bug", exc_info=error)
    headers = error.headers if isinstance(error, RegistryFault) else {}
    return Reply(
        status=status_of(error), headers={"content-type": "application/json", **headers}, body=body_of(error)
    )
