"""Routes that are asked a thousand times a second, answered without the framework's machinery around them.

A route says so by `opt=DIRECT`; it takes the request and its path's parameter, of which it has one at most.
The framework has the same handlers, documents them, and gets whatever is not exactly such a request: other
methods, a slash at the end, all other routes. It must not know what the routes do.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from litestar import Litestar, Response
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from propeller import limits
from propeller.errors import BadInput, Bug, PropellerError, TooLarge
from propeller.http.answers import AnyRequest, answer_error, answer_unknown
from propeller.wire import codec

_MARK: Final = "propeller_direct"
DIRECT: Final = {_MARK: True}
"""The `opt` of a route that is to be answered directly."""
_PARAMETER_END: Final = ":str}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """One handler: `parameter` is the name of the path's, empty for none."""

    answer: Callable[..., Awaitable[Any]]
    status: int
    template: str
    parameter: str
    takes_request: bool


class Direct:
    """An ASGI layer before `app`, which gets what none of the `handlers` that are marked answers."""

    def __init__(self, asgi: ASGIApp, app: Litestar, handlers: Iterable[object]) -> None:
        self._asgi = asgi
        self._app = app
        self._routes: dict[tuple[str, str, str], _Route] = {}
        """By method and what stands before and after the path's parameter."""
        for handler in handlers:
            if isinstance(handler, HTTPRouteHandler) and _MARK in handler.opt:
                self._add(handler)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        found = self._find(scope) if scope["type"] == ScopeType.HTTP else None
        if found is None:
            await self._asgi(scope, receive, send)
            return
        route, value = found
        http = cast("HTTPScope", scope)
        http["path_template"] = route.template
        response = await self._answer(route, value, DirectRequest(http, receive, self._app))
        await _send(response, route.status, send)

    def _add(self, handler: HTTPRouteHandler) -> None:
        (path,), (method,) = handler.paths, handler.http_methods
        before, _, rest = path.partition("/{")
        name, _, after = rest.partition(_PARAMETER_END)
        known = set(inspect.signature(handler.fn).parameters)
        if not known <= {"request", name} or "{" in after:
            raise Bug(f"route {path} cannot be direct: it takes {', '.join(sorted(known))}")
        self._routes[method.upper(), before, after] = _Route(
            answer=handler.fn,
            status=handler.status_code,
            template=path.replace(_PARAMETER_END, "}"),
            parameter=name,
            takes_request="request" in known,
        )

    def _find(self, scope: Scope) -> tuple[_Route, str] | None:
        """The route of a request, and its parameter."""
        method, path = cast("HTTPScope", scope)["method"], scope["path"]
        whole = self._routes.get((method, path, ""))
        if whole is not None and not whole.parameter:
            return whole, ""
        rest, _, last = path.rpartition("/")
        before, _, value = rest.rpartition("/")
        found = self._routes.get((method, before, f"/{last}"))
        return (found, value) if found is not None and value else None

    async def _answer(self, route: _Route, value: str, request: "DirectRequest") -> Response[Any]:
        kwargs: dict[str, Any] = {route.parameter: value} if route.parameter else {}
        if route.takes_request:
            kwargs["request"] = request
        try:
            answer = await route.answer(**kwargs)
        except PropellerError as error:
            return answer_error(cast("AnyRequest", request), error)
        except Exception as error:  # noqa: BLE001 - the boundary of a request: the caller gets a 500
            return answer_unknown(cast("AnyRequest", request), error)
        return answer if isinstance(answer, Response) else Response(answer, status_code=route.status)


class DirectRequest:
    """What `json_body` and handlers of direct routes ask of a request."""

    __slots__ = ("_receive", "_scope", "app", "headers")

    def __init__(self, scope: HTTPScope, receive: Receive, app: Litestar) -> None:
        self._scope = scope
        self._receive = receive
        self.app = app
        sent = reversed(list(scope["headers"]))
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent}
        """By name in lower case; of a name that comes twice the first."""

    async def stream(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises `TooLarge` if it is announced so, `BadInput` if it breaks off."""
        announced = self.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > limits.HTTP_BODY_BYTES_MAX:
            raise TooLarge(f"the body is over the limit of {limits.HTTP_BODY_BYTES_MAX} bytes")
        more = True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise BadInput("the body ended before its announced length", code="disconnected")
            if message["body"]:
                yield message["body"]
            more = message["more_body"]


async def _send(response: Response[Any], status: int, send: Send) -> None:
    body = codec.encode(response.content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), str(value).encode()) for name, value in response.headers.items()]
    await send({"type": "http.response.start", "status": response.status_code or status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
