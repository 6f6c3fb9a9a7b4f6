"""The life of worker processes: started late, reused, retired, replaced, and never left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import runtime_guests as g

from propeller.errors import BadInput, EnvironmentError_
from propeller.ports import GuestDone, GuestFailed, GuestJob
from propeller.runtime.pool import WorkerPool
from propeller.runtime.process import WorkerProcess

ADD = {"inputs": ["1", "2"]}


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[WorkerPool]:
    """A pool of one, retired late."""
    made = WorkerPool(tmp_path / "compiled", 1)
    yield made
    await made.close()


async def until(true: Callable[[], bool], within_s: float = 10) -> None:
    """Wait for something that another process does."""
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110 - another process does it, no event does
            await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie that nobody reaped counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def ran(pool: WorkerPool, job: GuestJob | None = None) -> None:
    """A healthy guest ends well."""
    outcome = await pool.run(job or g.guest(g.ADD, **ADD))
    assert isinstance(outcome, GuestDone), outcome


def test_the_agents_process_loads_neither_wasmtime_nor_numpy():
    """Importing the pool costs an agent neither the engine's memory nor numpy's."""
    code = "import sys, propeller.runtime.pool; print(*sorted({'wasmtime', 'numpy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


async def test_no_worker_runs_before_the_first_job(pool):
    """A pool costs nothing until it is used; one worker then serves job after job."""
    assert pool.workers() == ()
    await ran(pool)
    first = pool.workers()
    await ran(pool)
    assert pool.workers() == first
    assert len(first) == 1


async def test_an_idle_worker_is_retired(tmp_path):
    """After its idle time a worker ends by itself; the next job starts another."""
    pool = WorkerPool(tmp_path / "compiled", 1, idle_s=0.1)
    await ran(pool)
    (pid,) = pool.workers()
    await until(lambda: gone(pid))
    assert pool.workers() == ()
    await ran(pool)
    await pool.close()


async def test_a_dead_worker_is_replaced(pool):
    """A worker that died while idle costs nobody a job."""
    await ran(pool)
    (pid,) = pool.workers()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: gone(pid))
    await asyncio.sleep(0.05)  # the loop hears of it
    await ran(pool)
    assert pool.workers() != (pid,)


async def test_a_busy_worker_may_say_late_that_it_must_load(pool):
    """Whether it never had the module or has dropped it: what is not said in time is no broken protocol."""
    await ran(pool)
    (pid,) = pool.workers()
    others = [g.guest(f'(module (func (export "main") (result i32) (i32.const {n})))') for n in range(5)]
    for job in (*others, g.guest(g.ADD, **ADD)):
        os.kill(pid, signal.SIGSTOP)
        running = asyncio.create_task(pool.run(job))
        await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGCONT)
        outcome = await running
        assert isinstance(outcome, GuestDone), outcome
    assert pool.workers() == (pid,)


@pytest.mark.parametrize(("sent", "kind"), [(signal.SIGKILL, "memory"), (signal.SIGABRT, "trap")])
async def test_a_worker_that_dies_under_a_guest_is_that_guests_failure(pool, sent, kind):
    """Killed from outside reads as a machine short of memory, a crash as a trap; the pool goes on."""
    await ran(pool)
    running = asyncio.create_task(pool.run(g.guest(g.LOOP)))
    await asyncio.sleep(0.2)
    (pid,) = pool.workers()
    os.kill(pid, sent)
    outcome = await running
    assert isinstance(outcome, GuestFailed)
    assert outcome.kind == kind
    await ran(pool)


async def test_jobs_over_the_size_wait_their_turn(tmp_path):
    """Never more workers than the pool's size, and every job is served."""
    pool = WorkerPool(tmp_path / "compiled", 2)
    most = 0

    async def one(number: int) -> None:
        nonlocal most
        outcome = await pool.run(g.guest(g.ADD, inputs=[str(number), "1"]))
        assert isinstance(outcome, GuestDone)
        assert outcome.value == str(number + 1)
        most = max(most, len(pool.workers()))

    await asyncio.gather(*(one(number) for number in range(12)))
    assert most == 2
    await pool.close()


async def test_closing_stops_what_runs(pool):
    """Close ends guests as `stopped` and leaves no process; a job after it is refused the same way."""
    await ran(pool)
    running = asyncio.create_task(pool.run(g.guest(g.LOOP)))
    waiting = asyncio.create_task(pool.run(g.guest(g.HEALTHY)))
    await asyncio.sleep(0.2)
    (pid,) = pool.workers()
    await pool.close()
    for outcome in await asyncio.gather(running, waiting, pool.run(g.guest(g.HEALTHY))):
        assert isinstance(outcome, GuestFailed)
        assert outcome.kind == "stopped"
    assert gone(pid)
    assert pool.workers() == ()


async def test_closing_waits_for_a_worker_that_is_just_starting(pool):
    """A job whose worker is not there yet is stopped too, and its worker does not outlive the pool."""
    running = asyncio.create_task(pool.run(g.guest(g.LOOP)))
    await asyncio.sleep(0.02)
    await pool.close()
    assert running.done()
    outcome = await running
    assert isinstance(outcome, GuestFailed)
    assert outcome.kind == "stopped"
    assert pool.workers() == ()


async def test_a_job_can_be_cancelled_while_its_worker_starts(pool):
    """The worker that nobody waits for any more is ended, and the next job gets another."""
    running = asyncio.create_task(pool.run(g.guest(g.LOOP)))
    await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await ran(pool)


async def test_text_that_is_not_unicode_is_refused_before_any_worker(pool):
    """A lone surrogate can reach no guest; the caller hears of it, and no worker dies of it."""
    with pytest.raises(BadInput, match="Unicode"):
        await pool.run(g.guest(g.HEALTHY, env={"A": "\ud800"}))
    assert pool.workers() == ()


async def test_cancelling_a_job_that_waits_disturbs_nobody(pool):
    """A job that has no worker yet can be taken back; the one that runs is untouched."""
    running = asyncio.create_task(pool.run(g.guest(g.ADD, **ADD)))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(pool.run(g.guest(g.LOOP)))
    await asyncio.sleep(0)
    waiting.cancel()
    assert isinstance(await running, GuestDone)
    await ran(pool)


async def test_a_senseless_job_is_refused_before_any_worker(pool):
    """The caller's mistakes are errors of the caller, not failures of the guest."""
    with pytest.raises(BadInput, match="digest"):
        await pool.run(GuestJob(module=b"", digest="not one"))
    assert pool.workers() == ()


async def test_a_worker_that_cannot_start_says_so(tmp_path, capfd):
    """A cache directory that cannot be made is the machine's fault, told as such."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentError_, match="did not start"):
        await WorkerProcess.start(tmp_path / "file" / "compiled")
    assert "in the way" not in capfd.readouterr().out


async def test_compiled_code_is_shared_and_survives_the_pool(tmp_path):
    """A module is compiled once per machine: the next pool finds it, and needs no bytes of it."""
    first = WorkerPool(tmp_path / "compiled", 1)
    job = g.guest(g.ADD, **ADD)
    await ran(first, job)
    await first.close()
    (compiled,) = (tmp_path / "compiled").glob("*.cwasm")
    made = compiled.stat().st_ino
    second = WorkerPool(tmp_path / "compiled", 1)
    await ran(second, GuestJob(module=b"never asked for", digest=job.digest, **ADD))
    assert compiled.stat().st_ino == made
    await second.close()


async def test_tampered_code_is_compiled_again(tmp_path):
    """A compiled file that somebody changed is not run: the module is compiled anew."""
    first = WorkerPool(tmp_path / "compiled", 1)
    await ran(first)
    await first.close()
    (compiled,) = (tmp_path / "compiled").glob("*.cwasm")
    content = bytearray(compiled.read_bytes())
    content[-1] ^= 1
    compiled.write_bytes(content)
    second = WorkerPool(tmp_path / "compiled", 1)
    await ran(second)
    await second.close()
    assert compiled.read_bytes() != bytes(content)


async def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    """A SIGKILL of the agent, in the middle of a guest, leaves no worker behind."""
    script = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        import runtime_guests as g
        from propeller.runtime.pool import WorkerPool
        async def main():
            pool = WorkerPool(Path(sys.argv[1]), 2)
            await pool.run(g.guest(g.HEALTHY))
            running = asyncio.create_task(pool.run(g.guest(g.LOOP)))
            await asyncio.sleep(0.2)
            print(*pool.workers(), flush=True)
            await running
        asyncio.run(main())
        """
    )
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(tmp_path / "compiled"), str(Path(__file__).parent)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert agent.stdout is not None
    workers = [int(pid) for pid in (await agent.stdout.readline()).split()]
    assert workers
    agent.kill()
    await agent.wait()
    await until(lambda: all(gone(pid) for pid in workers), within_s=2)


async def test_an_agent_that_forgets_to_close_leaves_nothing(tmp_path):
    """The end of the agent closes the pipe, and that alone ends an idle worker."""
    worker = await WorkerProcess.start(tmp_path / "compiled")
    pid = worker.pid
    assert not gone(pid)
    await worker.retire()
    assert gone(pid)
