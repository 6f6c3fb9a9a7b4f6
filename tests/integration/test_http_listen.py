import asyncio
import contextlib
import json
import signal
import time

import pytest
from litestar import Request, get, post
from litestar.params import FromQuery

from propeller import limits
from propeller.errors import BadInput, PortInUse
from propeller.http.client import AiohttpHttp
from propeller.http.listen import bind, port_of, serve
from propeller.http.server import create_app
from propeller.telemetry.metrics import RoleMetrics


@post("/echo")
async def echo(request: Request) -> dict[str, int]:
    """How much arrived."""
    return {"bytes": len(await request.body())}


@get("/slow")
async def slow(seconds: FromQuery[float]) -> dict[str, float]:
    """Answers late."""
    await asyncio.sleep(seconds)
    return {"seconds": seconds}


@contextlib.asynccontextmanager
async def running(role="role", handlers=(echo,), **options):
    """A server on a free port; gives its port and its task."""
    sock = bind("127.0.0.1", 0, "--port")
    app = create_app(role, handlers, RoleMetrics(role), lambda: {"role": role})
    task = asyncio.create_task(serve(app, sock, **options))
    try:
        yield port_of(sock), task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def talk(port, *pieces, pause=0.0):
    """Send raw bytes on a new connection and return everything that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def test_a_taken_port_is_one_clear_line():
    """The message names the port and the flag that changes it."""
    first = bind("127.0.0.1", 0, "--manager-port")
    port = port_of(first)
    with pytest.raises(PortInUse) as caught:
        bind("127.0.0.1", port, "--manager-port")
    first.close()
    assert (
        caught.value.message
        == f"port {port} on 127.0.0.1 is already in use; choose another with --manager-port PORT"
    )
    bind("127.0.0.1", port, "--manager-port").close()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a" * 300])
def test_a_host_that_is_not_ours_is_bad_input(host):
    """A name or address of another machine is refused with a clear message."""
    with pytest.raises(BadInput, match="cannot listen on host"):
        bind(host, 0, "--port")


def test_localhost_means_ipv4():
    """The published commands reach 127.0.0.1 by this name."""
    sock = bind("localhost", 0, "--port")
    assert sock.getsockname()[0] == "127.0.0.1"
    sock.close()


async def test_several_servers_share_a_loop_and_leave_signals_alone():
    """Each role answers for itself, and the process's handlers are as they were."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    http = AiohttpHttp()
    async with running("red") as (red, _), running("blue") as (blue, _):
        for port, role in ((red, "red"), (blue, "blue")):
            answer = await http.request("GET", f"http://127.0.0.1:{port}/health")
            assert json.loads(answer.body)["role"] == role
            assert "date" in answer.headers
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    await http.close()


async def test_a_client_may_connect_before_the_server_runs():
    """From bind on, a request waits instead of being refused."""
    sock = bind("127.0.0.1", 0, "--port")
    http = AiohttpHttp()
    asking = asyncio.create_task(http.request("GET", f"http://127.0.0.1:{port_of(sock)}/health"))
    await asyncio.sleep(0.05)
    task = asyncio.create_task(serve(create_app("late", [], RoleMetrics("late"), dict), sock))
    assert (await asking).status == 200
    await http.close()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelling_lets_a_request_end():
    """A request in progress is answered after the server was told to stop; the port is free then."""
    http = AiohttpHttp()
    async with running(handlers=[slow]) as (port, task):
        asking = asyncio.create_task(http.request("GET", f"http://127.0.0.1:{port}/slow?seconds=0.5"))
        await asyncio.sleep(0.1)
        task.cancel()
        assert (await asking).status == 200
        with pytest.raises(asyncio.CancelledError):
            await task
        bind("127.0.0.1", port, "--port").close()
    await http.close()


async def test_stopping_an_idle_server_is_quick():
    """Open keep-alive connections do not hold a server up."""
    http = AiohttpHttp()
    async with running() as (port, task):
        await http.request("GET", f"http://127.0.0.1:{port}/health")
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 1
    await http.close()


async def test_small_requests_do_not_wait_for_each_other():
    """Sequential requests on one connection take far less than the 40 ms of a delayed acknowledgement."""
    http = AiohttpHttp()
    async with running() as (port, _):
        url = f"http://127.0.0.1:{port}/echo"
        await http.request("POST", url, body=b"x")
        started = time.monotonic()
        for _ in range(20):
            await http.request("POST", url, body=b"x" * 3000)
        assert time.monotonic() - started < 20 * 0.04
    await http.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00" * 4,
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=range(7),
)
async def test_what_is_no_http_is_400_or_nothing(garbage):
    """Bytes that are no request are refused at once, and the next client is served."""
    async with running() as (port, _):
        answer = await talk(port, garbage)
        assert answer.startswith(b"HTTP/1.1 400") or answer == b""
        assert b"200 OK" in await talk(port, b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")


async def test_an_endless_head_is_cut():
    """Headers without end are refused once they pass the bound, in our error shape."""
    async with running() as (port, _):
        answer = await talk(port, b"GET / HTTP/1.1\r\nX: ", *[b"x" * 20_000] * 20, pause=0.001)
        assert answer == b"" or json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "bad_request"


async def test_slow_connections_are_closed_and_others_served():
    """Nothing, half a head or half a body is cut off after the bound; a body that keeps coming is not."""
    async with running(stall_s=0.3) as (port, _):
        post_head = b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 10\r\n\r\n"
        silent, head, body, steady = await asyncio.gather(
            talk(port),
            talk(port, b"GET / HT"),
            talk(port, post_head + b"123"),
            talk(port, post_head, *[b"x"] * 10, pause=0.1),
        )
    assert (silent, head) == (b"", b"")
    assert b"201" not in body
    assert steady.endswith(b'{"bytes":10}')


async def test_a_body_over_the_limit_is_refused_before_it_is_sent():
    """The announced length alone is enough for 413."""
    async with running() as (port, _):
        length = limits.HTTP_BODY_BYTES_MAX + 1
        head = f"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        answer = await talk(port, head.encode())
        assert answer.startswith(b"HTTP/1.1 413")


async def test_five_hundred_slow_connections_hold_up_nobody():
    """Each says a byte of its head now and then; a client beside them is answered all the while (A3)."""
    async with running(stall_s=2.0) as (port, _), contextlib.AsyncExitStack() as stack:
        writers = []
        for _ in range(500):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.transport.abort)
            writer.write(b"GET /health HTTP/1.1\r\nX-Slow: ")
            writers.append(writer)
        http = AiohttpHttp()
        stack.push_async_callback(http.close)
        answered = 0
        async with asyncio.timeout(60):
            while not all(writer.transport.is_closing() for writer in writers):
                for writer in writers:
                    writer.write(b"x")
                response = await http.request("GET", f"http://127.0.0.1:{port}/health")
                answered += response.status == 200
                await asyncio.sleep(0.05)
        assert answered > 5, "all slow ones were cut off before anybody else was served"
