"""The application around a role's routes: errors, limits, health, metrics and the OpenAPI document.

It must not know what the routes do. It starts no threads and reads no clock but the running loop's, so the
same application answers over a socket and inside a simulated world. Startup and shutdown hooks of the
framework are not run: whoever wires a role owns its life.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import urlsplit

from litestar import Litestar, MediaType, Response, get
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.types import ASGIApp, ControllerRouterHandler, HTTPScope, Message, Receive, Scope, Send
from prometheus_client import Counter, Histogram

import propeller
from propeller import limits
from propeller.errors import BadInput, Bug, DecodeError, TooLarge
from propeller.http import reuse
from propeller.http.answers import ERROR_RESPONSES, EXCEPTION_HANDLERS, AnyRequest
from propeller.http.direct import Direct
from propeller.http.document import WholeDocument
from propeller.telemetry.logs import bind_role
from propeller.telemetry.metrics import CONTENT_TYPE, RoleMetrics
from propeller.wire import codec

T = TypeVar("T")
Offload = Callable[..., Awaitable[Any]]
"""Runs `fn(*args)` where it does not hold the loop: `asyncio.to_thread`, or a direct call in a simulation."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HEALTHY = frozenset({"pass", "ok", "warn"})


def create_app(
    role: str,
    handlers: Sequence[ControllerRouterHandler],
    metrics: RoleMetrics,
    health: Callable[[], dict[str, Any]],
    *,
    offload: Offload = asyncio.to_thread,
    description: str = "",
) -> Litestar:
    """The ASGI application of `role`: its `handlers` (async only) beside `/health`, `/metrics` and `/schema`.

    `health()` returns what `GET /health` shows; `status` is added as `"pass"` unless given, and a status
    other than pass, ok or warn answers 503. Paths answer with and without a trailing slash. Raises `Bug` for
    a handler that would run in a thread.
    """
    routes = [*handlers, _health_route(health), _metrics_route(metrics)]
    app = reuse.taken(role, routes) or _parsed(role, routes, description)
    app.state.offload = offload
    # The outermost layer, because routes that do not exist never reach a middleware and count too.
    app.asgi_handler = _Observed(Direct(app.asgi_handler, app, routes), role, metrics)
    return app


def _parsed(role: str, handlers: Sequence[ControllerRouterHandler], description: str) -> Litestar:
    app = Litestar(
        route_handlers=handlers,
        exception_handlers=EXCEPTION_HANDLERS,
        request_max_body_size=limits.HTTP_BODY_BYTES_MAX,
        openapi_config=_openapi(role, description),
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
    )
    for handler in reuse.http_handlers(app):
        _require_async(handler)
        handler.responses = {**ERROR_RESPONSES, **(handler.responses or {})}
    reuse.keep(role, app)
    return app


async def json_body(
    request: AnyRequest, kind: type[T], what: str, *, decode: Callable[[type[T], bytes, str], T] | None = None
) -> T:
    """The request's body as a `kind`; `what` names it in errors ("the task").

    Reads what `json_bytes` reads. Large bodies are decoded by the application's `offload`; `decode` is for
    kinds that have a way of their own. Raises `BadInput`, `DecodeError`, `TooLarge`.
    """
    body = await json_bytes(request, what)
    read = decode or _decode
    if len(body) <= limits.HTTP_JSON_OFFLOAD_BYTES:
        return read(kind, body, what)
    offload: Offload = request.app.state.offload
    return await offload(read, kind, body, what)  # type: ignore[no-any-return]


async def json_bytes(request: AnyRequest, what: str) -> bytes:
    """The request's body as it came, for work that decodes it elsewhere; not empty, and meant as JSON.

    Any request whose `Content-Type` is absent, JSON, or what plain `curl -d` sends (a form) is read as JSON.
    Other types are refused, and so is anything but declared JSON from a web page of another origin: a browser
    sends such a request for any page without asking. Raises `BadInput`, `DecodeError`, `TooLarge`.
    """
    _check_content_type(request)
    body = await body_bytes(request, what)
    if not body or body.isspace():
        raise DecodeError(f"{what} is missing: the body is empty; send JSON")
    return body


async def body_bytes(request: AnyRequest, what: str) -> bytes:
    """The request's body, whatever it is; `what` names it in errors. Raises `TooLarge`."""
    # Joining the chunks of a hundred megabytes is one copy of 100 ms; a BytesIO hands its buffer over.
    whole = BytesIO()
    async for chunk in request.stream():
        # Said here too: a route that also takes files allows longer bodies than JSON may be.
        if whole.tell() + len(chunk) > limits.HTTP_BODY_BYTES_MAX:
            raise TooLarge(f"{what} is over the limit of {limits.HTTP_BODY_BYTES_MAX} bytes")
        whole.write(chunk)
    return whole.getvalue()


def media_type(request: AnyRequest) -> str:
    """The `Content-Type` without parameters, in lower case; empty if there is none."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _decode(kind: type[T], body: bytes, what: str) -> T:
    return codec.decode(kind, body, what=what, limit_bytes=limits.HTTP_BODY_BYTES_MAX, strict=True)


def _check_content_type(request: AnyRequest) -> None:
    given = media_type(request)
    if given.endswith(("/json", "+json")):
        return
    if given not in {"", "application/x-www-form-urlencoded"}:
        raise BadInput(f"unsupported content type {given!r}: send application/json", code="content_type")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise BadInput(
            "unsupported content type: a page of another origin must send application/json",
            code="content_type",
        )


def _health_route(health: Callable[[], dict[str, Any]]) -> HTTPRouteHandler:
    @get("/health", summary="Whether this role works", media_type=MediaType.JSON)
    async def show_health() -> Response[dict[str, Any]]:
        shown = {"status": "pass", "version": propeller.__version__, **health()}
        return Response(shown, status_code=200 if shown["status"] in _HEALTHY else 503)

    return show_health


def _metrics_route(metrics: RoleMetrics) -> HTTPRouteHandler:
    @get("/metrics", summary="Prometheus metrics of this role", media_type=CONTENT_TYPE)
    async def show_metrics() -> Response[bytes]:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return show_metrics


def _openapi(role: str, description: str) -> OpenAPIConfig:
    return OpenAPIConfig(
        title=f"Propeller {role}",
        version=propeller.__version__,
        description=description or None,
        path="/schema",
        render_plugins=[WholeDocument(path=["/", "/openapi.json"])],
    )


def _require_async(handler: HTTPRouteHandler) -> None:
    if handler.sync_to_thread:
        raise Bug(f"handler {handler.handler_name} is not async: its thread would escape a simulated world")


class _Observed:
    """Counts and times every request, and gives its log lines the role."""

    def __init__(self, app: ASGIApp, role: str, metrics: RoleMetrics) -> None:
        self._app = app
        self._role = role
        self._count = metrics.counter(
            "propeller_http_requests", "Requests answered", ["method", "route", "status"]
        )
        self._seconds = metrics.histogram(
            "propeller_http_request_seconds", "Time to answer", ["method", "route"]
        )
        self._series: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            bind_role(self._role)
            await self._watch(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _watch(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        started_s = clock()
        status = "none"

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = scope.get("path_template") or "unmatched"
            count, seconds = self._of(method, route, status)
            count.inc()
            seconds.observe(clock() - started_s)

    def _of(self, method: str, route: str, status: str) -> tuple[Counter, Histogram]:
        """The two series of a kind of request; looking them up by labels costs as much as a small handler."""
        key = (method, route, status)
        if key not in self._series:
            self._series[key] = (
                self._count.labels(method, route, status),
                self._seconds.labels(method, route),
            )
        return self._series[key]
