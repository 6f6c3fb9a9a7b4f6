"""The original's devices with our manager, over real brokers and real HTTP, on shared topics only.

Each joins, beats, runs, reports, dies and returns; every message is one of `golden/*.json`.
"""

import asyncio
import base64
import contextlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from broker_hubs import Hub, T, open_hub
from original_peers import Device, beating
from propeller.clock import SystemClock
from propeller.http.listen import bind, port_of, serve
from propeller.http.memory import MemoryHttp
from propeller.manager.app import opened
from propeller.manager.config import ManagerConfig

WAIT_S = 60.0
HEARTBEAT_S = 0.5
MODULE = b"\0asm\x01\0\0\0"
FILE = base64.b64encode(MODULE).decode()
URL = "http://198.51.100.1/add.wasm"


class Site:
    """A manager behind a real port, on a real broker; and the devices of the test."""

    def __init__(self, hub: Hub, url: str, http: aiohttp.ClientSession) -> None:
        self.hub = hub
        self.url = url
        self.http = http
        self.devices: list[Device] = []

    def device(self, kind: str, me: str = "l1") -> Device:
        """A device of the original, with the rights that it is provisioned with."""
        made = Device(kind, self.hub.address, me, self.hub.keys[me], T.base)
        self.devices.append(made)
        return made

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """(status, body) of one request."""
        content = None if body is None else io.BytesIO(json.dumps(body).encode())
        headers = {"Content-Type": "application/json"}
        async with self.http.request(method, self.url + path, data=content, headers=headers) as answer:
            said = await answer.read()
            return answer.status, await answer.json() if said else None

    async def good(self, method: str, path: str, body: Any = None) -> Any:
        """The body of a request that must succeed."""
        status, said = await self.ask(method, path, body)
        assert status < 300, (method, path, status, said)
        return said

    async def started(self, task_id: str, **fields: Any) -> str:
        """Create a task and start it; its id."""
        await self.good("POST", "/tasks", {"id": task_id, "name": "add", **fields})
        await self.good("POST", f"/tasks/{task_id}/start")
        return task_id

    async def until(self, path: str, holds: Any) -> Any:
        """The resource once `holds(it)`."""
        async with asyncio.timeout(WAIT_S):
            while True:
                status, said = await self.ask("GET", path)
                if status == 200 and holds(said):
                    return said
                await asyncio.sleep(0.02)

    async def ended(self, task_id: str) -> Any:
        """The task once its run has ended."""
        return await self.until(f"/tasks/{task_id}", lambda task: task["state"] in {3, 4, 5, 6})

    async def alive(self, me: str, *, is_alive: bool = True) -> Any:
        """The proplet once it is alive, or not."""
        return await self.until(f"/proplets/{me}", lambda one: one["alive"] == is_alive)


@contextlib.asynccontextmanager
async def open_site(hub: Hub, directory: Path, heartbeat_s: float = HEARTBEAT_S) -> AsyncIterator[Site]:
    """A running manager on the hub's broker."""
    sock = bind("127.0.0.1", 0, "--port")
    url = f"http://127.0.0.1:{port_of(sock)}"
    config = ManagerConfig(topics=T, heartbeat_s=heartbeat_s, public_url=url)
    random, bus = Random(1), hub.bus("m1")  # noqa: S311 - names
    async with (
        opened(config, directory, bus=bus, http=MemoryHttp(), clock=SystemClock(), random=random) as manager,
        aiohttp.ClientSession() as http,
        asyncio.TaskGroup() as group,
    ):
        work = [group.create_task(manager.run()), group.create_task(serve(manager.app, sock))]
        site = Site(hub, url, http)
        try:
            await _connected(bus)
            yield site
        finally:
            for device in site.devices:
                await device.leave()
            for task in work:
                task.cancel()


async def _connected(bus: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            if bus.connected:
                return
            await asyncio.sleep(0.01)


@pytest.fixture(params=["embedded", "mosquitto"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    """A manager over each broker."""
    async with open_hub(request.param, tmp_path) as hub, open_site(hub, tmp_path / "manager") as made:
        yield made


async def test_the_rust_proplet_joins_and_runs(site: Site) -> None:
    """Registered with what it says of itself, alive by its beat, its result stored; defect 4.10."""
    device = site.device("rust_proplet")
    await device.switch_on()
    shown = await site.alive("l1")
    assert shown["protocol"] == 1
    assert shown["metadata"]["total_memory_bytes"] == 8589934592
    assert shown["metadata"]["tags"] == ["edge", "gpu"]
    async with beating(device, HEARTBEAT_S):
        task = await site.started("sum", image_url=URL, inputs=[40, "2"], env={"GREETING": "hello"})
        await device.hears("start_url", task=task)
        assert (await site.good("GET", "/tasks/sum"))["state"] == 2
        assert (await site.good("GET", "/proplets/l1"))["task_count"] == 1
        await device.say("metrics")
        await device.say("task_metrics", task=task)
        seen = await site.until("/proplets/l1/metrics", lambda page: page["total"])
        assert seen["metrics"][0]["timestamp"] == "2026-01-01T00:00:00.500000Z"
        assert seen["metrics"][0]["memory_metrics"]["container_limit_bytes"] == 268435456
        seen = await site.until("/tasks/sum/metrics", lambda page: page["total"])
        assert seen["metrics"][0]["metrics"]["cpu_percent"] == 98.5
        await device.say("result", task=task, result="42")
        ended = await site.ended(task)
        assert (ended["state"], ended["results"], ended["proplet_id"]) == (3, "42", "l1")
        assert (await site.good("GET", "/proplets/l1"))["task_count"] == 0


async def test_the_rust_proplet_fetches_an_inline_module_by_its_url(site: Site) -> None:
    """The module is behind the URL that the start names, whatever its size; defect 4.21."""
    device = site.device("rust_proplet")
    await device.switch_on()
    await site.alive("l1")
    content = MODULE + bytes(3_000_000)
    file = base64.b64encode(content).decode()
    task = await site.started("big", file=file, cli_args=["-S", "nn"])
    start = await device.hears("start_inline", task=task, url=None)
    async with site.http.get(start["image_url"]) as answer:
        assert await answer.read() == content
    await device.say("failure", task=task)
    ended = await site.ended(task)
    assert (ended["state"], ended["error"]) == (4, "Task was cancelled or panicked")


async def test_the_rust_proplet_stops_and_only_its_own_word_counts(site: Site) -> None:
    """The stop names its proplet (defect 4.9); results in another's name and late ones do not count."""
    device, other = site.device("rust_proplet"), site.device("rust_proplet", "l2")
    await device.switch_on()
    await other.switch_on()
    await site.alive("l1")
    task = await site.started("loop", image_url=URL, proplet_id="l1")
    await device.takes("B/control/manager/start")
    await other.say("result", task=task, result="mine")
    await site.good("POST", "/tasks/loop/stop")
    await device.hears("stop", task=task)
    await device.say("failure", task=task)
    ended = await site.ended(task)
    assert (ended["state"], ended["error"]) == (6, "stopped by user")
    await device.say("result", task=task, result="late")
    await device.say("alive")
    assert (await site.good("GET", "/tasks/loop"))["state"] == 6


async def test_the_rust_proplet_serves_calls(site: Site) -> None:
    """A latent task is called over MQTT, and what the device answers is the HTTP answer."""
    device = site.device("rust_proplet")
    await device.switch_on()
    await site.alive("l1")
    async with beating(device, HEARTBEAT_S):
        task = await site.started("calls", image_url=URL, latent=True)
        await device.hears("start_latent", task=task)
        body = {"inputs": [1, "2"], "env": {"MODE": "fast"}}
        asked = asyncio.create_task(site.ask("POST", "/tasks/calls/invoke", body))
        call = await device.hears("invoke", task=task, call=None)
        await device.say("invoke_result", task=task, call="another", result="no")
        await device.say("invoke_result", task=task, call=call["invocation_id"], result="3")
        assert await asked == (200, {"results": "3", "invoked": True})
        assert (await site.good("GET", "/tasks/calls"))["state"] == 2


async def test_the_rust_proplet_runs_a_daemon(site: Site) -> None:
    """It says at once that all went well, and means that it began: shown as running, until stopped (4.22)."""
    device = site.device("rust_proplet")
    await device.switch_on()
    await site.alive("l1")
    async with beating(device, HEARTBEAT_S):
        task = await site.started("server", image_url=URL, daemon=True)
        start = await device.takes("B/control/manager/start")
        assert (start["daemon"], start["proplet_id"]) == (True, "l1")
        await device.say("result", task=task, result="")
        await device.say("task_metrics", task=task)
        await site.until("/tasks/server/metrics", lambda page: page["total"])
        assert (await site.good("GET", "/tasks/server"))["state"] == 2
        await site.good("POST", "/tasks/server/stop")
        await device.hears("stop", task=task)
        await device.say("failure", task=task)
        assert (await site.ended(task))["state"] == 6


async def test_a_broadcast_reaches_every_rust_proplet(site: Site) -> None:
    """Each hears a start that names it, and all results are kept, by proplet."""
    devices = [site.device("rust_proplet"), site.device("rust_proplet", "l2")]
    for device in devices:
        await device.switch_on()
        await site.alive(device.me)
    await site.started("all", image_url=URL, broadcast=True)
    for device in devices:
        starts = [await device.takes("B/control/manager/start") for _ in devices]
        mine = next(start for start in starts if start["proplet_id"] == device.me)
        await device.say("result", task=mine["id"], result=f"from {device.me}")
    ended = await site.ended("all")
    assert (ended["state"], ended["results"]) == (3, {"l1": "from l1", "l2": "from l2"})


async def test_the_rust_proplet_dies_and_returns(site: Site) -> None:
    """Silent for three beats is offline; announced anew, it has forgotten its work and gets it again."""
    device = site.device("rust_proplet")
    await device.switch_on()
    await site.alive("l1")
    task = await site.started("again", image_url=URL)
    start = await device.takes("B/control/manager/start")
    await device.die()
    gone = await site.alive("l1", is_alive=False)
    assert gone["task_count"] == 1
    assert (await site.ask("DELETE", "/proplets/l1"))[0] == 409
    await device.switch_on()
    assert await device.takes("B/control/manager/start") == start
    await device.say("result", task=task, result="42")
    ended = await site.ended(task)
    assert ended["state"] == 3
    assert [(one["attempt"], one["state"]) for one in ended["attempts"]] == [(1, "lost"), (2, "succeeded")]


async def test_the_rust_proplet_outlives_a_broken_connection(site: Site) -> None:
    """Reconnected, it says nothing but its beat; its work went on, and its result counts."""
    device = site.device("rust_proplet")
    await device.switch_on()
    await site.alive("l1")
    task = await site.started("on", image_url=URL)
    await device.takes("B/control/manager/start")
    await device.die()
    await site.alive("l1", is_alive=False)
    await device.connect()
    await device.say("alive")
    await site.alive("l1")
    await device.say("result", task=task, result="42")
    ended = await site.ended(task)
    assert (ended["state"], len(ended["attempts"])) == (3, 1)


async def test_the_embedded_proplet_joins_and_runs(site: Site) -> None:
    """It gets the bytes and numbers as inputs; its result names no sender, its clock is its uptime (4.11)."""
    device = site.device("embedded_proplet")
    await device.switch_on()
    shown = await site.alive("l1")
    assert shown["metadata"]["total_memory_bytes"] == 393216
    async with beating(device, HEARTBEAT_S):
        task = await site.started("sum", file=FILE, inputs=["40", -2])
        await device.hears("start", task=task, file=FILE)
        await device.say("metrics")
        seen = await site.until("/proplets/l1/metrics", lambda page: page["total"])
        assert seen["metrics"][0]["timestamp"] > "2026"
        assert seen["metrics"][0]["memory_metrics"]["heap_free_bytes"] == 20480
        await device.say("result", task=task, result="38")
        ended = await site.ended(task)
        assert (ended["state"], ended["results"]) == (3, "38")


async def test_the_embedded_proplet_is_stopped(site: Site) -> None:
    """The stop has the name and the state as text that it asks for; defect 4.9."""
    device = site.device("embedded_proplet")
    await device.switch_on()
    await site.alive("l1")
    task = await site.started("loop", file=FILE)
    await device.takes("B/control/manager/start")
    await site.good("POST", "/tasks/loop/stop")
    await device.hears("stop", task=task)
    await device.say("failure", task=task)
    assert (await site.ended(task))["state"] == 6


async def test_the_embedded_proplet_dies_and_returns(site: Site) -> None:
    """Its last will marks it offline and is no heartbeat (defect 4.6, M7); it comes back by its beat."""
    device = site.device("embedded_proplet")
    await device.switch_on()
    beats = (await site.alive("l1"))["last_alive_at"]
    await device.die()
    gone = await site.alive("l1", is_alive=False)
    assert gone["last_alive_at"] == beats
    await device.switch_on()
    await site.alive("l1")
    task = await site.started("again", file=FILE)
    await device.takes("B/control/manager/start")
    await device.say("result", task=task, result="1")
    assert (await site.ended(task))["state"] == 3


POISON = [
    b"",
    b"{",
    b"\xff",
    b"[" * 1000,
    b"null",
    b'{"proplet_id":1}',
    b'{"proplet_id":"../x"}',
    b'{"task_id":[]}',
]


async def test_a_thousand_poison_messages_hold_up_nobody(site: Site) -> None:
    """M8: whoever speaks behind them is heard at once; they are counted, and none makes a proplet."""
    bad, good = site.device("rust_proplet", "l2"), site.device("rust_proplet")
    await bad.connect()
    kinds = ("create", "alive", "results", "metrics", "task_metrics", "invoke_results")
    for number in range(1000):
        await bad.shout(f"B/control/proplet/{kinds[number % 6]}", POISON[number % len(POISON)])
    began_s = asyncio.get_running_loop().time()
    await good.switch_on()
    await site.alive("l1")
    print(f"heard {asyncio.get_running_loop().time() - began_s:.2f} s after a thousand poison messages")
    page = await site.good("GET", "/proplets")
    assert [one["id"] for one in page["proplets"]] == ["l1"]
