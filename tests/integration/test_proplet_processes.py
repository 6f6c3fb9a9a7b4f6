"""A real proplet process on the embedded broker: it runs Wasm, dies, comes back, leaves nothing behind."""

import asyncio
import base64
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from proplet_peers import Manager
from runtime_guests import ADD, ECHO, LOOP
from wasmtime import wat2wasm

from propeller.broker.credentials import CredentialStore
from propeller.broker.embedded import EmbeddedBroker
from propeller.broker.principals import Kind
from propeller.bus.mqtt import MqttBus
from propeller.wire.messages import Stop
from propeller.wire.topics import FromManager, Topics

TOPICS = Topics("d", "c")
PROGRAM = Path(__file__).with_name("proplet_process.py")
WAIT_S = 20.0


def test_the_agent_loads_neither_wasmtime_nor_numpy_nor_a_web_framework():
    """What the device's process holds in memory, all of the proplet's own modules included."""
    code = (
        "import sys, pkgutil, importlib, propeller.proplet as room\n"
        "for module in pkgutil.iter_modules(room.__path__):\n"
        "    importlib.import_module('propeller.proplet.' + module.name)\n"
        "heavy = ('wasmtime', 'numpy', 'litestar', 'uvicorn', 'structlog')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert answer.stdout.strip() == "[]"


class Site:
    """A broker, a manager that is a few lines, and one proplet's process."""

    def __init__(self, directory):
        self.directory = directory
        self.store = CredentialStore.create(directory / "credentials", "d", "c")
        self.manager_key = self.store.add(Kind.MANAGER, "m-1")
        self.settings = {
            "id": "p-1",
            "api_key": self.store.add(Kind.PROPLET, "p-1"),
            "domain": "d",
            "channel": "c",
            "spool": str(directory / "spool"),
            "cache": str(directory / "cache"),
        }
        self.process = None

    async def boot(self, **changes):
        """A new process of the proplet."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            json.dumps(self.settings | changes),
            stdout=asyncio.subprocess.PIPE,
        )

    async def end(self, how=signal.SIGTERM):
        """Send the signal; the process's lines and status."""
        self.process.send_signal(how)
        return await self.ended()

    async def ended(self):
        """The lines and the status of a process that ends by itself."""
        out, _ = await asyncio.wait_for(self.process.communicate(), WAIT_S)
        status, self.process = self.process.returncode, None
        return [json.loads(line) for line in out.splitlines()], status


@asynccontextmanager
async def site(directory):
    """A site with a running broker and manager; no process survives it."""
    here = Site(directory)
    async with EmbeddedBroker(here.store, port=0) as broker:
        here.settings["broker"] = f"tcp://127.0.0.1:{broker.port}"
        bus = MqttBus(
            "127.0.0.1",
            broker.port,
            "m-1",
            here.manager_key,
            "m-1",
            random=Random(1),  # noqa: S311 - backoff
        )
        here.manager = Manager(bus, TOPICS, "p-1")
        listening = asyncio.create_task(here.manager.run())
        try:
            yield here
        finally:
            if here.process is not None:
                here.process.kill()
                await here.process.communicate()
            listening.cancel()
            await asyncio.wait([listening])


def wasm(text):
    """A module as a start message carries it."""
    return base64.b64encode(wat2wasm(text)).decode()


async def test_tasks_run_and_the_process_ends_cleanly(tmp_path):
    """Announced, welcomed, a module run by its export, one by `_start`; SIGTERM says goodbye."""
    async with site(tmp_path) as here:
        await here.boot()
        create = await here.manager.hears("create")
        assert create["metadata"]["wasm_runtime"].startswith("wasmtime-")
        assert create["metadata"]["os"] == "linux"
        await here.manager.start("sum", file=wasm(ADD), inputs=["40", "2"], name="main")
        assert (await here.manager.hears("results"))["results"] == "42"
        await here.manager.start("echo", file=wasm(ECHO), env={"NAME": "propeller"})
        assert (await here.manager.hears("results"))["results"] == "propeller"
        lines, status = await here.end()
        assert (status, lines[-1]) == (0, {"event": "ended", "loaded": []})
        offline = await here.manager.hears("alive", lambda body: body.get("status") == "offline")
        assert offline["proplet_id"] == "p-1"


async def test_a_stop_ends_an_endless_guest_at_once(tmp_path):
    """Within half a second of the message, as the catalogue of tests asks."""
    async with site(tmp_path) as here:
        await here.boot()
        await here.manager.hears("create")
        await here.manager.start("loop", file=wasm(LOOP))
        await here.manager.hears("events", lambda body: body["kind"] == "started")
        await asyncio.sleep(0.5)
        began_s = asyncio.get_running_loop().time()
        await here.manager.send(FromManager.STOP, Stop(id="loop", run=1, attempt=1))
        result = await here.manager.hears("results")
        assert result["failure"] == "stopped"
        assert asyncio.get_running_loop().time() - began_s < 0.5


async def test_a_killed_process_takes_its_work_up_again(tmp_path):
    """Kill -9 in a run: the last will speaks, the next process runs the attempt from its spool."""
    async with site(tmp_path) as here:
        await here.boot()
        await here.manager.hears("create")
        await here.manager.start("loop", file=wasm(LOOP))
        await here.manager.hears("events", lambda body: body["kind"] == "started")
        await here.end(signal.SIGKILL)
        await here.manager.hears("alive", lambda body: body.get("status") == "offline")
        await here.boot()
        await here.manager.hears("events", lambda body: body["kind"] == "started")
        await here.manager.send(FromManager.STOP, Stop(id="loop"))
        assert (await here.manager.hears("results"))["task_id"] == "loop"
        await here.end()


async def test_health_and_metrics_answer_on_their_port(tmp_path, unused_tcp_port):
    """Two pages, typed errors for the rest, and numbers that move."""
    async with site(tmp_path) as here:
        await here.boot(metrics_port=unused_tcp_port)
        await here.manager.hears("create")
        await here.manager.start("sum", file=wasm(ADD), inputs=["1", "2"], name="main")
        await here.manager.hears("results")
        status, body = await _get(unused_tcp_port, "/health")
        assert (status, json.loads(body)) == (200, {"status": "ok", "running_tasks": 0})
        status, body = await _get(unused_tcp_port, "/metrics")
        assert status == 200
        assert "proplet_tasks_completed_total 1" in body
        rss = int(re.search(r"^proplet_memory_rss_bytes (\d+)$", body, re.MULTILINE)[1])
        assert 10e6 < rss < 100e6
        assert (await _get(unused_tcp_port, "/other"))[0] == 404
        assert (await _get(unused_tcp_port, "/health", method="POST"))[0] == 405
        assert (await _get(unused_tcp_port, "/health", version="FTP"))[0] == 400


async def _get(port, path, *, method="GET", version="HTTP/1.1"):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} {version}\r\nHost: x\r\n\r\n".encode())
    answer = (await asyncio.wait_for(reader.read(), WAIT_S)).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def test_a_taken_port_is_named_with_its_flag(tmp_path, unused_tcp_port):
    """One clear line instead of a traceback."""
    async with site(tmp_path) as here:
        server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", unused_tcp_port)
        async with server:
            await here.boot(metrics_port=unused_tcp_port)
            lines, status = await here.ended()
        assert (status, lines[-1]["code"]) == (1, "port_in_use")
        assert f"port {unused_tcp_port}" in lines[-1]["message"]
        assert "--metrics-port" in lines[-1]["message"]


async def test_two_processes_cannot_share_an_identity(tmp_path):
    """The second is refused by the spool's lock and says who holds it."""
    async with site(tmp_path) as here:
        await here.boot()
        await here.manager.hears("create")
        first, here.process = here.process, None
        try:
            await here.boot()
            lines, status = await here.ended()
            assert (status, lines[-1]["code"]) == (1, "spool_locked")
            assert str(first.pid) in lines[-1]["message"]
        finally:
            here.process = first


async def test_wrong_credentials_are_one_clear_error(tmp_path):
    """The broker refuses; nothing is retried for ever."""
    async with site(tmp_path) as here:
        await here.boot(api_key="wrong")
        lines, status = await here.ended()
        assert (status, lines[-1]["code"]) == (1, "denied")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_proplet_ends_with_its_parent(tmp_path, how):
    """However the parent ends, nothing keeps the identity or a guest."""
    async with site(tmp_path) as here:
        told = json.dumps(here.settings | {"end_with_parent": True})
        starter = (
            "import subprocess, sys, time\n"
            f"p = subprocess.Popen([sys.executable, {str(PROGRAM)!r}, {told!r}])\n"
            "print(p.pid, flush=True)\n"
            "time.sleep(100)\n"
        )
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", starter, stdout=asyncio.subprocess.PIPE
        )
        child = int(await parent.stdout.readline())
        await here.manager.hears("create")
        await here.manager.start("loop", file=wasm(LOOP))
        await here.manager.hears("events", lambda body: body["kind"] == "started")
        parent.send_signal(how)
        await parent.wait()
        await here.manager.hears("alive", lambda body: body.get("status") == "offline")
        await asyncio.to_thread(_await_end, child)
        await parent.communicate()
        await here.boot()
        await here.manager.hears("create")
        await here.end()


def _await_end(pid):
    """Return when the process is gone or a zombie; blocks, as nothing tells a loop of a grandchild."""
    deadline_s = time.monotonic() + WAIT_S
    command = Path(f"/proc/{pid}/cmdline")
    while command.exists() and command.read_bytes():
        assert time.monotonic() < deadline_s, f"process {pid} outlives its parent"
        time.sleep(0.05)


async def test_an_idle_proplet_is_small(tmp_path):
    """Proportional memory of the connected agent, before any task; the aim is 35 MB, the bound has slack."""
    async with site(tmp_path) as here:
        await here.boot()
        await here.manager.hears("create")
        await asyncio.sleep(0.5)
        assert _pss_kb(here.process.pid) < 45_000
        await here.end()


def _pss_kb(pid):
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(re.search(r"^Pss: +(\d+)", rollup, re.MULTILINE)[1])
