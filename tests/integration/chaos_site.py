"""A real manager, a real broker, real proplet processes, and a bad network before each of them. No tests."""

import asyncio
import base64
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from wasmtime import wat2wasm

from chaos_proxy import ChaosProxy
from propeller.broker.credentials import CredentialStore
from propeller.broker.embedded import EmbeddedBroker
from propeller.broker.principals import Kind
from propeller.bus.mqtt import MqttBus
from propeller.clock import SystemClock
from propeller.http.listen import bind, port_of, serve
from propeller.http.memory import MemoryHttp
from propeller.manager.app import opened
from propeller.manager.config import ManagerConfig
from propeller.wire.topics import Topics

TOPICS = Topics("d", "c")
PROGRAM = Path(__file__).with_name("proplet_process.py")
WAIT_S = 100.0
"""For whatever is waited for: a third of all packets lost makes a minute of what takes a second."""
HEARTBEAT_S = 0.5
ENDED = {3, 4, 5, 6}


def module(text: str) -> str:
    """A module as a task's `file`."""
    return base64.b64encode(wat2wasm(text)).decode()


class Worker:
    """One proplet's process behind a proxy of its own, `mqtt`, to the broker."""

    def __init__(self, settings: dict[str, Any], mqtt: ChaosProxy) -> None:
        self.id = settings["id"]
        self.mqtt = mqtt
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self.lines: list[dict[str, Any]] = []
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()

    async def boot(self, *prefix: str, **changes: Any) -> None:
        """A new process; `prefix` is a command that runs it."""
        told = json.dumps(self._settings | changes)
        self._process = await asyncio.create_subprocess_exec(
            *prefix, sys.executable, str(PROGRAM), told, stdout=asyncio.subprocess.PIPE
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()
        assert self._reading is not None
        await self._reading

    async def logs(self, event: str, **fields: Any) -> None:
        """Wait until a line of its log says that."""
        async with asyncio.timeout(WAIT_S), self._news:
            while not any(self._says(line, event, fields) for line in self.lines):
                await self._news.wait()

    @staticmethod
    def _says(line: dict[str, Any], event: str, fields: dict[str, Any]) -> bool:
        return line["event"] == event and fields.items() <= line.items()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            async with self._news:
                self.lines.append(json.loads(line))
                self._news.notify_all()


class ChaosSite:
    """The manager's HTTP side, and the workers."""

    def __init__(
        self, directory: Path, http: aiohttp.ClientSession, stack: AsyncExitStack, host: str
    ) -> None:
        self._host = host
        self._directory = directory
        self._http = http
        self._stack = stack
        self.store = CredentialStore.create(directory / "credentials", TOPICS.domain, TOPICS.channel)
        self.key = self.store.add(Kind.MANAGER, "m-1")
        self.url = ""
        self.http: ChaosProxy
        """What workers fetch their modules through."""
        self.broker = EmbeddedBroker(self.store, port=0)

    def restarted_broker(self) -> EmbeddedBroker:
        """Another broker on the same port and credentials, not yet started."""
        return EmbeddedBroker(self.store, port=self.broker.port)

    def identity(self, name: str) -> dict[str, str]:
        """Who a proplet of that name is, and its key; to be asked for once."""
        key = self.store.add(Kind.PROPLET, name)
        return {"id": name, "key": key, "domain": TOPICS.domain, "channel": TOPICS.channel}

    async def worker(self, name: str) -> Worker:
        """A worker that has not booted yet."""
        mqtt = await self._stack.enter_async_context(
            ChaosProxy("127.0.0.1", self.broker.port, listen=self._host)
        )
        me = self.identity(name)
        worker = Worker(
            {
                "api_key": me.pop("key"),
                **me,
                "broker": f"tcp://{self._host}:{mqtt.port}",
                "spool": str(self._directory / name),
                "cache": str(self._directory / "cache"),
                "allowed_origins": ["*"],
                "metrics_s": 0,
            },
            mqtt,
        )
        self._stack.push_async_callback(worker.kill)
        return worker

    async def alive_worker(self, name: str) -> Worker:
        """A worker that is up and known."""
        worker = await self.worker(name)
        await worker.boot()
        await self.alive(name)
        return worker

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """(status, body) of one request."""
        async with self._http.request(method, self.url + path, json=body) as answer:
            said = await answer.read()
            return answer.status, json.loads(said) if said else None

    async def start(self, task_id: str, text: str, **fields: Any) -> None:
        """Create a task of that Wasm text and start it."""
        status, said = await self.ask(
            "POST", "/tasks", {"id": task_id, "name": "main", "file": module(text), **fields}
        )
        assert status == 201, said
        assert (await self.ask("POST", f"/tasks/{task_id}/start"))[0] == 200

    async def until(self, path: str, holds: Callable[[Any], Any]) -> Any:
        """The resource once `holds(it)`."""
        async with asyncio.timeout(WAIT_S):
            while True:
                status, said = await self.ask("GET", path)
                if status == 200 and holds(said):
                    return said
                await asyncio.sleep(0.05)

    async def alive(self, name: str, *, is_alive: bool = True) -> None:
        """Wait until the manager shows the worker so."""
        await self.until(f"/proplets/{name}", lambda one: one["alive"] == is_alive)

    async def running(self, task_id: str, attempt: int = 1) -> Any:
        """The task once that attempt of it runs."""

        def holds(task: Any) -> bool:
            last = task["attempts"][-1] if task.get("attempts") else {}
            return (last.get("attempt"), last.get("state")) == (attempt, "running")

        return await self.until(f"/tasks/{task_id}", holds)

    async def ended(self, task_id: str) -> Any:
        """The task once its run has ended."""
        return await self.until(f"/tasks/{task_id}", lambda task: task["state"] in ENDED)


@asynccontextmanager
async def chaos_site(directory: Path, host: str = "127.0.0.1") -> AsyncIterator[ChaosSite]:
    """Everything running but workers, who reach it at `host`; no process survives it."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        site = ChaosSite(directory, http, stack, host)
        await stack.enter_async_context(site.broker)
        bus = MqttBus("127.0.0.1", site.broker.port, "m-1", site.key, "m-1", random=Random(1))  # noqa: S311
        sock = bind("127.0.0.1", 0, "--port")
        site.url = f"http://127.0.0.1:{port_of(sock)}"
        site.http = await stack.enter_async_context(ChaosProxy("127.0.0.1", port_of(sock), listen=host))
        public = f"http://{host}:{site.http.port}"
        config = ManagerConfig(topics=TOPICS, heartbeat_s=HEARTBEAT_S, public_url=public)
        manager = await stack.enter_async_context(
            opened(
                config,
                directory / "manager",
                bus=bus,
                http=MemoryHttp(),
                clock=SystemClock(),
                random=Random(2),  # noqa: S311 - names
            )
        )
        work = [asyncio.create_task(manager.run()), asyncio.create_task(serve(manager.app, sock))]
        stack.push_async_callback(_ended, work)
        yield site


async def _ended(work: list[asyncio.Task[None]]) -> None:
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
