"""Errors as HTTP answers: whatever goes wrong, the body is `{"error": message, "code": reason}`.

The status comes from the error tree; faults of a request that the framework finds itself (no such route,
wrong method, unreadable parameters) take the same shape; anything unknown is a bug, answered 500 and logged
whole. It must not know any route.
"""

from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, InternalServerException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap

from propeller import limits
from propeller.errors import Bug, PropellerError
from propeller.telemetry.logs import logger

AnyRequest = Request[Any, Any, Any]


def unchanged(request: AnyRequest, tag: str) -> bool:
    """Whether `If-None-Match` names this content (RFC 9110, 13.1.2: weak comparison)."""
    wanted = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    return not wanted.isdisjoint({"*", tag})


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer from 400 on: `error` for people, `code` for programs."""

    error: str
    code: str


_CODES = {400: "bad_input", 401: "denied", 403: "denied", 404: "not_found", 405: "method_not_allowed"}
_CODES |= {413: "too_large"}

_SAYS = {
    400: "the request is malformed, or clashes with a bound that the message names",
    403: "the caller may not do this",
    404: "no such thing",
    409: "clashes with what is recorded",
    413: f"the body is over {limits.HTTP_BODY_BYTES_MAX} bytes",
    502: "another role refused",
    503: "not possible now; try again later",
    507: "no room on disk; try again later",
}

ERROR_RESPONSES: dict[int, ResponseSpec] = {
    status: ResponseSpec(data_container=ErrorBody, description=text, generate_examples=False)
    for status, text in _SAYS.items()
}
"""What the OpenAPI document says of every route's errors."""


def answer_error(_request: AnyRequest, error: PropellerError) -> Response[ErrorBody]:
    """An error of our tree, with its own status; only a `Bug` is logged with its traceback."""
    if isinstance(error, Bug):
        logger().error("bug", exc_info=error)
    elif error.http_status >= HTTP_SERVER_SIDE:
        logger().warning("request failed", error=error.message, code=error.reason)
    return _answer(error.http_status, error.message, error.reason)


def answer_framework(request: AnyRequest, error: HTTPException) -> Response[ErrorBody]:
    """A fault that the framework found; its own 5xx are our bugs, except a caller who hung up."""
    if isinstance(error, InternalServerException) and "disconnected" in error.detail:
        return _answer(400, "the body ended before its announced length", "disconnected")
    if error.status_code >= HTTP_SERVER_SIDE:
        return answer_unknown(request, error)
    code = _CODES.get(error.status_code, "bad_request")
    return _answer(error.status_code, _sentence(request, error), code, headers=error.headers)


def answer_unknown(_request: AnyRequest, error: Exception) -> Response[ErrorBody]:
    """Something that nobody foresaw: 500, with the traceback in the log and none of it in the answer."""
    logger().error("bug", exc_info=error)
    return _answer(500, "internal error; the log of this role has the details", Bug.code)


HTTP_SERVER_SIDE = 500

EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    PropellerError: answer_error,
    HTTPException: answer_framework,
    Exception: answer_unknown,
}


def _sentence(request: AnyRequest, error: HTTPException) -> str:
    where = f"{request.method} {request.url.path}"
    match error.status_code:
        case 404:
            return f"{where}: no such path" if error.detail == "Not Found" else error.detail
        case 405:
            return f"{where}: this path does not take {request.method}"
        case 413:
            return f"{where}: the body is over the limit of {limits.HTTP_BODY_BYTES_MAX} bytes"
        case _:
            return f"{error.detail}{_details(error.extra)}"


def _details(extra: Any) -> str:
    """The framework's list of wrong parameters as text: `: limit: Expected int, got str`."""
    if not isinstance(extra, list):
        return ""
    parts = [
        f"{item.get('key', 'body')}: {item.get('message', '')}" for item in extra if isinstance(item, dict)
    ]
    return ": " + "; ".join(parts) if parts else ""


def _answer(
    status: int, message: str, code: str, *, headers: dict[str, str] | None = None
) -> Response[ErrorBody]:
    return Response(
        ErrorBody(error=message, code=code),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )
