"""Applications that are built again and again in one process: their routes are parsed once.

A simulated manager is born many times a minute, and the framework takes a tenth of a second to read the
signatures of its routes. Inside `routes_parsed_once` a role's later applications are its first one with other
functions behind the routes, so only one application of a role may answer at a time. Nobody else needs this.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp

Parsed = dict[str, tuple[Litestar, ASGIApp]]
"""The application of each role, and what it was before anything was laid around it."""

_parsed: ContextVar[Parsed | None] = ContextVar("parsed", default=None)


@contextmanager
def routes_parsed_once(parsed: Parsed) -> Iterator[None]:
    """Inside, and in every task started inside, applications are taken from `parsed` and kept there."""
    token = _parsed.set(parsed)
    try:
        yield
    finally:
        _parsed.reset(token)


def keep(role: str, app: Litestar) -> None:
    """Keep the application for the next one of its role, if they are to be kept."""
    known = _parsed.get()
    if known is not None:
        known[role] = (app, app.asgi_handler)


def taken(role: str, handlers: Sequence[object]) -> Litestar | None:
    """The role's kept application with these handlers' functions behind its routes; None without one."""
    known = _parsed.get()
    if known is None or role not in known:
        return None
    app, bare = known[role]
    fresh = {_name(handler): handler.fn for handler in handlers if isinstance(handler, HTTPRouteHandler)}
    for handler in http_handlers(app):
        if _name(handler) in fresh:
            handler(fresh[_name(handler)])
    app.asgi_handler = bare
    return app


def http_handlers(app: Litestar) -> list[HTTPRouteHandler]:
    """Every handler behind an HTTP route of the application."""
    return [
        handler for route in app.routes if isinstance(route, HTTPRoute) for handler in route.route_handlers
    ]


def _name(handler: HTTPRouteHandler) -> tuple[str, frozenset[str], frozenset[str]]:
    return handler.fn.__qualname__, frozenset(handler.paths), frozenset(map(str, handler.http_methods))
