"""One call to one role over HTTP: typed answers in, the error tree out. It must not know any route."""

import asyncio
import codecs
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
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
from propeller.ports import HttpStreams, Response
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
_POLL_S_MAX = 1.0
_PIECES_MAX = 64
"""Pieces of a followed text that wait for their reader; then the server waits."""
_FOLLOW_S = 7 * 86_400.0
"""A text is followed for a week at most."""


class _ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    error: str
    code: str | None = None


class Role:
    """One role at one base URL. `flag` is the option of the command line that changes the URL."""

    def __init__(self, http: HttpStreams, name: str, url: str, flag: str) -> None:
        self._http = http
        self.name = name
        self.url = url.rstrip("/")
        self._flag = flag

    async def get(self, kind: type[T], path: str, query: Query | None = None) -> T:
        """`GET` whose answer is a `kind`."""
        return self._decode(kind, await self.send("GET", path, query=query), f"GET {path}")

    async def post(
        self, kind: type[T], path: str, body: object = None, *, timeout_s: float = limits.HTTP_TIMEOUT_S
    ) -> T:
        """`POST` of JSON (nothing if None) whose answer is a `kind`."""
        answer = await self.send("POST", path, content=_json(body), timeout_s=timeout_s)
        return self._decode(kind, answer, f"POST {path}")

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
        timeout_s: float = limits.HTTP_TIMEOUT_S,
    ) -> Response:
        """One request; an answer of 400 and over is raised as the error it names."""
        headers = {"content-type": content_type} if content else {}
        try:
            answer = await self._http.request(
                method, self.url + path + _query(query), headers=headers, body=content, timeout_s=timeout_s
            )
        except PeerUnavailable as error:
            raise self._unreachable(error) from error
        if answer.status >= _ERROR_FROM:
            raise self._refused(answer, method, path)
        return answer

    async def text(self, path: str, *, query: Query | None = None) -> AsyncIterator[str]:
        """`GET` of text that comes as long as there is some: each piece as it comes, of whole characters."""
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES_MAX)

        async def read() -> Response:
            try:
                return await self._http.stream(
                    "GET", self.url + path + _query(query), sink=pieces.put, timeout_s=_FOLLOW_S
                )
            finally:
                await pieces.put(None)

        reading = asyncio.create_task(read())
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            while (piece := await pieces.get()) is not None:
                yield decoder.decode(piece)
            answer = await reading
        except PeerUnavailable as error:
            raise self._unreachable(error) from error
        finally:
            reading.cancel()
        if answer.status >= _ERROR_FROM:
            raise error_of(answer, f"{self.name}, GET {path}")

    def _unreachable(self, error: PeerUnavailable) -> PeerUnavailable:
        if isinstance(error.__cause__, TimeoutError):
            what = "does not answer"
        else:
            what = f"cannot be reached ({error.message.partition(': ')[2] or error.message})"
        return PeerUnavailable(
            f"the {self.name} at {self.url} {what}; is it running there? {self._flag} names another address",
            code="unreachable",
        )

    def _refused(self, answer: Response, method: str, path: str) -> PropellerError:
        refused = error_of(answer, f"{self.name}, {method} {path}")
        if not (isinstance(refused, NotFound) and refused.message.endswith("no such path")):
            return refused
        return NotFound(
            f"{self.url} has no {path}; is the {self.name} there? {self._flag} names another address",
            code="not_that_role",
        )

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


async def changes(
    look: Callable[[], Awaitable[T]],
    over: Callable[[T], bool],
    *,
    what: str,
    timeout_s: float,
    pause_s: float = 0.1,
) -> AsyncIterator[T]:
    """What `look` finds now and each time it finds something else, until that is `over`.

    Looks again after `pause_s`, then at growing intervals up to a second. Raises `PeerUnavailable`
    (`timeout`) if it is not over within `timeout_s`; `what` names it.
    """
    loop, wait_s, seen = asyncio.get_running_loop(), pause_s, None
    deadline_s = loop.time() + timeout_s
    while True:
        found = await look()
        if found != seen:
            yield found
            seen, wait_s = found, pause_s
        if over(found):
            return
        if loop.time() >= deadline_s:
            says = getattr(found, "reason", "") or ""
            why = f"; it waits: {says}" if says else ""
            raise PeerUnavailable(f"{what} has not ended within {timeout_s:g} s{why}", code="timeout")
        await asyncio.sleep(wait_s)
        wait_s = min(_POLL_S_MAX, wait_s * 1.5)


def part(value: str) -> str:
    """`value` as one segment of a path. Raises `BadInput` for what a server would take for another path."""
    if value in {"", ".", ".."}:
        raise BadInput(f"{value!r} is no id and no name")
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
