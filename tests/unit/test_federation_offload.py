"""Work off the loop: in a thread when small, in a process of its own when large."""

import asyncio
import os
import threading
from pathlib import Path

import pytest
from offload_jobs import chatter, die, fail, refuse, spin, where

from propeller import limits
from propeller.errors import BadInput, Bug, EnvironmentError_
from propeller.federation.offload import SizedOffload, by_size, inline

SMALL, LARGE = b"ab", b"ab" * 1_000_000


@pytest.fixture(autouse=True)
def jobs_for_the_process(monkeypatch):
    """The worker process finds the jobs of these tests where this process found them."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture
async def offload():
    """One that thinks a kilobyte is large."""
    made = SizedOffload(process_bytes=1000)
    yield made
    await made.close()


async def test_inline_does_the_work_here():
    """Simulated worlds have neither threads nor processes."""
    pid, thread, turned, extra = await inline(where, b"ab", extra=3)
    assert (pid, thread, turned, extra) == (os.getpid(), threading.get_ident(), b"ba", 3)


async def test_small_work_runs_in_a_thread_of_this_process(offload):
    """Starting a process for a kilobyte would cost more than the work."""
    pid, thread, turned, _ = await offload(where, SMALL)
    assert pid == os.getpid()
    assert thread != threading.get_ident()
    assert turned == b"ba"


async def test_what_takes_less_than_a_hand_over_is_done_here(offload):
    """A thread is asked only beyond the bound; what the work raises comes through either way."""
    _, thread, *_ = await by_size(offload, limits.OFFLOAD_INLINE_BYTES, where, SMALL)
    assert thread == threading.get_ident()
    _, thread, *_ = await by_size(offload, limits.OFFLOAD_INLINE_BYTES + 1, where, SMALL)
    assert thread != threading.get_ident()
    with pytest.raises(BadInput, match="2 bytes are bad"):
        await by_size(offload, 0, refuse, SMALL)


async def test_large_work_runs_in_one_other_process(offload):
    """The same process serves one job after another, and all bytes survive the pipes."""
    first = await offload(where, LARGE, extra=7)
    second = await offload(where, LARGE)
    assert first[0] == second[0] != os.getpid()
    assert (first[2], first[3]) == (LARGE[::-1], 7)


async def test_errors_arrive_as_they_were_raised(offload):
    """Class, message and code decide the answer of a route; a bug tells its story."""
    with pytest.raises(BadInput, match="2000000 bytes are bad") as caught:
        await offload(refuse, LARGE)
    assert caught.value.reason == "special"
    with pytest.raises(Bug, match="ZeroDivisionError"):
        await offload(fail, LARGE)
    assert await offload(chatter, LARGE) == LARGE


async def test_dead_process_is_said_and_replaced(offload):
    """The caller may try again; the next job has a new process."""
    with pytest.raises(EnvironmentError_, match="ended before it answered"):
        await offload(die, LARGE)
    assert (await offload(where, LARGE))[2] == LARGE[::-1]


async def test_idle_process_ends():
    """Memory is given back between large requests."""
    offload = SizedOffload(process_bytes=1000, idle_s=0.01)
    try:
        pid = (await offload(where, LARGE))[0]
        async with asyncio.timeout(10):
            while _alive(pid):  # noqa: ASYNC110 - the kernel sets no event of ours
                await asyncio.sleep(0.01)
        assert (await offload(where, LARGE))[0] != pid
    finally:
        await offload.close()


async def test_close_ends_a_job_in_progress_and_leaves_no_process(offload):
    """Stopping the service waits for nobody's arithmetic."""
    pid = (await offload(where, LARGE))[0]
    job = asyncio.create_task(offload(spin, LARGE))
    await asyncio.sleep(0.1)
    await offload.close()
    with pytest.raises(EnvironmentError_):
        await job
    assert not _alive(pid)


async def test_loop_stays_awake_while_the_process_works(offload):
    """Work that would hold the interpreter lock holds another interpreter's."""
    await offload(where, LARGE)
    job, turns = asyncio.create_task(offload(spin, LARGE)), 0
    while not job.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert await job > 0
    assert turns > 20, "the loop had hardly a turn while the job ran"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
