"""A calm world with a manager that answers HTTP, for the tests of its routes."""

import asyncio
import base64
import json

from propeller.simulation.world.guests import ECHO, ECHO_IMAGE, LOOP, TRAP
from propeller.simulation.world.world import DATA_STORE, MANAGER, World, run_world

ENDED = {3, 4, 5, 6}


def module(content: bytes) -> str:
    """A module as a task's `file`."""
    return base64.b64encode(content).decode()


def echo(name: str, **fields) -> dict:
    """A task that says hello."""
    return {"id": name, "name": name, "image_url": ECHO_IMAGE, **fields}


def trap(name: str, **fields) -> dict:
    """A task that fails."""
    return {"id": name, "name": name, "file": module(TRAP), **fields}


def loop(name: str, **fields) -> dict:
    """A task that runs until it is stopped or its limit."""
    return {"id": name, "name": name, "file": module(LOOP), **fields}


__all__ = ["ECHO", "ENDED", "Api", "echo", "in_world", "loop", "module", "trap", "with_data"]


class Api:
    """Asks the manager of a world."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def ask(self, method: str, path: str, body=None):
        """(status, decoded body) of one request."""
        content = b"" if body is None else json.dumps(body).encode()
        answer = await self.world.calm_http.request(method, MANAGER + path, body=content)
        return answer.status, json.loads(answer.body) if answer.body else None

    async def good(self, method: str, path: str, body=None):
        """The body of a request that must succeed."""
        status, said = await self.ask(method, path, body)
        assert status < 300, (method, path, status, said)
        return said

    async def ready(self, proplets: int) -> None:
        """Wait until that many proplets are alive."""
        while True:
            if (await self.good("GET", "/proplets?status=active"))["total"] >= proplets:
                return
            await asyncio.sleep(0.5)

    async def until(self, task_id: str, *states: int, run: int = 1):
        """The task once its run of that number, or a later one, shows one of the states."""
        while True:
            task = await self.good("GET", f"/tasks/{task_id}")
            if task.get("run", 0) >= run and task["state"] in states:
                return task
            await asyncio.sleep(0.25)

    async def ended(self, task_id: str, run: int = 1):
        """The task once its run of that number, or a later one, has ended."""
        return await self.until(task_id, *ENDED, run=run)


def in_world(story, proplets: int = 3, seed: int = 1):
    """Run `story(api)` in a calm world with that many live proplets."""

    async def main(world: World):
        api = Api(world)
        await asyncio.sleep(1)
        await api.ready(proplets)
        return await story(api)

    return run_world(seed, main, proplets=proplets)


async def with_data(api: Api, *names: str) -> None:
    """Give proplets ten rows each."""
    for name in names:
        rows = [{"x": [at / 10, at % 3 / 3, 0.5], "y": at % 2} for at in range(10)]
        content = json.dumps({"data": rows}).encode()
        answer = await api.world.calm_http.request("POST", f"{DATA_STORE}/datasets/{name}", body=content)
        assert answer.status == 201
