"""The parts of a fleet that need no emulator: consoles, the slow forwarder, shares of a core."""

import asyncio
import contextlib
import os
import pty
import sys
import termios
from pathlib import Path
from random import Random

import pytest

from propeller.emulation import boards, share
from propeller.emulation.chaos import TIMEOUT_S, Weather, forwarded
from propeller.emulation.console import Console
from propeller.emulation.consoles import consoles
from propeller.emulation.fleet import Fleet, Identity, Plan
from propeller.emulation.network import UserNetwork
from propeller.errors import PeerRefused, PeerUnavailable

PROPELLER = Path(sys.executable).with_name("propeller")


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


async def test_an_end_that_is_gone_ends_its_connection_at_the_other():
    """A device that dies while much is on its way to it leaves no connection at the service."""
    ended = asyncio.Event()

    async def pour(reader, writer):
        try:
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        except OSError:
            ended.set()
        finally:
            writer.close()

    async with await asyncio.start_server(pour, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        weather = Weather(delay_s=0.05, bytes_per_s=1e6)
        async with forwarded("127.0.0.2", [port], weather, Random(0)), asyncio.timeout(30):  # noqa: S311
            reader, writer = await asyncio.open_connection("127.0.0.2", port)
            await reader.readexactly(65536)
            writer.transport.abort()
            await ended.wait()


@pytest.fixture
async def served(tmp_path):
    """A device without an emulator whose console others may ask for, and its guest."""
    nobody = Identity(id="p", key="k", domain="d", channel="c", broker="b", urls={})
    plan = Plan(
        number=1, board=boards.ZEPHYR_X86, image=boards.Image(kernel=tmp_path), memory_mb=15, mac="",
        identity=nobody,
    )  # fmt: skip
    fleet = Fleet([plan], UserNetwork(), tmp_path)
    console = fleet.devices[1].machine.console
    console.open()
    guest = Guest(console)
    async with consoles(fleet, tmp_path):
        yield guest
    guest.close()
    console.close()


def attached(directory, number, stdin):
    """`propeller emulate console` in a process."""
    command = (PROPELLER, "emulate", "console", str(number), "--data-dir", directory)
    return asyncio.create_subprocess_exec(*command, stdin=stdin, stdout=asyncio.subprocess.PIPE)


async def heard(guest, wanted):
    """Wait until the guest was told that."""
    said = ""
    while wanted not in said:
        with contextlib.suppress(BlockingIOError):
            said += guest.heard()
        await asyncio.sleep(0.01)


async def test_a_script_asks_a_device_over_its_console(served, tmp_path):
    """What comes from a pipe is typed; what was said before and the answer are shown; then it ends."""
    served.say("ready after 5 ms\r\n")
    asking = await attached(tmp_path, 1, asyncio.subprocess.PIPE)
    asking.stdin.write(b"status\n")
    asking.stdin.close()
    await heard(served, "status\n")
    served.say('{"up_ms":7}\r\n')
    said = (await asking.communicate())[0].decode()
    assert asking.returncode == 0
    assert said.index("ready after 5 ms") < said.index('{"up_ms":7}')
    nobody = await attached(tmp_path, 2, asyncio.subprocess.DEVNULL)
    assert b"no device '2'; there are 1 to 1" in (await nobody.communicate())[0]


async def test_a_terminal_is_on_a_device_until_its_key(served, tmp_path):
    """Keys go to the device one by one; Ctrl-] leaves, and the terminal is as it was."""
    mine, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    talking = await attached(tmp_path, 1, terminal)
    served.say("uart:~$ ")
    assert await talking.stdout.readexactly(8) == b"uart:~$ "
    os.write(mine, b"sta")
    await heard(served, "sta")
    os.write(mine, b"\x1d")
    await talking.communicate()
    assert talking.returncode == 0
    assert termios.tcgetattr(terminal) == before
    os.close(mine)
    os.close(terminal)


async def test_a_process_is_held_to_its_share_of_a_core_and_no_group_is_left():
    """The kernel has the share while the fleet lives; then its group is gone, and what was left before."""
    root = share.ROOT / "cpu" if (share.ROOT / "cpu" / "cgroup.procs").exists() else share.ROOT
    left = root / "propeller-fleet-999999999"
    try:
        (left / "device1").mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"missing capability: control groups ({error.strerror})")
    sleeping = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        with share.limited(0.25) as confine:
            confine(sleeping.pid, "device1")
            group = root / f"propeller-fleet-{os.getpid()}" / "device1"
            assert str(sleeping.pid) in (group / "cgroup.procs").read_text().split()
            quota = group / "cpu.cfs_quota_us"
            assert int((quota if quota.exists() else group / "cpu.max").read_text().split()[0]) == 25_000
            sleeping.kill()
            await sleeping.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            sleeping.kill()
    assert not group.parent.exists()
    assert not left.exists()


def test_loss_costs_retransmission_timeouts_and_bandwidth_its_time():
    """No weather costs nothing; certain amounts cost at least what they must."""
    random = Random(1)  # noqa: S311 - weather
    assert Weather().wait_s(10**6, random) == 0.0
    assert Weather(bytes_per_s=1000.0).wait_s(500, random) == 0.5
    waits = [Weather(loss=0.1).wait_s(1448, random) for _ in range(5000)]
    lost = sum(wait > 0 for wait in waits) / len(waits)
    assert 0.08 < lost < 0.12
    assert min(wait for wait in waits if wait) == TIMEOUT_S
