"""The Wasm runtime of a proplet: `ports.Runtime` on a small pool of persistent worker processes.

Workers are spawned at the first job, reused, retired when idle or grown, and replaced when they died. This is
all of the runtime that the agent's process loads; it knows neither wasmtime nor what a guest computes.
"""

import asyncio
import re
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from propeller import limits
from propeller.errors import BadInput, EnvironmentError_
from propeller.ports import GuestDone, GuestFailed, GuestJob, GuestLimits
from propeller.runtime import messages
from propeller.runtime.process import WorkerProcess

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MAXIMA: Final = {
    "wall_s": limits.GUEST_WALL_S_MAX,
    "cpu_s": limits.GUEST_WALL_S_MAX,
    "memory_bytes": limits.GUEST_MEMORY_BYTES_MAX,
    "stack_bytes": limits.GUEST_STACK_BYTES_MAX,
}


class WorkerPool:
    """Runs up to `size` guests at once, each in a process of its own.

    `cache_dir` keeps compiled modules between processes and restarts; proplets of one machine may share it.
    `compile_s` bounds the compilation of one module, which no guest's own limits count. Must be used from one
    event loop; `close` it. Being a pool of processes it owns their reaping, in tasks that `close` awaits.
    """

    def __init__(
        self,
        cache_dir: Path,
        size: int,
        *,
        idle_s: float = limits.WORKER_IDLE_S,
        compile_s: float = limits.GUEST_COMPILE_S,
    ) -> None:
        self._cache_dir = cache_dir
        self._idle_s = idle_s
        self._compile_s = compile_s
        self._size = size
        self._slots = asyncio.Semaphore(size)
        self._idle: list[tuple[WorkerProcess, asyncio.TimerHandle]] = []
        self._busy: set[WorkerProcess] = set()
        self._reapers: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._warm = 0

    def keep_warm(self, workers: int) -> None:
        """Keep up to `workers` idle workers while this stands, and replace a lost one at once."""
        self._warm = workers

    async def run(self, job: GuestJob) -> GuestDone | GuestFailed:
        """Run to the end, waiting for a free worker first; no limit of the guest counts that wait.

        Raises `BadInput` or `TooLarge` for a job that cannot be told to a guest, `EnvironmentError_` if no
        worker can be started. Cancelling kills the guest's worker at once.
        """
        check(job)
        if len(job.module) > limits.GUEST_MODULE_BYTES_MAX:
            return _too_large(len(job.module))
        async with self._slots:
            if self._closed:
                return GuestFailed(kind="stopped", message="the runtime is closed")
            framed = messages.encode_job(job)
            worker = self._take_idle() or await WorkerProcess.start(self._cache_dir)
            return await self._run_on(worker, job, framed)

    async def close(self) -> None:
        """End every worker; a guest that still runs fails as `stopped`."""
        self._closed = True
        while self._idle:
            self._reap(self._pop_idle().kill())
        for worker in tuple(self._busy):
            worker.kill_now()
        # With every slot in hand no job is in progress, not even one whose worker was just starting.
        for _ in range(self._size):
            await self._slots.acquire()
        await asyncio.gather(*self._reapers)
        for _ in range(self._size):
            self._slots.release()

    def workers(self) -> tuple[int, ...]:
        """Process ids of the workers that live, busy and idle: for metrics and tests."""
        return tuple(w.pid for w in (*self._busy, *(w for w, _ in self._idle)))

    async def _run_on(self, worker: WorkerProcess, job: GuestJob, framed: bytes) -> GuestDone | GuestFailed:
        self._busy.add(worker)
        if self._closed:
            worker.kill_now()
        try:
            return await worker.run(job, framed, self._compile_s)
        except BaseException:
            worker.kill_now()
            raise
        finally:
            self._busy.discard(worker)
            self._put_back(worker)

    def _put_back(self, worker: WorkerProcess) -> None:
        if worker.alive and not self._closed:
            self._rest(worker)
        elif self._closed:
            self._reap(worker.kill())
        else:
            self._reap(worker.retire())
            if len(self._idle) + len(self._busy) < self._warm:
                self._reap(self._replace())

    def _rest(self, worker: WorkerProcess) -> None:
        timer = asyncio.get_running_loop().call_later(self._idle_s, self._retire_idle, worker)
        self._idle.append((worker, timer))

    async def _replace(self) -> None:
        """Start a worker ahead of the job that will want it; if that fails, the job will say why."""
        with suppress(EnvironmentError_):
            worker = await WorkerProcess.start(self._cache_dir)
            if self._closed:
                await worker.kill()
            else:
                self._rest(worker)

    def _take_idle(self) -> WorkerProcess | None:
        """The worker used last, so that the others may grow idle; one that died meanwhile is let go."""
        while self._idle:
            worker = self._pop_idle()
            if worker.alive:
                return worker
            self._reap(worker.retire())
        return None

    def _pop_idle(self) -> WorkerProcess:
        worker, timer = self._idle.pop()
        timer.cancel()
        return worker

    def _retire_idle(self, worker: WorkerProcess) -> None:
        self._idle = [(other, timer) for other, timer in self._idle if other is not worker]
        if worker.alive and len(self._idle) + len(self._busy) < self._warm:
            self._rest(worker)
        else:
            self._reap(worker.retire())

    def _reap(self, ending: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(ending)
        self._reapers.add(task)
        task.add_done_callback(self._reapers.discard)


def check(job: GuestJob) -> None:
    """Raise `BadInput` for a job that no worker could take as it is meant."""
    if not _DIGEST.fullmatch(job.digest):
        raise BadInput(f"a module's digest is 64 lower-case hex digits, not {job.digest[:80]!r}")
    if job.files is not None and not job.files.is_dir():
        raise BadInput(f"the guest's files are to be in {job.files}, which is no directory")
    _check_folders(job)
    for text in (*job.args, *job.env, *job.env.values()):
        if "\0" in text:
            raise BadInput("a guest's arguments and environment cannot contain NUL characters")
    for name in job.env:
        if not name or "=" in name:
            raise BadInput(f"no environment variable can be named {name!r}")
    _check_limits(job.limits)


def _check_folders(job: GuestJob) -> None:
    for folder in job.folders:
        if not folder.host.is_dir():
            raise BadInput(f"a guest is to get {folder.host}, which is no directory")
        if not folder.guest.startswith("/") or "\0" in folder.guest or folder.guest == "/fl":
            raise BadInput(f"a guest cannot see a directory as {folder.guest!r}: give an absolute path")


def _check_limits(given: GuestLimits) -> None:
    for field in fields(given):
        value, maximum = getattr(given, field.name), _MAXIMA.get(field.name, float("inf"))
        if not 0 < value <= maximum:
            raise BadInput(
                f"a guest's limit {field.name} is {value}; it must be over 0 and at most {maximum:g}"
            )


def _too_large(size_bytes: int) -> GuestFailed:
    return GuestFailed(
        kind="invalid_module",
        message=f"the module has {size_bytes} bytes, over the limit of {limits.GUEST_MODULE_BYTES_MAX}",
    )
