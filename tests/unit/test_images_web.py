import json
from urllib.parse import parse_qs, urlsplit

import pytest

from propeller.errors import Denied, NotFound, PeerRefused, PeerUnavailable
from propeller.images.auth import PULL, Calls, Credential, read_challenge
from propeller.images.reference import Reference
from propeller.images.web import Web
from propeller.ports import Response

REFERENCE = Reference.parse("reg.example/a/b:v1")


class ScriptedHttp:
    """`ports.Http` that answers by a function of (method, url, headers) and remembers what was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    async def request(self, method, url, *, headers=None, body=b"", timeout_s=0, limit_bytes=0):
        """One scripted answer."""
        self.asked.append((method, url, dict(headers or {})))
        return self.answer(method, url, dict(headers or {}))


def redirect_to(*targets):
    """An `Http` whose answers lead through `targets` and end in 200."""
    left = list(targets)

    def answer(_method, _url, _headers):
        return Response(307, {"location": left.pop(0)}, b"") if left else Response(200, {}, b"there")

    return ScriptedHttp(answer)


@pytest.mark.parametrize(
    ("registry", "base"),
    [
        ("ghcr.io", "https://ghcr.io"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.9:5000", "http://127.0.0.9:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("reg.lan:5000", "http://reg.lan:5000"),
        ("reg.lan:5001", "https://reg.lan:5001"),
        ("host.lan:9", "http://host.lan:9"),
        ("127.0.0.1.evil.com", "https://127.0.0.1.evil.com"),
        ("localhost.evil.com", "https://localhost.evil.com"),
    ],
)
def test_plain_http_only_where_allowed(registry, base):
    """HTTPS is the default; loopback and the configured hosts, with or without a port, are plain HTTP."""
    assert Web(redirect_to(), {"reg.lan:5000", "Host.lan"}).base(registry) == base


async def test_redirects_are_followed_and_authorization_stays_behind():
    """A blob on an object store is fetched without the registry's token; the token survives on one origin."""
    http = redirect_to("/v2/other", "https://store.example/blob?sig=1")
    answer = await Web(http).request("GET", "https://reg.example/v2/x", headers={"authorization": "secret"})
    assert (answer.url, answer.response.body) == ("https://store.example/blob?sig=1", b"there")
    assert [headers.get("authorization") for _, _, headers in http.asked] == ["secret", "secret", None]


@pytest.mark.parametrize(
    "target",
    [
        "http://store.example/blob",
        "http://127.0.0.1:7070/tasks",
        "https://localhost/x",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "https://[bad/x",
        "https://host:99999/x",
        "",
    ],
)
async def test_redirects_that_are_not_followed(target):
    """From HTTPS to plain HTTP, from outside to this machine, to no web address, in a circle: refused."""
    start = "https://reg.example/v2/x"
    http = ScriptedHttp(lambda *_: Response(302, {"location": target}, b""))
    with pytest.raises(PeerRefused):
        await Web(http).request("GET", start, headers={})
    assert {url for _, url, _ in http.asked} == {start}


async def test_a_local_registry_may_redirect_locally():
    """A registry on this machine may send us to this machine."""
    http = redirect_to("http://127.0.0.1:9000/blob")
    assert (await Web(http).request("GET", "http://localhost:5000/v2/x", headers={})).response.status == 200


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Denied),
        (403, Denied),
        (404, NotFound),
        (429, PeerUnavailable),
        (500, PeerUnavailable),
        (503, PeerUnavailable),
        (400, PeerRefused),
        (418, PeerRefused),
    ],
)
async def test_statuses_as_errors(status, error):
    """What can heal by itself is `PeerUnavailable`; the registry's own words are in the message."""
    web = Web(ScriptedHttp(lambda *_: Response(status, {}, b"its own words")))
    answer = await web.request("GET", "https://reg.example/v2/x", headers={})
    with pytest.raises(error, match=r"the thing: reg\.example answered .* \(its own words\)"):
        web.expect(answer, {200}, "the thing")


@pytest.mark.parametrize(
    ("header", "scheme", "parameters"),
    [
        (
            'Bearer realm="https://auth/t",service="s",scope="repository:a/b:pull,push"',
            "bearer",
            {"realm": "https://auth/t", "service": "s", "scope": "repository:a/b:pull,push"},
        ),
        ('basic realm="x, Bearer y"', "basic", {"realm": "x, Bearer y"}),
        (
            'Basic realm="x", Bearer realm="https://t",error=invalid_token',
            "bearer",
            {"realm": "https://t", "error": "invalid_token"},
        ),
        ("Bearer", "bearer", {}),
    ],
)
def test_challenges(header, scheme, parameters):
    """RFC 7235 challenges are read, bearer first, commas and schemes within quotes left alone."""
    found = read_challenge(header)
    assert (found.scheme, found.parameters) == (scheme, parameters)


@pytest.mark.parametrize("header", ["", "Negotiate", 'Digest realm="x"'])
def test_unknown_challenges(header):
    """A scheme that we do not speak is no challenge that we can answer."""
    assert read_challenge(header) is None


class TokenRegistry:
    """A registry that wants a bearer token, and the realm that gives one for a password."""

    def __init__(self, realm="https://auth.example/token"):
        self.challenge = f'Bearer realm="{realm}",service="svc",scope="repository:a/b:pull"'
        self.token = "one"

    def __call__(self, _method, url, headers):
        """Answer as registry or as realm."""
        if "/token" in url:
            known = headers.get("authorization") == Credential(username="me", password="pw").basic()
            return Response(200, {}, json.dumps({"token": self.token}).encode()) if known else DENIED
        if headers.get("authorization") != f"Bearer {self.token}":
            return Response(401, {"www-authenticate": self.challenge}, b"")
        return Response(200, {}, b"content")


DENIED = Response(401, {}, b"")
MINE = {"reg.example": Credential(username="me", password="pw")}


async def test_bearer_token_is_fetched_once_and_renewed_when_it_ends():
    """A 401 names a realm; the password goes there only, the token is reused, an expired one replaced."""
    registry = TokenRegistry()
    http = ScriptedHttp(registry)
    calls = Calls(Web(http), MINE)
    for _ in range(2):
        answer = await calls.call(REFERENCE, PULL, "GET", "manifests/v1")
        assert answer.response.body == b"content"
    asked = [urlsplit(url) for _, url, _ in http.asked]
    assert [one.path for one in asked] == ["/v2/a/b/manifests/v1", "/token", *["/v2/a/b/manifests/v1"] * 2]
    assert parse_qs(asked[1].query) == {"scope": ["repository:a/b:pull"], "service": ["svc"]}
    assert not any("Basic" in str(headers) for _, url, headers in http.asked if "/token" not in url)
    registry.token = "two"
    assert (await calls.call(REFERENCE, PULL, "GET", "manifests/v1")).response.status == 200


async def test_wrong_or_no_password_is_denied():
    """A realm that refuses is `Denied`, not a loop."""
    http = ScriptedHttp(TokenRegistry())
    with pytest.raises(Denied, match="refuses a token for pull of a/b"):
        await Calls(Web(http), {}).call(REFERENCE, PULL, "GET", "manifests/v1")
    assert len(http.asked) == 2


async def test_basic_authentication():
    """A registry that wants Basic gets the password configured for it, or we say what is missing."""
    wanted = MINE["reg.example"].basic()

    def answer(_method, _url, headers):
        right = headers.get("authorization") == wanted
        return Response(200 if right else 401, {"www-authenticate": 'Basic realm="r"'}, b"")

    got = await Calls(Web(ScriptedHttp(answer)), MINE).call(REFERENCE, PULL, "GET", "tags/list")
    assert got.response.status == 200
    with pytest.raises(Denied, match="wants a user name and password"):
        await Calls(Web(ScriptedHttp(answer)), {}).call(REFERENCE, PULL, "GET", "tags/list")


@pytest.mark.parametrize("realm", ["http://auth.example/token", "https://127.0.0.1/token", "nonsense/token"])
async def test_realms_that_are_not_asked(realm):
    """A password is sent neither over plain HTTP, nor to this machine on a stranger's word."""
    http = ScriptedHttp(TokenRegistry(realm))
    with pytest.raises(PeerRefused):
        await Calls(Web(http), MINE).call(REFERENCE, PULL, "GET", "manifests/v1")
    assert len(http.asked) == 1


async def test_a_realm_that_answers_nonsense():
    """A realm's answer without a usable token is the peer's fault."""

    def answer(_method, url, _headers):
        if "/token" in url:
            return Response(200, {}, b'{"token":"a\\r\\nb"}')
        return Response(401, {"www-authenticate": 'Bearer realm="https://auth.example/token"'}, b"")

    with pytest.raises(PeerRefused, match="without a usable token"):
        await Calls(Web(ScriptedHttp(answer)), {}).call(REFERENCE, PULL, "GET", "manifests/v1")


def test_a_password_is_not_shown():
    """Credentials can be logged by accident without harm."""
    assert "pw" not in repr(MINE)
