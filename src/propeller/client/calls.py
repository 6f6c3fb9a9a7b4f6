"""One call to one role over HTTP: typed answers in, the error tree out. It must not know any route."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from propeller import limits
from propeller.errors import (
    BadInput,
    Conflict,
    Denied,
    NotFound,
    PeerRefused,
    PeerUnavailable,
    PropellerError,
    StorageFull,
    TooLarge,
    Unsupported,
)
from propeller.ports import Http, Response
from propeller.wire import codec

T = TypeVar("T")
Query = Mapping[str, str | int | None]

_ERROR_FROM = 400
_OF_STATUS: dict[int, type[PropellerError]] = {
    400: BadInput,
    401: Denied,
    403: Denied,
    404: NotFound,
    405: Unsupported,
    409: Conflict,
    413: TooLarge,
    415: BadInput,
    429: PeerUnavailable,
    503: PeerUnavailable,
    507: StorageFull,
}
_SHOWN_CHARS = 200


class _ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    error: str
    code: str | None = None


class Role:
    """One role at one base URL. `flag` is the option of the command line that changes the URL."""

    def __init__(self, http: Http, name: str, url: str, flag: str) -> None:
        self._http = http
        self.name = name
        self.url = url.rstrip("/")
        self._flag = flag

    async def get(self, kind: type[T], path: str, query: Query | None = None) -> T:
        """`GET` whose answer is a `kind`."""
        return self._decode(kind, await self.send("GET", path, query=query), f"GET {path}")

    async def post(self, kind: type[T], path: str, body: object = None) -> T:
        """`POST` of JSON (nothing if None) whose answer is a `kind`."""
        return self._decode(kind, await self.send("POST", path, content=_json(body)), f"POST {path}")

    async def put(self, kind: type[T], path: str, body: object) -> T:
        """`PUT` of JSON whose answer is a `kind`."""
        return self._decode(kind, await self.send("PUT", path, content=_json(body)), f"PUT {path}")

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        content: bytes = b"",
        content_type: str = "application/json",
    ) -> Response:
        """One request; an answer of 400 and over is raised as the error it names."""
        headers = {"content-type": content_type} if content else {}
        try:
            answer = await self._http.request(
                method, self.url + path + _query(query), headers=headers, body=content
            )
        except PeerUnavailable as error:
            silent = isinstance(error.__cause__, TimeoutError)
            raise PeerUnavailable(
                f"the {self.name} at {self.url} {'does not answer' if silent else 'cannot be reached'}; "
                f"is it running there? {self._flag} names another address",
                code="unreachable",
            ) from error
        if answer.status >= _ERROR_FROM:
            raise error_of(answer, f"{self.name}, {method} {path}")
        return answer

    def _decode(self, kind: type[T], answer: Response, what: str) -> T:
        return codec.decode(
            kind,
            answer.body,
            what=f"the {self.name}'s answer to {what}",
            limit_bytes=limits.HTTP_BODY_BYTES_MAX,
        )


def error_of(answer: Response, where: str) -> PropellerError:
    """The error that an answer of 400 and over stands for, with the server's message and code."""
    try:
        body = msgspec.json.decode(answer.body, type=_ErrorBody)
        message, code = body.error, body.code
    except msgspec.MsgspecError:
        text = answer.body[:_SHOWN_CHARS].decode(errors="replace").strip()
        message, code = f"{where} answered {answer.status}: {text or 'no reason given'}", None
    if answer.status in _OF_STATUS:
        return _OF_STATUS[answer.status](message, code=code)
    return PeerRefused(message, status=answer.status, code=code)


def part(value: str) -> str:
    """`value` as one segment of a path."""
    return quote(value, safe="")


def json_text(value: object) -> str:
    """Compact JSON for a query parameter."""
    return json.dumps(value, separators=(",", ":"))


def _json(body: object) -> bytes:
    return b"" if body is None else codec.encode(_given(body))


def _given(body: object) -> Any:
    """A request struct without the fields that were not given: absent and null differ on some routes."""
    if not isinstance(body, msgspec.Struct):
        return body
    fields = ((name, getattr(body, name)) for name in body.__struct_fields__)
    return {name: value for name, value in fields if value is not None}


def _query(query: Query | None) -> str:
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"?{urlencode(given)}" if given else ""
