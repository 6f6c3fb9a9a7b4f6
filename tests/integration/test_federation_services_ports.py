"""The federation's services on real ports, over SQLite and files, with the production offload."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from federation_world import StoppedClock
from propeller.federation.aggregator import app as aggregator
from propeller.federation.data_store import app as data_store
from propeller.federation.model_registry import app as model_registry
from propeller.federation.offload import SizedOffload
from propeller.http.client import AiohttpHttp
from propeller.http.listen import bind, port_of, serve

MIB = 1024 * 1024


class Live:
    """Where the services listen, and a client."""

    def __init__(self, urls, http):
        self.urls, self.http = urls, http

    async def ask(self, method, role, path, body=None, **headers):
        """Status and decoded body."""
        sent = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.http.request(method, self.urls[role] + path, headers=headers, body=sent)
        return answer.status, json.loads(answer.body) if answer.body else None


@asynccontextmanager
async def started(folder):
    """All three over one directory, until the block ends."""
    async with AsyncExitStack() as stack:
        offload = await stack.enter_async_context(SizedOffload())
        registry = model_registry.opened(folder, base="m/d/c/c", clock=StoppedClock(), offload=offload)
        data = data_store.opened(folder, base="m/d/c/c", offload=offload, synthetic_for=["proplet-1"])
        apps = {
            "aggregator": aggregator.build(offload=offload),
            "registry": await stack.enter_async_context(registry),
            "data": await stack.enter_async_context(data),
        }
        http = AiohttpHttp()
        stack.push_async_callback(http.close)
        urls, servers = {}, []
        for role, app in apps.items():
            sock = bind("127.0.0.1", 0, "--port")
            urls[role] = f"http://127.0.0.1:{port_of(sock)}"
            servers.append(asyncio.create_task(serve(app, sock)))
        try:
            yield Live(urls, http)
        finally:
            for server in servers:
                server.cancel()
            await asyncio.gather(*servers, return_exceptions=True)


async def test_published_walk_and_a_restart(tmp_path):
    """Health, version 0, aggregate, version 1, data sets; and all of it again from the same directory."""
    zero, one = {"w": [0, 0, 0], "b": 0}, {"w": [0.5, 0.25, -2], "b": 1}
    async with started(tmp_path) as live:
        for role in live.urls:
            status, said = await live.ask("GET", role, "/health")
            assert (status, said["status"]) == (200, "ok")
        assert (await live.ask("POST", "registry", "/models", {"version": 0, "model": zero}))[0] == 201
        body = {"updates": [{"num_samples": 64, "update": one}] * 3}
        status, mean = await live.ask("POST", "aggregator", "/aggregate", body)
        assert (status, mean) == (200, one)
        stored = await live.ask("POST", "registry", "/models", {"model": mean, "parent": 0, "round_id": "r1"})
        assert (stored[0], stored[1]["version"]) == (201, 1)
        row = {"data": [{"x": [1], "y": 0}]}
        assert (await live.ask("POST", "data", "/datasets/proplet-2", row))[0] == 201
    async with started(tmp_path) as live:
        assert await live.ask("GET", "registry", "/models/1") == (200, mean)
        assert (await live.ask("GET", "registry", "/models"))[1]["versions"] == [0, 1]
        assert (await live.ask("GET", "data", "/datasets"))[1]["clients"] == ["proplet-1", "proplet-2"]
        assert (await live.ask("GET", "data", "/datasets/proplet-1"))[1]["synthetic"] is True


async def test_head_over_a_socket_sends_no_body(tmp_path):
    """The server, and not only its twin, keeps the rule; the connection stays usable."""
    async with started(tmp_path) as live:
        for _ in range(2):
            answer = await live.http.request("HEAD", live.urls["registry"] + "/models/0")
            assert (answer.status, answer.body) == (200, b"")


async def test_large_bodies_are_answered_right(tmp_path):
    """Ten megabytes to each service: through the worker process, the blob store, and back in chunks."""
    weights = [index / 3 for index in range(500_000)]
    model = {"w": weights}
    async with started(tmp_path) as live:
        body = {"updates": [{"num_samples": 5, "update": model}]}
        status, mean = await live.ask("POST", "aggregator", "/aggregate", body)
        assert status == 200
        assert mean["w"] == pytest.approx(weights, rel=1e-15)
        assert (await live.ask("POST", "registry", "/models", {"model": model}))[0] == 201
        assert await live.ask("GET", "registry", "/models/1") == (200, model)
        head = await live.http.request("HEAD", live.urls["registry"] + "/models/1")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) > 7_000_000
        rows = [{"x": weights[n : n + 10], "y": 0} for n in range(0, len(weights), 10)]
        assert (await live.ask("POST", "data", "/datasets/big", {"data": rows}))[0] == 201
        assert (await live.ask("GET", "data", "/datasets/big"))[1]["data"] == rows
        assert (await live.ask("GET", "data", "/datasets/big?part=test"))[1]["size"] == 10_000
        bad = {"model": {"w": [*weights, None]}}
        status, said = await live.ask("POST", "registry", "/models", bad)
        assert (status, said["code"]) == (400, "bad_tensor")


async def test_body_over_the_limit_is_413(tmp_path):
    """A hundred megabytes and a bit, refused by its announced length, in JSON."""
    async with started(tmp_path) as live:
        for role, path in (("aggregator", "/aggregate"), ("registry", "/models"), ("data", "/datasets/p")):
            status, said = await live.ask("POST", role, path, bytes(100 * MIB + 1))
            assert (status, said["code"]) == (413, "too_large")
