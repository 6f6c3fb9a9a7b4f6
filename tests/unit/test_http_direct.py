"""Direct routes answer as the framework answers for the same handlers, but for what costs the time."""

import msgspec
import pytest
from litestar import Request, Response, get, post
from litestar.params import FromPath, FromQuery

from propeller import limits
from propeller.errors import Bug, Conflict
from propeller.http.direct import DIRECT
from propeller.http.memory import MemoryHttp
from propeller.http.server import create_app, json_body
from propeller.telemetry.metrics import RoleMetrics


class Pet(msgspec.Struct, kw_only=True):
    """A body with a required field."""

    name: str
    legs: int = 4


def _routes(opt):
    @post("/pets", opt=opt)
    async def add(request: Request) -> Response[Pet]:
        pet = await json_body(request, Pet, "the pet")
        return Response(pet, status_code=201, headers={"Location": f"/pets/{pet.name}"})

    @post("/pets/{name:str}/feed", status_code=200, opt=opt)
    async def feed(name: FromPath[str], request: Request) -> Pet:
        if name == "full":
            raise Conflict("it has eaten", code="full")
        if name == "crash":
            raise ZeroDivisionError("of nobody's business")
        return Pet(name=name, legs=int(request.headers.get("x-legs", "4")))

    return [add, feed]


def _app(opt):
    metrics = RoleMetrics("keeper")
    return create_app("keeper", _routes(opt), metrics, dict), metrics


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "body"),
    [
        ("POST", "/pets", JSON, b'{"name": "rex"}'),
        ("POST", "/pets", {}, b'{"name": "rex", "legs": 3}'),
        ("POST", "/pets", JSON, b'{"legs": 3}'),
        ("POST", "/pets", JSON, b'{"name": "a", "name": "b"}'),
        ("POST", "/pets", JSON, b""),
        ("POST", "/pets", {"Content-Type": "text/plain"}, b"{}"),
        ("POST", "/pets/", JSON, b'{"name": "rex"}'),
        ("POST", "/pets/rex/feed", {"X-Legs": "3"}, b""),
        ("POST", "/pets/r%C3%A9x/feed", {}, b""),
        ("POST", "/pets/full/feed", {}, b""),
        ("POST", "/pets/crash/feed", {}, b""),
        ("POST", "/pets//feed", {}, b""),
        ("POST", "/pets/a/b/feed", {}, b""),
        ("GET", "/pets/rex/feed", {}, b""),
        ("DELETE", "/pets", {}, b""),
    ],
)
async def test_the_answer_is_the_frameworks(method, path, headers, body):
    """Status, body, type and place are the same, and so is the route under which the request is counted."""
    seen = []
    for opt in ({}, DIRECT):
        app, metrics = _app(opt)
        http = MemoryHttp()
        http.register("http://role:1", app)
        answer = await http.request(method, f"http://role:1{path}", headers=headers, body=body)
        told = {name: answer.headers.get(name) for name in ("content-type", "location", "content-length")}
        counted = [line for line in metrics.render().decode().splitlines() if "requests_total{" in line]
        seen.append((answer.status, answer.body, told, counted))
        await http.close()
    assert seen[0] == seen[1]


async def _asked(scope, received):
    """What an application sends for these messages from a client."""
    app, _ = _app(DIRECT)
    sent = []
    waiting = iter(received)

    async def receive():
        return next(waiting)

    async def send(message):
        sent.append(message)

    whole = {"type": "http", "method": "POST", "path": "/pets", "query_string": b"", "headers": [], **scope}
    await app(whole, receive, send)
    return sent


async def test_a_body_that_breaks_off_is_no_body():
    """A client that hangs up in the middle has asked for nothing."""
    half = {"type": "http.request", "body": b'{"name": "rex"}', "more_body": True}
    sent = await _asked({}, [half, {"type": "http.disconnect"}])
    assert sent[0]["status"] == 400
    assert b"disconnected" in sent[1]["body"]


async def test_a_body_that_is_announced_too_long_is_not_read():
    """Nothing is received of it before it is refused."""
    length = str(limits.HTTP_BODY_BYTES_MAX + 1).encode()
    sent = await _asked({"headers": [(b"content-length", length)]}, [])
    assert sent[0]["status"] == 413


async def test_a_route_that_takes_more_cannot_be_direct():
    """A handler with a parameter that only the framework reads is refused when the application is made."""

    @get("/pets", opt=DIRECT)
    async def odd(limit: FromQuery[int] = 1) -> Pet:
        return Pet(name=str(limit))

    with pytest.raises(Bug, match="cannot be direct"):
        create_app("keeper", [odd], RoleMetrics("keeper"), dict)
