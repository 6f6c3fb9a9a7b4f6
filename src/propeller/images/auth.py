"""Proving who we are to a registry: challenges are read, tokens are fetched and remembered.

Follows RFC 7235 for `WWW-Authenticate` and the Docker token protocol that every public registry speaks: a 401
names a realm, which trades a user name and password (or nothing, for public content) for a bearer token.
It must not know manifests or blobs. Passwords go only to a registry or realm that asked for them.
"""

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

import msgspec

from propeller import limits
from propeller.errors import DecodeError, Denied, PeerRefused
from propeller.images.reference import Reference
from propeller.images.web import Answer, Web, same_origin
from propeller.wire import codec

_ITEM = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_SCHEME = re.compile(r"([A-Za-z0-9-]+)(?:\s+|$)")
_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_TOKEN_BYTES_MAX = 64 * 1024
_UNAUTHORIZED = 401
_REFUSALS = (401, 403)

PULL = "pull"
PUSH = "pull,push"
DELETE = "delete"
CATALOGUE = "catalogue"
"""The list of repositories, which is no repository's."""
"""The actions of the token protocol that we ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A user name and password (or access token) for one registry."""

    username: str
    password: str = field(repr=False)

    def basic(self) -> str:
        """The value of an `Authorization` header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What a 401 asks for: `scheme` is `bearer` or `basic`."""

    scheme: str
    parameters: Mapping[str, str]


def read_challenge(header: str) -> Challenge | None:
    """The challenge of a `WWW-Authenticate` value; bearer before basic; None if it offers neither."""
    offered: dict[str, dict[str, str]] = {}
    scheme = ""
    for item in _ITEM.findall(header):
        text = item.strip()
        if begun := _SCHEME.match(text):
            scheme, text = begun[1].lower(), text[begun.end() :]
            offered.setdefault(scheme, {})
        if scheme and (found := _PARAMETER.fullmatch(text.strip())):
            value = re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3]
            offered[scheme][found[1].lower()] = value
    for wanted in ("bearer", "basic"):
        if wanted in offered:
            return Challenge(scheme=wanted, parameters=offered[wanted])
    return None


class _Token(msgspec.Struct, frozen=True, kw_only=True):
    token: str = ""
    access_token: str = ""


class Tokens:
    """The `Authorization` headers in use, by registry, repository and action (`PULL` or `PUSH`)."""

    def __init__(self, web: Web, credentials: Mapping[str, Credential]) -> None:
        self._web = web
        self._credentials = credentials
        self._held: dict[tuple[str, str, str], str] = {}

    def get(self, reference: Reference, action: str) -> str | None:
        """The header that worked last, if there is one."""
        return self._held.get((reference.registry, reference.repository, action))

    async def answer(self, reference: Reference, action: str, challenge_header: str) -> str:
        """Obtain the header that a 401 asked for. Raises `Denied`, `PeerUnavailable`, `PeerRefused`."""
        challenge = read_challenge(challenge_header)
        if challenge is None:
            raise Denied(
                f"registry {reference.registry} refuses without saying how to sign in", code="unauthorized"
            )
        header = await self._header_for(reference, action, challenge)
        if len(self._held) >= limits.OCI_TOKENS_MAX:
            self._held.clear()
        self._held[(reference.registry, reference.repository, action)] = header
        return header

    async def _header_for(self, reference: Reference, action: str, challenge: Challenge) -> str:
        credential = self._credentials.get(reference.registry)
        if challenge.scheme == "bearer":
            return await self._fetch(reference, action, challenge.parameters, credential)
        if credential is None:
            raise Denied(
                f"registry {reference.registry} wants a user name and password for {reference.repository}; "
                "none is configured for it",
                code="unauthorized",
            )
        return credential.basic()

    async def _fetch(
        self, reference: Reference, action: str, parameters: Mapping[str, str], credential: Credential | None
    ) -> str:
        realm = parameters.get("realm", "")
        own = "registry:catalog:*" if action == CATALOGUE else f"repository:{reference.repository}:{action}"
        scopes = {own, *parameters.get("scope", "").split()}
        query = [("scope", one) for one in sorted(scopes)]
        if service := parameters.get("service"):
            query.append(("service", service))
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        headers = {"authorization": credential.basic()} if credential is not None else {}
        self._web.check_next(self._web.base(reference.registry), url)
        answer = await self._web.request("GET", url, headers=headers, limit_bytes=_TOKEN_BYTES_MAX)
        if answer.response.status in _REFUSALS:
            raise Denied(
                f"{realm} refuses a token for {action} of {reference.repository}", code="unauthorized"
            )
        self._web.expect(answer, {200}, f"a token for {reference.repository} from {realm}")
        return "Bearer " + _token_of(answer.response.body, realm)


class Calls:
    """Requests to registries, with whatever authorization they ask for."""

    def __init__(self, web: Web, credentials: Mapping[str, Credential]) -> None:
        self._web = web
        self._tokens = Tokens(web, credentials)

    async def call(
        self,
        reference: Reference,
        action: str,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = limits.HTTP_TIMEOUT_S,
        limit_bytes: int = limits.HTTP_BODY_BYTES_MAX,
    ) -> Answer:
        """A request below the reference's repository; `path` begins with blobs, manifests or tags."""
        return await self.send(
            reference,
            action,
            method,
            f"{self._web.base(reference.registry)}/v2/{reference.repository}/{path}",
            headers=headers,
            body=body,
            timeout_s=timeout_s,
            limit_bytes=limit_bytes,
        )

    async def send(
        self,
        reference: Reference,
        action: str,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = limits.HTTP_TIMEOUT_S,
        limit_bytes: int = limits.HTTP_BODY_BYTES_MAX,
    ) -> Answer:
        """A request to any URL on the reference's behalf; only its own registry sees authorization.

        A 401 is answered once, as it asks. Raises as `Web.request`, and `Denied`.
        """

        async def once(sent: Mapping[str, str]) -> Answer:
            return await self._web.request(
                method, url, headers=sent, body=body, timeout_s=timeout_s, limit_bytes=limit_bytes
            )

        return await self.authorized(reference, action, url, headers or {}, once)

    async def authorized(
        self,
        reference: Reference,
        action: str,
        url: str,
        headers: Mapping[str, str],
        once: Callable[[Mapping[str, str]], Awaitable[Answer]],
    ) -> Answer:
        """As `send`, where `once(headers)` makes the request, again if the first is answered 401."""
        sent = dict(headers)
        ours = same_origin(url, self._web.base(reference.registry))
        if ours and (held := self._tokens.get(reference, action)) is not None:
            sent["authorization"] = held
        answer = await once(sent)
        if answer.response.status != _UNAUTHORIZED or not ours or not same_origin(url, answer.url):
            return answer
        asked = answer.response.headers.get("www-authenticate", "")
        sent["authorization"] = await self._tokens.answer(reference, action, asked)
        return await once(sent)


def _token_of(body: bytes, realm: str) -> str:
    try:
        found = codec.decode(_Token, body, what=f"the token answer of {realm}")
    except DecodeError as error:
        raise PeerRefused(error.message, code="bad_token") from error
    token = found.token or found.access_token
    if not token or not token.isascii() or not token.isprintable():
        raise PeerRefused(f"{realm} answered without a usable token", code="bad_token")
    return token
