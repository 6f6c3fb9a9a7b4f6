"""N1, N5, N6 and N7 on emulated boards: a real manager, and a bad network before each board.

What must hold is what holds for ordinary proplets (`test_network_chaos`): no second attempt where the policy
forbids one, everything done once, queues drained, no storm of connections.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from chaos_site import ChaosSite, chaos_site
from firmware_images import firmware_image
from runtime_guests import ADD, LOOP

from chaos_proxy import ChaosProxy, flapping
from propeller.emulation import boards
from propeller.emulation.fleet import Device, Identity, Plan, mac_of
from propeller.emulation.network import UserNetwork
from propeller.emulation.share import unlimited

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("firmware_qemu")]
KEEPS = {"disconnect": {"lost_after_s": 1, "replace": False}}
MOVES = {"disconnect": {"lost_after_s": 1}}


class Board:
    """An emulated board of a site, and the network before it."""

    def __init__(self, device: Device, mqtt: ChaosProxy) -> None:
        self.id, self.mqtt, self._device = device.plan.identity.id, mqtt, device

    async def status(self) -> dict[str, Any]:
        """What it says of itself."""
        said = await self._device.machine.console.command("status", good=r"^\{.*\}\r?\n")
        return msgspec.json.decode(said[0].strip())

    async def guests(self) -> int:
        """Guests that it has begun."""
        return (await self.status())["guests"]


class Fleet:
    """A site, and boards that it has welcomed."""

    def __init__(self, site: ChaosSite, image: boards.Image, directory: Path, stack: Any) -> None:
        self.site, self._image, self._directory, self._stack = site, image, directory, stack
        self._count = 0

    async def board(self, **changes: float) -> Board:
        """A new board that is alive; `changes` are of both ways to the broker, and to the modules."""
        self._count += 1
        name = f"p-{self._count}"
        mqtt = await self._stack.enter_async_context(ChaosProxy("127.0.0.1", self.site.broker.port))
        for way in (mqtt.up, mqtt.down, self.site.http.up, self.site.http.down):
            for field, value in changes.items():
                setattr(way, field, value)
        plan = Plan(
            number=self._count,
            board=boards.ZEPHYR_X86,
            image=self._image,
            memory_mb=boards.ZEPHYR_X86.memory_mb,
            mac=mac_of(Random(self._count)),  # noqa: S311 - no secret
            identity=Identity(**self.site.identity(name), broker=f"10.0.2.2:{mqtt.port}", urls={}),
        )
        device = Device(plan, UserNetwork(), self._directory, unlimited)
        self._stack.push_async_callback(device.machine.stop)
        await device.boot()
        await self.site.alive(name)
        return Board(device, mqtt)


@contextlib.asynccontextmanager
async def fleet(image: boards.Image, directory: Path) -> AsyncIterator[Fleet]:
    """A manager without devices; no device survives it."""
    async with chaos_site(directory) as site, contextlib.AsyncExitStack() as stack:
        yield Fleet(site, image, directory / "fleet", stack)


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> boards.Image:
    """The firmware of the zfl board."""
    return firmware_image("qemu_x86", tmp_path_factory.getbasetemp())


async def test_a_partition_is_waited_for_where_the_policy_says_so(image, tmp_path):
    """N1: cut off, the board is offline; mended, the same attempt goes on, and ends once."""
    async with fleet(image, tmp_path) as made:
        site, board = made.site, await made.board()
        await site.start("loop", LOOP, proplet_id=board.id, **KEEPS)
        await site.running("loop")
        board.mqtt.cut()
        await site.alive(board.id, is_alive=False)
        await asyncio.sleep(3)
        assert len((await site.ask("GET", "/tasks/loop"))[1]["attempts"]) == 1
        board.mqtt.mend()
        await site.alive(board.id)
        assert (await site.ask("POST", "/tasks/loop/stop"))[0] == 200
        ended = await site.ended("loop")
        assert (ended["state"], [one["state"] for one in ended["attempts"]]) == (6, ["stopped"])
        assert await board.guests() == 1


async def test_what_was_replaced_during_a_partition_is_stopped_after_it(image, tmp_path):
    """N1: the run goes on on another board; the one that comes back is told to stop, and works again."""
    async with fleet(image, tmp_path) as made:
        site, board = made.site, await made.board()
        await site.start("loop", LOOP, **MOVES)
        await site.running("loop")
        other = await made.board()
        board.mqtt.cut()
        moved = await site.running("loop", 2)
        assert [(one["proplet_id"], one["state"]) for one in moved["attempts"]] == [
            (board.id, "lost"),
            (other.id, "running"),
        ]
        board.mqtt.mend()
        await site.start("sum", ADD, proplet_id=board.id, inputs=["40", "2"])
        assert (await site.ended("sum"))["results"] == "42"
        assert (await site.ask("GET", "/tasks/loop"))[1]["attempts"] == moved["attempts"]
        assert (await board.guests(), await other.guests()) == (2, 1)


async def test_a_result_that_was_cut_off_comes_when_the_line_is_whole(image, tmp_path):
    """N1: what ends while nobody hears it is said again, and its memory is free once it is acknowledged."""
    async with fleet(image, tmp_path) as made:
        site, board = made.site, await made.board()
        board.mqtt.up.open.clear()
        await site.start("sum", ADD, proplet_id=board.id, inputs=["40", "2"], **KEEPS)
        async with asyncio.timeout(60):
            while not await board.guests():  # noqa: ASYNC110 - a console has no events for it
                await asyncio.sleep(0.1)
        assert (await board.status())["held"] == 1
        board.mqtt.cut()
        board.mqtt.reset()
        await asyncio.sleep(2)
        board.mqtt.mend()
        ended = await site.ended("sum")
        assert (ended["results"], len(ended["attempts"]), await board.guests()) == ("42", 1, 1)
        async with asyncio.timeout(60):
            while (await board.status())["held"]:  # noqa: ASYNC110 - a console has no events for it
                await asyncio.sleep(0.2)


async def test_a_thin_and_long_line(image, tmp_path):
    """N5 N6: at 20 kB/s and 200 ms a module of 100 kB arrives whole, and small work goes on."""
    async with fleet(image, tmp_path) as made:
        site, board = made.site, await made.board(bytes_per_s=20_000.0, delay_s=0.1)
        ballast = f'(data "{"x" * 100_000}")'
        large = ADD.replace("(module", f"(module {ballast}", 1)
        await site.start("large", large, proplet_id=board.id, inputs=["40", "2"], **KEEPS)
        await site.start("small", ADD, proplet_id=board.id, inputs=["1", "2"], **KEEPS)
        assert (await site.ended("large"))["results"] == "42"
        assert (await site.ended("small"))["results"] == "3"
        assert await board.guests() == 2


async def test_a_line_that_comes_and_goes(image, tmp_path):
    """N7: broken every two seconds, all is done once; refused, the board asks with growing pauses."""
    async with fleet(image, tmp_path) as made:
        site, board = made.site, await made.board()
        before = board.mqtt.accepted
        async with flapping(board.mqtt, 2.0):
            number = 0
            while board.mqtt.accepted < before + 2:
                inputs = ["40", str(number)]
                await site.start(f"sum-{number}", ADD, proplet_id=board.id, inputs=inputs, **KEEPS)
                ended = await site.ended(f"sum-{number}")
                assert (ended["results"], len(ended["attempts"])) == (str(40 + number), 1)
                number += 1
        assert await board.guests() == number
        board.mqtt.refuses = True
        board.mqtt.reset()
        before = board.mqtt.accepted
        await asyncio.sleep(5)
        assert board.mqtt.accepted - before < 20, "a refused board waits longer each time"
        board.mqtt.refuses = False
        await site.alive(board.id)
        assert (await board.status())["connected"]
