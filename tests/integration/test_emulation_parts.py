"""The parts of a fleet that need no emulator: a console's dialogue, and the slow forwarder."""

import asyncio
import os
from random import Random

import pytest

from propeller.emulation.chaos import TIMEOUT_S, Weather, forwarded
from propeller.emulation.console import Console
from propeller.errors import PeerRefused, PeerUnavailable


class Guest:
    """The other end of a console: what a device would say and hear."""

    def __init__(self, console: Console) -> None:
        self._into = os.open(f"{console.path}.in", os.O_RDONLY | os.O_NONBLOCK)
        self._out = os.open(f"{console.path}.out", os.O_WRONLY | os.O_NONBLOCK)

    def say(self, text: str) -> None:
        """Print."""
        os.write(self._out, text.encode())

    def heard(self) -> str:
        """Everything typed so far."""
        return os.read(self._into, 4096).decode()

    def close(self) -> None:
        """Vanish."""
        os.close(self._into)
        os.close(self._out)


@pytest.fixture
async def ends(tmp_path):
    """A console and its guest."""
    console = Console(tmp_path / "device1", tmp_path / "device1.log")
    console.open()
    guest = Guest(console)
    yield console, guest
    guest.close()
    console.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["device1.log"]


async def test_a_command_is_answered_by_ok_or_by_what_is_wrong(ends):
    """Echo and colours of a shell are not taken for its answer."""
    console, guest = ends
    asking = asyncio.create_task(console.command("set id ok"))
    await asyncio.sleep(0)
    assert guest.heard() == "set id ok\n"
    guest.say("\x1b[1;32muart:~$ \x1b[mset id ok\r\nok\r\n")
    await asking
    asking = asyncio.create_task(console.command("set id -"))
    await asyncio.sleep(0)
    guest.say("uart:~$ set id -\r\n\x1b[1;31mset id: not an id\x1b[m\r\n")
    with pytest.raises(PeerRefused, match="not an id"):
        await asking


async def test_a_silent_device_is_an_error_that_names_its_log(ends):
    """Nobody waits for ever, and the error says where to look."""
    console, guest = ends
    guest.say("booting\r\n")
    with pytest.raises(PeerUnavailable, match=r"booting.*device1\.log"):
        await console.wait("ready", timeout_s=0.05)


async def test_panics_are_counted_and_logs_are_kept(ends, tmp_path):
    """What a device says in its last moment is on disk."""
    console, guest = ends
    guest.say(">>> ZEPHYR FATAL ERROR 4: Kernel panic on CPU 0\r\n")
    await console.wait("FATAL")
    assert console.panics > 0
    assert "FATAL ERROR 4" in (tmp_path / "device1.log").read_text()


async def test_the_forwarder_carries_both_ways_and_waits_as_told():
    """Bytes arrive whole and in order, a delay takes its time twice for a question and its answer."""

    async def serve(reader, writer):
        question = await reader.read()
        writer.write(question[::-1])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with forwarded("127.0.0.2", [port], Weather(delay_s=0.05), Random(0)):  # noqa: S311
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            reader, writer = await asyncio.open_connection("127.0.0.2", port)
            question = bytes(range(256)) * 1000
            writer.write(question)
            writer.write_eof()
            assert await reader.read() == question[::-1]
            assert loop.time() - began_s >= 0.1
            writer.close()
            await writer.wait_closed()


def test_loss_costs_retransmission_timeouts_and_bandwidth_its_time():
    """No weather costs nothing; certain amounts cost at least what they must."""
    random = Random(1)  # noqa: S311 - weather
    assert Weather().wait_s(10**6, random) == 0.0
    assert Weather(bytes_per_s=1000.0).wait_s(500, random) == 0.5
    waits = [Weather(loss=0.1).wait_s(1448, random) for _ in range(5000)]
    lost = sum(wait > 0 for wait in waits) / len(waits)
    assert 0.08 < lost < 0.12
    assert min(wait for wait in waits if wait) == TIMEOUT_S
