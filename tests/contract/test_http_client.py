import asyncio
import contextlib

import pytest
from litestar import Request, Response, get, post, route

from propeller.errors import BadInput, PeerUnavailable, TooLarge
from propeller.http.client import AiohttpHttp
from propeller.http.listen import bind, port_of, serve
from propeller.http.memory import Fault, MemoryHttp
from propeller.http.server import create_app
from propeller.telemetry.metrics import RoleMetrics


class Handled:
    """What the application of this file saw, for the tests to look at."""

    def __init__(self):
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.release = asyncio.Event()


def make_app(handled):
    """An application that shows what arrived and misbehaves on demand."""

    @route("/echo", http_method=["GET", "POST", "PUT", "DELETE"])
    async def echo(request: Request) -> Response[bytes]:
        shown = f"{request.method} {request.url.path} {request.url.query} {request.headers.get('x-test')} "
        return Response(shown.encode() + await request.body(), media_type="text/plain", status_code=200)

    @get("/headers")
    async def headers() -> Response[bytes]:
        return Response(b"", headers={"X-Upper": "Yes", "Docker-Content-Digest": "sha256:1"}, status_code=202)

    @get("/away")
    async def away() -> Response[bytes]:
        return Response(b"", headers={"location": "/echo"}, status_code=307)

    @get("/big")
    async def big() -> Response[bytes]:
        return Response(bytes(1000), media_type="application/octet-stream")

    @post("/slow")
    async def slow() -> Response[bytes]:
        handled.started.set()
        await handled.release.wait()
        handled.ended.set()
        return Response(b"done")

    @get("/crash")
    async def crash() -> None:
        raise ZeroDivisionError

    return create_app("peer", [echo, headers, away, big, slow, crash], RoleMetrics("peer"), dict)


class World:
    """A client, an application it can reach, and a way to kill the application."""

    def __init__(self, http, origin, handled, kill):
        self.http, self.origin, self.handled, self.kill = http, origin, handled, kill

    async def ask(self, method, path, **options):
        """One request to the application."""
        return await self.http.request(method, self.origin + path, **options)


@contextlib.asynccontextmanager
async def over_sockets(handled):
    """The real client and a real server."""
    sock = bind("127.0.0.1", 0, "--port")
    origin = f"http://127.0.0.1:{port_of(sock)}"
    server = asyncio.create_task(serve(make_app(handled), sock))
    http = AiohttpHttp()

    async def kill():
        server.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await server

    yield World(http, origin, handled, kill)
    await http.close()
    handled.release.set()
    await kill()


@contextlib.asynccontextmanager
async def in_memory(handled):
    """The twin."""
    http = MemoryHttp()
    http.register("http://peer:80", make_app(handled))

    async def kill():
        http.unregister("http://peer")

    yield World(http, "http://peer", handled, kill)
    await http.close()


@pytest.fixture(params=[over_sockets, in_memory])
async def world(request):
    """Each client that promises `ports.Http`, with the same application behind it."""
    async with request.param(Handled()) as world:
        yield world


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_a_request_arrives_as_it_was_sent(world, method):
    """Method, path, query, headers and body reach the handler unchanged."""
    answer = await world.ask(method, "/echo?a=1&b=%20x", headers={"X-Test": "yes"}, body=b"\x00body")
    assert (answer.status, answer.body) == (200, f"{method} /echo a=1&b=%20x yes ".encode() + b"\x00body")


async def test_an_empty_body_and_no_headers_are_fine(world):
    """The least request works."""
    assert (await world.ask("GET", "/echo")).body == b"GET /echo  None "


async def test_header_names_are_lower_case(world):
    """The answer's headers are found by their lower-case names; any status is an answer."""
    answer = await world.ask("GET", "/headers")
    assert answer.status == 202
    assert answer.headers["x-upper"] == "Yes"
    assert answer.headers["docker-content-digest"] == "sha256:1"


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/crash", 500), ("/away", 307)])
async def test_errors_and_redirects_are_answers(world, path, status):
    """Nothing is raised or followed because of a status."""
    assert (await world.ask("GET", path)).status == status


async def test_an_answer_is_bounded(world):
    """An answer of exactly the limit is read; one byte less allowed, and it is too large."""
    assert len((await world.ask("GET", "/big", limit_bytes=1000)).body) == 1000
    with pytest.raises(TooLarge, match="999 bytes"):
        await world.ask("GET", "/big", limit_bytes=999)
    assert (await world.ask("GET", "/echo")).status == 200


async def test_a_large_body_passes_both_ways(world):
    """Megabytes arrive whole."""
    body = bytes(range(256)) * 20_000
    answer = await world.ask("POST", "/echo", body=body)
    assert answer.body.endswith(body)


async def test_a_timeout_names_the_url_and_the_handler_goes_on(world):
    """A peer that is slow is unavailable, retryable, and finishes what it began."""
    with pytest.raises(PeerUnavailable, match=r"/slow: no answer within 0\.05 s") as caught:
        await world.ask("POST", "/slow", timeout_s=0.05)
    assert world.origin in caught.value.message
    assert caught.value.retryable
    world.handled.release.set()
    async with asyncio.timeout(2):
        await world.handled.ended.wait()


async def test_nobody_there_is_unavailable(world):
    """A server that has gone is unavailable, with the URL named."""
    await world.kill()
    with pytest.raises(PeerUnavailable, match="/echo"):
        await world.ask("GET", "/echo")


async def test_a_server_that_dies_in_a_request_is_unavailable(world):
    """A request in progress when its server ends without answering raises."""
    asking = asyncio.create_task(world.ask("POST", "/slow"))
    async with asyncio.timeout(2):
        await world.handled.started.wait()
    async with asyncio.timeout(5):
        await world.kill()
        with pytest.raises(PeerUnavailable):
            await asking
    assert not world.handled.ended.is_set()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "echo",
        "ftp://peer/",
        "http://",
        "http:///x",
        "http://peer:99999/",
        "http://[::1/",
        "file:///etc/passwd",
    ],
)
async def test_what_is_no_url_is_bad_input(world, url):
    """A malformed or foreign URL is the caller's mistake, not the peer's."""
    with pytest.raises(BadInput):
        await world.http.request("GET", url)


async def test_a_header_with_a_line_break_is_refused(world):
    """Headers cannot smuggle further headers."""
    with pytest.raises(BadInput):
        await world.ask("GET", "/echo", headers={"x-test": "a\r\nx-evil: b"})


async def test_credentials_in_a_url_are_not_told(world):
    """An error about a URL shows neither its password nor its query."""
    await world.kill()
    url = world.origin.replace("://", "://me:hunter2@") + "/echo?token=hunter2"
    with pytest.raises(PeerUnavailable) as caught:
        await world.http.request("GET", url)
    assert "hunter2" not in caught.value.message


async def test_many_requests_at_once(world):
    """Concurrent requests are answered each with its own."""
    answers = await asyncio.gather(*(world.ask("POST", "/echo", body=str(n).encode()) for n in range(200)))
    assert [answer.body.rpartition(b" ")[2] for answer in answers] == [str(n).encode() for n in range(200)]


async def test_a_closed_client_is_unavailable(world):
    """After close no request goes out."""
    await world.http.close()
    with pytest.raises(PeerUnavailable):
        await world.ask("GET", "/echo")


@pytest.mark.parametrize(("lose", "was_handled"), [("request", False), ("response", True)])
async def test_lost_messages_before_and_after_the_handler(lose, was_handled):
    """A lost request never reaches the handler, a lost response did; the caller cannot tell."""
    handled = Handled()
    handled.release.set()
    http = MemoryHttp(lambda _method, _url: Fault(lose=lose))
    http.register("http://peer", make_app(handled))
    with pytest.raises(PeerUnavailable):
        await http.request("POST", "http://peer/slow")
    assert handled.ended.is_set() is was_handled
    await http.close()


async def test_late_messages_take_their_time():
    """Delays of both directions count against the caller's timeout."""
    http = MemoryHttp(lambda _method, url: Fault(request_s=0.01, response_s=10 if "x=late" in url else 0))
    http.register("http://peer", make_app(Handled()))
    assert (await http.request("GET", "http://peer/echo", timeout_s=5)).status == 200
    with pytest.raises(PeerUnavailable, match="no answer within"):
        await http.request("GET", "http://peer/echo?x=late", timeout_s=0.1)
    await http.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "what it answered is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "its answer broke off"),
        (b"", "it hung up before it had answered"),
        (None, "connection refused"),
    ],
)
async def test_what_came_in_between_is_said_in_plain_words(answer, says):
    """No library's own words for a peer that is not there, hangs up, breaks off, or speaks something else."""

    async def speak(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer or b"")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if answer is None:
        server.close()
        await server.wait_closed()
    http = AiohttpHttp()
    try:
        with pytest.raises(PeerUnavailable) as caught:
            await http.request("GET", f"http://127.0.0.1:{port}/x")
        assert caught.value.message == f"GET http://127.0.0.1:{port}/x: {says}"
    finally:
        await http.close()
        server.close()
