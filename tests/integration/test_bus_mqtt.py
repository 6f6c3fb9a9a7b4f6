"""The MQTT client against brokers that are not there, do not answer, or change their mind."""

import asyncio
import contextlib
import gc
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from broker_hubs import free_port, need_mosquitto
from propeller.broker.credentials import CredentialStore
from propeller.broker.embedded import EmbeddedBroker
from propeller.broker.principals import Kind
from propeller.bus.mqtt import MqttBus
from propeller.ports import BusSession, Message

TOPIC = "m/dom/c/ch/control/proplet/alive/p1"
SESSION = BusSession(subscriptions=())


def _bus(
    port: int, key: str = "key", *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> MqttBus:
    return MqttBus(host, port, "p1", key, "p1", random=Random(1), tls=tls)  # noqa: S311 - backoff


async def _ignore(_message: Message) -> None:
    """A handler for clients that hear nothing."""


async def _cancel(run: "asyncio.Task[None]") -> None:
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def test_a_broker_that_never_answers_does_not_hold_a_stop_up() -> None:
    """Cancelled while it waits for a CONNACK in vain, the client is gone at once, socket and all."""
    held: list[asyncio.StreamWriter] = []
    came = asyncio.Event()

    async def swallow(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        came.set()

    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    bus = _bus(silent.sockets[0].getsockname()[1])
    run = asyncio.create_task(bus.run(SESSION, _ignore))
    await came.wait()
    assert not bus.connected
    assert not await bus.publish(Message(TOPIC, b"x"))
    async with asyncio.timeout(3):
        await _cancel(run)
    for writer in held:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    silent.close()
    await silent.wait_closed()
    gc.collect()


async def test_an_absent_broker_is_waited_for(tmp_path: Path) -> None:
    """With nobody listening the client keeps trying without an error, and is there once the broker is."""
    store = CredentialStore.create(tmp_path, "dom", "ch")
    key = store.add(Kind.PROPLET, "p1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    greeted = asyncio.Event()

    async def greet() -> None:
        greeted.set()

    bus = _bus(port, key)
    run = asyncio.create_task(bus.run(SESSION, _ignore, greet))
    await asyncio.sleep(0.3)
    assert not run.done()
    assert not bus.connected
    async with EmbeddedBroker(store, port=port), asyncio.timeout(10):
        await greeted.wait()
        assert await bus.publish(Message(TOPIC, b"x"))
        await _cancel(run)
    assert bus.reconnects == 0


async def test_a_publish_in_flight_ends_with_its_connection() -> None:
    """A publish whose acknowledgement cannot come any more says False at once, not after its timeout."""
    inside: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def half_a_broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x02\0\0")
        inside.put_nowait(writer)

    server = await asyncio.start_server(half_a_broker, "127.0.0.1", 0)
    greeted = asyncio.Event()

    async def greet() -> None:
        greeted.set()

    bus = _bus(server.sockets[0].getsockname()[1])
    run = asyncio.create_task(bus.run(SESSION, _ignore, greet))
    await greeted.wait()
    publishing = asyncio.create_task(bus.publish(Message(TOPIC, b"x")))
    await asyncio.sleep(0.1)
    assert not publishing.done()
    (await inside.get()).close()
    async with asyncio.timeout(3):
        assert await publishing is False
    server.close()
    await _cancel(run)
    while not inside.empty():
        inside.get_nowait().close()
    await server.wait_closed()


async def test_a_denial_after_the_first_connection_is_an_outage(tmp_path: Path) -> None:
    """Whose credentials are withdrawn on the way keeps trying, and is back when they are."""
    store = CredentialStore.create(tmp_path, "dom", "ch")
    key = store.add(Kind.PROPLET, "p1")
    greetings: asyncio.Queue[None] = asyncio.Queue()

    async def greet() -> None:
        greetings.put_nowait(None)

    async with EmbeddedBroker(store, port=0) as broker, asyncio.timeout(20):
        bus = _bus(broker.port, key)
        run = asyncio.create_task(bus.run(SESSION, _ignore, greet))
        await greetings.get()
        store.remove("p1")
        while bus.connected or not broker.traffic.refused:  # noqa: ASYNC110 - a counter tells nobody
            await asyncio.sleep(0.05)
        assert not run.done()
        store.add(Kind.PROPLET, "p1", key)
        await greetings.get()
        assert bus.reconnects == 1
        await _cancel(run)


async def test_small_packets_are_not_held_back(tmp_path: Path) -> None:
    """TCP_NODELAY is set: without it, an acknowledged publish stalls for 40 ms."""
    store = CredentialStore.create(tmp_path, "dom", "ch")
    greeted = asyncio.Event()

    async def greet() -> None:
        greeted.set()

    async with EmbeddedBroker(store, port=0) as broker:
        bus = _bus(broker.port, store.add(Kind.PROPLET, "p1"))
        run = asyncio.create_task(bus.run(SESSION, _ignore, greet))
        await greeted.wait()
        assert bus._link
        assert bus._link.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await _cancel(run)


def _certificate(folder: Path) -> None:
    """A certificate for `localhost`, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("missing Debian package: openssl")
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "key.pem").chmod(0o644)


@contextlib.asynccontextmanager
async def _mosquitto_with_tls(folder: Path) -> AsyncIterator[int]:
    """The port of a broker that speaks TLS alone."""
    need_mosquitto()
    _certificate(folder)
    port = free_port()
    (folder / "m.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n"
        f"certfile {folder}/cert.pem\nkeyfile {folder}/key.pem\n"
    )
    program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin") or "mosquitto"
    process = await asyncio.create_subprocess_exec(
        program, "-c", str(folder / "m.conf"), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.terminate()
        await process.wait()


async def test_a_broker_with_tls(tmp_path: Path) -> None:
    """Messages of any size come through; a certificate that nobody vouches for is not taken."""
    async with _mosquitto_with_tls(tmp_path) as port:
        heard: asyncio.Queue[Message] = asyncio.Queue()
        trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        bus = _bus(port, host="localhost", tls=trusting)
        run = asyncio.create_task(bus.run(BusSession(subscriptions=("a/#",)), heard.put))
        async with asyncio.timeout(20):
            while not await bus.publish(Message("a/b", b"x")):  # noqa: ASYNC110 - a client sets no event
                await asyncio.sleep(0.02)
            assert (await heard.get()).payload == b"x"
            for size in (1, 900_000):
                assert await bus.publish(Message("a/b", b"x" * size))
                assert len((await heard.get()).payload) == size
        await _cancel(run)
        wary = _bus(port, host="localhost", tls=ssl.create_default_context())
        run = asyncio.create_task(wary.run(SESSION, _ignore))
        await asyncio.sleep(1)
        assert not wary.connected
        await _cancel(run)
        gc.collect()
