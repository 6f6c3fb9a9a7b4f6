"""N1 to N8 on loopback: a real proplet process whose network is cut, one-way, slow, thin, or comes and goes.

What must hold: no second live attempt where the policy forbids one, queues drain, nothing is lost or done
twice, and nobody storms the broker.
"""

import asyncio
import contextlib
from pathlib import Path

import pytest
from chaos_site import HEARTBEAT_S, chaos_site
from runtime_guests import ADD, LOOP

from chaos_proxy import flapping
from lossy_network import HOST, lossy_namespace

SLOW_ADD = """(module (func (export "main") (param i32 i32) (result i32) (local $n i32)
  (loop $again
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_if $again (i32.lt_u (local.get $n) (i32.const 2000000000))))
  (i32.add (local.get 0) (local.get 1))))"""
"""ADD after a second or two of work."""
pytestmark = pytest.mark.timeout(240)
KEEPS = {"disconnect": {"lost_after_s": 1, "replace": False}}
MOVES = {"disconnect": {"lost_after_s": 1}}


async def test_a_partition_is_waited_for_where_the_policy_says_so(tmp_path: Path) -> None:
    """N1: cut off for longer than its link allows, it is offline; mended, the same attempt goes on."""
    async with chaos_site(tmp_path) as site:
        worker, _ = await site.alive_worker("p-1"), await site.alive_worker("p-2")
        await site.start("loop", LOOP, proplet_id="p-1", **KEEPS)
        await site.running("loop")
        worker.mqtt.cut()
        await site.alive("p-1", is_alive=False)
        await asyncio.sleep(4 * HEARTBEAT_S + 1)
        assert len((await site.ask("GET", "/tasks/loop"))[1]["attempts"]) == 1
        worker.mqtt.mend()
        await site.alive("p-1")
        assert (await site.ask("POST", "/tasks/loop/stop"))[0] == 200
        ended = await site.ended("loop")
        assert (ended["state"], [one["state"] for one in ended["attempts"]]) == (6, ["stopped"])


async def test_what_was_replaced_during_a_partition_is_stopped_after_it(tmp_path: Path) -> None:
    """N1: the run goes on elsewhere; the attempt that comes back is told to stop, and its word is no more."""
    async with chaos_site(tmp_path) as site:
        worker = await site.alive_worker("p-1")
        await site.start("loop", LOOP, **MOVES)
        await site.running("loop")
        other = await site.alive_worker("p-2")
        worker.mqtt.cut()
        moved = await site.running("loop", 2)
        assert [(one["proplet_id"], one["state"]) for one in moved["attempts"]] == [
            ("p-1", "lost"),
            ("p-2", "running"),
        ]
        worker.mqtt.mend()
        await worker.logs("attempt failed", failure="stopped")
        await site.start("sum", ADD, proplet_id="p-1", inputs=["40", "2"])
        assert (await site.ended("sum"))["results"] == "42"
        assert (await site.ask("GET", "/tasks/loop"))[1]["attempts"] == moved["attempts"]
        await other.kill()


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_line_that_works_one_way_only(tmp_path: Path, way: str) -> None:
    """N2: unheard, or deaf; nothing runs twice, and what was meant arrives when the line is whole again."""
    async with chaos_site(tmp_path) as site:
        worker = await site.alive_worker("p-1")
        getattr(worker.mqtt, way).open.clear()
        await site.start("sum", ADD, proplet_id="p-1", inputs=["40", "2"], **KEEPS)
        await asyncio.sleep(6 * HEARTBEAT_S)
        task = (await site.ask("GET", "/tasks/sum"))[1]
        assert (task["state"], len(task["attempts"])) in {(1, 1), (0, 0)}
        worker.mqtt.mend()
        ended = await site.ended("sum")
        assert (ended["state"], ended["results"], len(ended["attempts"])) == (3, "42", 1)
        assert sum(line["event"] == "guest started" for line in worker.lines) == 1


@pytest.mark.long
async def test_a_connection_that_only_looks_alive(tmp_path: Path) -> None:
    """N3: half-open: no byte passes and nobody says so; the keep-alive finds out, and a new one is made."""
    async with chaos_site(tmp_path) as site:
        worker = await site.alive_worker("p-1")
        worker.mqtt.cut()
        worker.mqtt.refuses = False
        await site.alive("p-1", is_alive=False)
        tried = worker.mqtt.accepted
        async with asyncio.timeout(120):
            while worker.mqtt.accepted == tried:  # noqa: ASYNC110 - the proxy has no events
                await asyncio.sleep(0.5)
        worker.mqtt.mend()
        await site.start("sum", ADD, proplet_id="p-1", inputs=["40", "2"])
        assert (await site.ended("sum"))["results"] == "42"


@pytest.mark.parametrize("share", [0.05, pytest.param(0.3, marks=pytest.mark.long)])
async def test_a_line_that_loses_packets(tmp_path: Path, share: float) -> None:
    """N4: a twentieth of all packets, or a third: slower, and nothing else."""
    with lossy_namespace(share) as prefix:
        async with chaos_site(tmp_path, HOST) as site:
            worker = await site.worker("p-1")
            await worker.boot(*prefix)
            await site.until("/proplets", lambda page: page["total"] == 1)
            for number in range(5):
                await site.start(f"sum-{number}", ADD, inputs=["40", str(number)], **KEEPS)
            for number in range(5):
                ended = await site.ended(f"sum-{number}")
                assert (ended["results"], len(ended["attempts"])) == (str(40 + number), 1)
            assert sum(line["event"] == "guest started" for line in worker.lines) == 5


@pytest.mark.parametrize("round_trip_s", [0.2, pytest.param(2.0, marks=pytest.mark.long)])
async def test_a_long_line(tmp_path: Path, round_trip_s: float) -> None:
    """N5: with two seconds there and back, work is given once, done once, and acknowledged."""
    async with chaos_site(tmp_path) as site:
        worker = await site.worker("p-1")
        worker.mqtt.up.delay_s = worker.mqtt.down.delay_s = round_trip_s / 2
        await worker.boot()
        await site.until("/proplets", lambda page: page["total"] == 1)
        for number in range(5):
            await site.start(f"sum-{number}", ADD, inputs=["40", str(number)])
        for number in range(5):
            ended = await site.ended(f"sum-{number}")
            assert (ended["results"], len(ended["attempts"])) == (str(40 + number), 1)
        assert sum(line["event"] == "guest started" for line in worker.lines) == 5


async def test_a_thin_line(tmp_path: Path) -> None:
    """N6: at 20 kB/s a large module takes its seconds, and heartbeats and small work go on beside it."""
    async with chaos_site(tmp_path) as site:
        worker = await site.worker("p-1")
        for line in (worker.mqtt, site.http):
            line.up.bytes_per_s = line.down.bytes_per_s = 20_000
        await worker.boot(slots=2)
        await site.until("/proplets", lambda page: page["total"] == 1)
        ballast = f'(data "{"x" * 60_000}")'
        text = ADD.replace("(module", f"(module (memory 1) {ballast}", 1)
        await site.start("large", text, inputs=["40", "2"])
        await site.start("small", ADD, inputs=["1", "2"])
        assert (await site.ended("small"))["results"] == "3"
        assert (await site.ended("large"))["results"] == "42"
        await site.alive("p-1")


async def test_a_line_that_comes_and_goes(tmp_path: Path) -> None:
    """N7: broken again and again, every task is done once, and connections are made with growing pauses."""
    async with chaos_site(tmp_path) as site:
        worker = await site.alive_worker("p-1")
        before = worker.mqtt.accepted
        async with flapping(worker.mqtt, 0.7):
            for number in range(10):
                await site.start(f"sum-{number}", ADD, inputs=["40", str(number)], **KEEPS)
            await asyncio.sleep(3)
        for number in range(10):
            ended = await site.ended(f"sum-{number}")
            assert (ended["results"], len(ended["attempts"])) == (str(40 + number), 1)
        assert sum(line["event"] == "guest started" for line in worker.lines) == 10
        assert worker.mqtt.accepted - before < 60
        worker.mqtt.refuses = True
        worker.mqtt.reset()
        before = worker.mqtt.accepted
        await asyncio.sleep(3)
        assert worker.mqtt.accepted - before < 20, "a refused client waits longer each time"


async def test_a_proplet_that_boots_while_cut_off_takes_its_work_up_again(tmp_path: Path) -> None:
    """N8: killed and started without a network, it runs what it had accepted, from its disk; then reports."""
    async with chaos_site(tmp_path) as site:
        worker = await site.alive_worker("p-1")
        await site.start("sum", SLOW_ADD, inputs=["40", "2"], **KEEPS)
        await site.running("sum")
        worker.mqtt.cut()
        site.http.cut()
        await worker.kill()
        await site.alive("p-1", is_alive=False)
        worker.lines.clear()
        await worker.boot()
        await worker.logs("guest started")
        await worker.logs("attempt completed")
        assert (await site.ask("GET", "/tasks/sum"))[1]["state"] == 2
        worker.mqtt.mend()
        ended = await site.ended("sum")
        assert (ended["state"], ended["results"], len(ended["attempts"])) == (3, "42", 1)
        with contextlib.suppress(ProcessLookupError):
            await worker.kill()
