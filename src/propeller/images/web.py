"""Requests as registries need them: plain HTTP only where allowed, safe redirects, statuses as our errors.

It must not know manifests, blobs or tokens. A registry may send a client elsewhere (blobs on an object
store, a token realm), so every step away is checked: never from HTTPS to plain HTTP, never from outside to
this machine.
"""

import ipaddress
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from propeller import limits
from propeller.errors import Denied, NotFound, PeerRefused, PeerUnavailable, PropellerError
from propeller.ports import Http, Response

_REDIRECTS = (301, 302, 303, 307, 308)
_LATER = (408, 425, 429)
_SERVER_ERRORS = range(500, 600)
_SHOWN_BYTES = 300


class Answer(NamedTuple):
    """A response and the URL that gave it, after redirects."""

    url: str
    response: Response


class Web:
    """An `Http` with the rules of this room. `insecure`: each `host[:port]` allowed over plain HTTP."""

    def __init__(self, http: Http, insecure: Collection[str] = ()) -> None:
        self._http = http
        self._insecure = frozenset(one.lower() for one in insecure)

    def base(self, registry: str) -> str:
        """The root URL of a registry: plain HTTP on loopback and for the allowed ones, else HTTPS."""
        plain = self._is_plain(urlsplit(f"//{registry}"))
        return f"{'http' if plain else 'https'}://{registry}"

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        timeout_s: float = limits.HTTP_TIMEOUT_S,
        limit_bytes: int = limits.HTTP_BODY_BYTES_MAX,
    ) -> Answer:
        """One request, following redirects of GET and HEAD; `authorization` stays with the first origin.

        Raises `PeerUnavailable`, `TooLarge`, and `PeerRefused` for a redirect that is not followed.
        """

        async def once(to: str, sent: Mapping[str, str]) -> Response:
            return await self._http.request(
                method, to, headers=sent, body=body, timeout_s=timeout_s, limit_bytes=limit_bytes
            )

        return await self.followed(method, url, headers, once)

    async def followed(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        once: Callable[[str, Mapping[str, str]], Awaitable[Response]],
    ) -> Answer:
        """As `request`, where `once(url, headers)` makes each single request."""
        # Bytes are named by the digest of what the registry stores, so no transfer encoding may alter them.
        sent = {**headers, "accept-encoding": "identity"}
        for _ in range(limits.OCI_REDIRECTS_MAX + 1):
            response = await once(url, sent)
            if response.status not in _REDIRECTS or method not in {"GET", "HEAD"}:
                return Answer(url, response)
            following = join(url, response.headers.get("location", ""))
            self.check_next(url, following)
            if not same_origin(url, following):
                sent.pop("authorization", None)
            url = following
        raise PeerRefused(
            f"{url} is redirected more than {limits.OCI_REDIRECTS_MAX} times", code="bad_redirect"
        )

    def check_next(self, url: str, following: str) -> None:
        """Raise `PeerRefused` unless an answer from `url` may send us to `following`."""
        here, there = urlsplit(url), urlsplit(following)
        if there.scheme not in {"http", "https"} or not there.hostname:
            raise PeerRefused(
                f"{url} sends us to {following[:_SHOWN_BYTES]!r}, no web address", code="bad_redirect"
            )
        if same_origin(url, following):
            return
        if there.scheme == "http" and here.scheme == "https" and not self._is_plain(there):
            raise PeerRefused(f"{url} sends us to plain HTTP at {there.netloc}", code="bad_redirect")
        if _is_local(there) and not _is_local(here):
            raise PeerRefused(
                f"{url} sends us to an address of this machine, {there.netloc}", code="bad_redirect"
            )

    @staticmethod
    def expect(answer: Answer, statuses: Collection[int], what: str) -> Response:
        """Return the response if its status is one of `statuses`, else raise the error it stands for."""
        if answer.response.status in statuses:
            return answer.response
        raise _error_of(answer, what)

    def _is_plain(self, parts: SplitResult) -> bool:
        host = (parts.hostname or "").lower()
        return _is_loopback(host) or host in self._insecure or parts.netloc.lower() in self._insecure


def join(url: str, location: str) -> str:
    """What a `Location` of an answer from `url` means. Raises `PeerRefused` if it means nothing."""
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise PeerRefused(f"{url} sends us to {location[:_SHOWN_BYTES]!r}", code="bad_redirect") from error


def same_origin(one: str, other: str) -> bool:
    """Whether two URLs share scheme, host and port (RFC 6454)."""
    return _origin(one) == _origin(other)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = _split(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _split(url: str) -> SplitResult:
    """The parts of a URL that another machine wrote, ports and brackets checked too."""
    try:
        parts = urlsplit(url)
        lawful = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        lawful = False
    if not lawful:
        raise PeerRefused(f"{url[:_SHOWN_BYTES]!r} is no web address", code="bad_redirect")
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_local(parts: SplitResult) -> bool:
    """Loopback, or link-local, where clouds keep the credentials of a machine."""
    host = (parts.hostname or "").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _is_loopback(host)
    return address.is_loopback or address.is_link_local or address.is_unspecified


def _said(body: bytes) -> str:
    """What an error's body says to people: the message of OCI's errors, else its beginning."""
    try:
        said = json.loads(body)["errors"][0]
        return str(said.get("message") or said["code"])[:_SHOWN_BYTES]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return body[:_SHOWN_BYTES].decode("utf-8", "replace")


def _error_of(answer: Answer, what: str) -> PropellerError:
    status = answer.response.status
    said = _said(answer.response.body)
    message = f"{what}: {urlsplit(answer.url).netloc} answered {status}{f' ({said})' if said else ''}"
    if status in {401, 403}:
        return Denied(message)
    if status in {404, 410}:
        return NotFound(message)
    if status in _LATER or status in _SERVER_ERRORS:
        return PeerUnavailable(message)
    return PeerRefused(message, status=status)
