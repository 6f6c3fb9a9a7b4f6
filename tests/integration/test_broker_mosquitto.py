"""The Mosquitto that we configure and run: its life, its credentials, its memory."""

import asyncio
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from broker_hubs import free_port
from propeller.broker.credentials import CredentialStore
from propeller.broker.mosquitto import MosquittoProcess, acl_text, configuration_text
from propeller.broker.principals import Kind
from propeller.bus.mqtt import MqttBus
from propeller.errors import Denied, EnvironmentError_, PortInUse
from propeller.ports import BusSession, Message

SBIN = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"


def _need(program: str, package: str) -> str:
    found = shutil.which(program, path=SBIN)
    if not found:
        pytest.skip(f"missing Debian package: {package}")
    return found


@pytest.fixture
def store(tmp_path: Path) -> CredentialStore:
    """An empty store."""
    _need("mosquitto", "mosquitto")
    return CredentialStore.create(tmp_path / "credentials", "dom", "ch")


@pytest.fixture
async def mosquitto(store: CredentialStore, tmp_path: Path) -> AsyncIterator[MosquittoProcess]:
    """A running Mosquitto that keeps its retained messages."""
    process = MosquittoProcess(
        store, tmp_path / "mosquitto", port=free_port(), persistence=tmp_path / "kept", autosave_s=1
    )
    async with process:
        yield process


async def _first(process: MosquittoProcess, name: str, key: str, *filters: str) -> Message | None:
    """Connect, and return the first message heard, or None at once if there is nothing to listen to."""
    bus = MqttBus("127.0.0.1", process.port, name, key, name, random=Random(1))  # noqa: S311 - backoff
    heard: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()

    async def on_message(message: Message) -> None:
        if not heard.done():
            heard.set_result(message)

    async def on_connect() -> None:
        if not filters:
            heard.set_result(None)

    run = asyncio.create_task(bus.run(BusSession(subscriptions=filters), on_message, on_connect))
    try:
        async with asyncio.timeout(10):
            await asyncio.wait({run, heard}, return_when=asyncio.FIRST_COMPLETED)
            if run.done():
                await run
            return await heard
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


async def test_it_accepts_who_is_added_after_a_reload(
    store: CredentialStore, mosquitto: MosquittoProcess
) -> None:
    """A new principal gets in after a reload without a restart, and a removed one no longer."""
    key = store.add(Kind.PROPLET, "p1")
    with pytest.raises(Denied):
        await _first(mosquitto, "p1", key)
    mosquitto.reload()
    await _until_reloaded(mosquitto, "p1", key)
    store.remove("p1")
    mosquitto.reload()
    assert await _shut_out(mosquitto, "p1", key)


async def _shut_out(mosquitto: MosquittoProcess, name: str, key: str) -> bool:
    """Whether the principal is refused within two seconds."""
    for _ in range(100):
        try:
            await _first(mosquitto, name, key)
        except Denied:
            return True
        await asyncio.sleep(0.02)
    return False


async def _until_reloaded(mosquitto: MosquittoProcess, name: str, key: str) -> None:
    """Mosquitto takes a signal when it likes; a second is plenty."""
    for _ in range(50):
        try:
            await _first(mosquitto, name, key)
        except Denied:
            await asyncio.sleep(0.02)
        else:
            return
    pytest.fail("the reload was not noticed")


async def test_retained_messages_outlive_even_a_kill(
    store: CredentialStore, mosquitto: MosquittoProcess, tmp_path: Path
) -> None:
    """With persistence, a retained message survives, as it does in the embedded broker."""
    keys = {"c1": store.add(Kind.COORDINATOR, "c1"), "p1": store.add(Kind.PROPLET, "p1")}
    mosquitto.reload()
    await _until_reloaded(mosquitto, "c1", keys["c1"])
    bus = MqttBus("127.0.0.1", mosquitto.port, "c1", keys["c1"], "c1", random=Random(1))  # noqa: S311 - backoff
    kept = Message("m/dom/c/ch/fl/models/v1", b"model", retain=True)

    async def publish() -> None:
        assert await bus.publish(kept)
        published.set()

    async def ignore(_message: Message) -> None:
        pass

    published = asyncio.Event()
    run = asyncio.create_task(bus.run(BusSession(subscriptions=()), ignore, publish))
    await published.wait()
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    await _kill_once_saved(mosquitto, tmp_path / "kept")
    async with MosquittoProcess(
        store, tmp_path / "again", port=free_port(), persistence=tmp_path / "kept"
    ) as again:
        assert await _first(again, "p1", keys["p1"], "m/dom/c/ch/fl/models/#") == kept


def _saved(kept: Path) -> bool:
    return any(b"fl/models/v1" in file.read_bytes() for file in kept.glob("*.db"))


async def _kill_once_saved(mosquitto: MosquittoProcess, kept: Path) -> None:
    async with asyncio.timeout(5):
        # Another process writes it, and may have saved before there was anything to save.
        while not _saved(kept):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert mosquitto._process
    mosquitto._process.kill()
    await mosquitto.stop()


async def test_a_taken_port_is_one_clear_line(store: CredentialStore, tmp_path: Path) -> None:
    """The message names the port and the flag, though it is Mosquitto that found it taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = MosquittoProcess(store, tmp_path / "mosquitto", port=port, flag="--broker-port")
        with pytest.raises(PortInUse, match=rf"port {port} .*--broker-port"):
            await process.start()


async def test_reloading_what_does_not_run_is_an_error(store: CredentialStore, tmp_path: Path) -> None:
    """A reload that reaches nobody says so."""
    process = MosquittoProcess(store, tmp_path / "mosquitto", port=free_port())
    with pytest.raises(EnvironmentError_, match="not running"):
        process.reload()


def test_the_configuration_admits_nobody_anonymous(store: CredentialStore, tmp_path: Path) -> None:
    """The lines on which security hangs are there, once."""
    lines = configuration_text(store, tmp_path, host="127.0.0.1", port=1, persistence=None).splitlines()
    for line in ("allow_anonymous false", "use_username_as_clientid true", "set_tcp_nodelay true"):
        assert lines.count(line) == 1


def test_mosquittos_own_tool_writes_passwords_that_we_read(store: CredentialStore) -> None:
    """A line by mosquitto_passwd verifies with us as ours does with Mosquitto."""
    tool = _need("mosquitto_passwd", "mosquitto")
    store.add(Kind.PROPLET, "p1", "first")
    subprocess.run([tool, "-b", store.directory / "passwords", "p1", "by the tool"], check=True)
    assert store.verify("p1", "by the tool")
    assert not store.verify("p1", "first")


PARENT = """
import asyncio, sys
from pathlib import Path
from propeller.broker.credentials import CredentialStore
from propeller.broker.mosquitto import MosquittoProcess

async def main():
    process = MosquittoProcess(CredentialStore(Path(sys.argv[1])), Path(sys.argv[2]), port=int(sys.argv[3]))
    await process.start()
    print(process._process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_it_ends_with_its_parent(store: CredentialStore, tmp_path: Path) -> None:
    """However its parent dies, Mosquitto holds no port afterwards."""
    arguments = [sys.executable, "-c", PARENT, store.directory, tmp_path / "mosquitto", str(free_port())]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    descriptor = os.pidfd_open(child) if Path(f"/proc/{child}").exists() else None
    if descriptor is not None:
        _await_end(descriptor, child)


def _await_end(descriptor: int, child: int) -> None:
    ended, _, _ = select.select([descriptor], [], [], 5.0)
    os.close(descriptor)
    if not ended:
        os.kill(child, signal.SIGKILL)
    assert ended, "mosquitto outlived its parent"


def test_any_number_of_proplets_is_a_short_acl(store: CredentialStore) -> None:
    """The ACL does not grow with the proplets: Mosquitto's time for it grows with users times lines."""
    store.add(Kind.MANAGER, "m1")
    before = acl_text(store)
    store.add_all(Kind.PROPLET, {f"p{number}": "key" for number in range(100)})
    assert acl_text(store) == before
