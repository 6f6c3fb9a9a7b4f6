"""Fakes for the proplet's tests: services that answer from a table, a runtime that answers from a script."""

import asyncio
import hashlib
import json

from propeller.errors import PeerUnavailable
from propeller.ports import GuestDone, GuestLimits, ImageModule, Response
from propeller.proplet.data import LocalData
from propeller.proplet.job import Supply
from propeller.proplet.offload import at_once
from propeller.proplet.services import Services
from propeller.proplet.settings import ServiceUrls
from propeller.simulation.world.loop import VirtualClock, VirtualLoop

REGISTRY, STORE, COORDINATOR, MANAGER = (f"http://svc:{port}" for port in (8084, 8083, 8086, 7070))
URLS = ServiceUrls(manager=MANAGER, coordinator=COORDINATOR, model_registry=REGISTRY, data_store=STORE)
MODEL = b'{"w": [0.1, 2],\n "b": 1e-5}'
DATA = b'{"data": [{"x": [1], "y": 0}], "size": 1}'
MODULE = b"\0asm\1\0\0\0"


def in_virtual_time(main):
    """What `main(clock)` returns, in a world where waiting takes no time."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(VirtualClock(loop)))


class FakeHttp:
    """Answers by `METHOD url`: bytes (200), a status, a `Response`, an error to raise, or a list in turn."""

    def __init__(self, **answers):
        self.answers = {
            f"GET {REGISTRY}/models/0": MODEL,
            f"GET {STORE}/datasets/p-1": DATA,
            f"POST {COORDINATOR}/update": b'{"status":"accepted"}',
        }
        self.asked = []
        self.takes_s = 0.0

    async def request(self, method, url, *, headers=None, body=b"", timeout_s=30.0, limit_bytes=1 << 30):
        """One answer."""
        self.asked.append((method, url, dict(headers or {}), body))
        await asyncio.sleep(self.takes_s)
        answer = self.answers.get(f"{method} {url}", 404)
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            text = json.dumps({"error": f"status {answer}", "code": "scripted"}).encode()
            return Response(answer, {}, text)
        return answer if isinstance(answer, Response) else Response(200, {}, answer)

    def count(self, method):
        """How often this method was used."""
        return sum(1 for asked in self.asked if asked[0] == method)


class FakeImages:
    """One module for every reference, or errors first."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.asked = []

    async def fetch(self, reference):
        """The module, once the errors are used up."""
        self.asked.append(reference)
        if self.errors:
            raise self.errors.pop(0)
        digest = hashlib.sha256(MODULE).hexdigest()
        return ImageModule(reference=reference, manifest_digest=digest, digest=digest, content=MODULE)


class FakeRuntime:
    """Guests that take `takes_s` and then end as `ends` says (a value, or a function of the job)."""

    def __init__(self, ends=None, takes_s=1.0):
        self.ends = ends or GuestDone(stdout="hello", stderr="")
        self.takes_s = takes_s
        self.jobs = []
        self.running = 0
        self.killed = 0
        self.warm = 0

    def keep_warm(self, workers):
        """Note it."""
        self.warm = workers

    async def run(self, job):
        """One guest."""
        self.jobs.append(job)
        self.running += 1
        try:
            await asyncio.sleep(self.takes_s)
        except asyncio.CancelledError:
            self.killed += 1
            raise
        finally:
            self.running -= 1
        return self.ends(job) if callable(self.ends) else self.ends

    async def close(self):
        """Nothing to end."""


class FakeLog:
    """Keeps the lines."""

    def __init__(self):
        self.lines = []

    def info(self, event, **fields):
        """Keep it."""
        self.lines.append(("info", event, fields))

    def warning(self, event, **fields):
        """Keep it."""
        self.lines.append(("warning", event, fields))

    def error(self, event, **fields):
        """Keep it."""
        self.lines.append(("error", event, fields))


def supply(http=None, images=None, *, urls=URLS, allowed=(), data=None, modules=None):
    """What jobs are made from."""
    return Supply(
        proplet_id="p-1",
        http=http or FakeHttp(),
        images=images or FakeImages(),
        services=Services(urls, allowed),
        data=LocalData(data) if data else None,
        limits=GuestLimits(),
        offload=at_once,
        modules=modules,
    )


def unavailable(why="no answer"):
    """Nobody there."""
    return PeerUnavailable(why)
