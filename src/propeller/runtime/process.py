"""One worker process, seen from the agent: start it, give it a job, kill it when it does not end in time.

It imports nothing that runs Wasm. Its reader need not trust a worker: whatever comes from there is decoded
with types and bounds, and a worker that breaks the protocol is killed.
"""

import asyncio
import math
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from propeller import limits
from propeller.errors import Bug, DecodeError, EnvironmentError_
from propeller.ports import GuestDone, GuestFailed, GuestJob, GuestLimits
from propeller.runtime import messages
from propeller.runtime.messages import (
    Finished,
    FromWorker,
    ModuleFollows,
    NeedModule,
    Printed,
    Ready,
    Started,
)

KILL_AFTER_S: Final = limits.WORKER_SLACK_S * 0.6
"""A soft stop that did not work within this is followed by SIGKILL; the rest of the slack is for reaping."""
_FIRST_LOOK_S: Final = 0.05
"""A guest that has not ended by then has its processor time looked at."""
_CHUNK_BYTES: Final = 256 * 1024
_KEPT_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH")
_PARTED: Final = (asyncio.IncompleteReadError, BrokenPipeError, ConnectionResetError)
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")

Outcome = GuestDone | GuestFailed


class WorkerProcess:
    """A running worker. `start` makes one; it takes one job at a time; drop it once it is not `alive`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._stopping = False
        self._retiring = False
        self._stdin, self._stdout = process.stdin, process.stdout
        self._heard = Heard()
        self._announced_bytes: int | None = None
        """Length of the message that is being read, once it is known."""

    @classmethod
    async def start(cls, cache_dir: Path) -> "WorkerProcess":
        """Spawn a worker and wait until it is ready; raises `EnvironmentError_` if it does not get there.

        The worker gets none of the agent's environment beyond paths and language: no secret to find there.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "propeller.runtime.worker", str(os.getpid()), str(cache_dir)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
        )
        worker = cls(process)
        try:
            async with asyncio.timeout(limits.WORKER_START_S):
                ready = await worker._read()
        except (*_PARTED, DecodeError, TimeoutError) as error:
            status = await worker.kill()
            raise EnvironmentError_(
                f"a Wasm worker did not start (status {status}): its message is on standard error"
            ) from error
        except BaseException:
            await worker.kill()
            raise
        if not isinstance(ready, Ready):
            raise Bug(f"a new worker said {type(ready).__name__} before it was ready")
        return worker

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can take another job."""
        return self._process.returncode is None and not self._stopping and not self._retiring

    def kill_now(self) -> None:
        """SIGKILL, without waiting for the end; `kill` waits."""
        self._stopping = True
        with suppress(ProcessLookupError):
            self._process.kill()

    async def kill(self) -> int:
        """SIGKILL, and wait for the end; returns the exit status."""
        self.kill_now()
        return await self._process.wait()

    async def retire(self) -> None:
        """Let it go: it ends by itself when its pipe closes, or is killed."""
        self._retiring = True
        if self._stdin is not None:
            self._stdin.close()
        try:
            async with asyncio.timeout(limits.WORKER_START_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def run(self, job: GuestJob, framed: bytes, compile_s: float) -> Outcome:
        """Run one job to its end, however it ends; `alive` says afterwards whether the worker survived it.

        `framed` is the job's message by `messages.encode_job`, made before a worker was risked on it.

        Raises `Bug` if the worker met a mistake of ours. When cancelled, the caller kills the worker.
        """
        loading = True
        self._heard = Heard(job)
        try:
            await self._write(framed)
            async with asyncio.timeout(compile_s):
                early = await self._load(job)
            loading = False
            if early is None and job.on_worker is not None:
                job.on_worker(self.pid)
            finished = early or await self._end(job.limits, endless=job.endless)
        except TimeoutError:
            await self.kill()
            return GuestFailed(
                kind="timeout", message=f"compiling the module took longer than {compile_s:g} s"
            )
        except DecodeError as error:
            await self.kill()
            broke = GuestFailed(kind="trap", message=f"the worker broke its protocol: {error}")
            return self._heard.completed(broke)
        except _PARTED:
            return self._heard.completed(await self._obituary(loading=loading))
        return (
            self._heard.completed(finished) if isinstance(finished, GuestFailed) else self._outcome(finished)
        )

    def _outcome(self, finished: Finished) -> Outcome:
        self._retiring = finished.retire
        outcome = finished.done or finished.failed
        if outcome is None:
            raise Bug("a worker finished a job without an outcome")
        # A worker that gave up over its memory reports in haste, without what the guest had printed.
        return self._heard.completed(outcome) if isinstance(outcome, GuestFailed) else outcome

    async def _load(self, job: GuestJob) -> Finished | None:
        """Serve the worker until the guest starts (None), or has already failed."""
        while True:
            message = await self._read()
            if isinstance(message, NeedModule):
                await self._send_module(job.module)
            elif isinstance(message, Finished):
                return message
            elif isinstance(message, Started):
                return None
            else:
                raise DecodeError(f"{type(message).__name__} while a module loads")

    async def _end(self, allowed: GuestLimits, *, endless: bool) -> Finished | GuestFailed:
        """Wait for the guest's end. A guest that does not feel its soft stop is killed with the worker."""
        clock = asyncio.get_running_loop().time
        wall_end_s = math.inf if endless else clock() + allowed.wall_s + KILL_AFTER_S
        cpu_end_s: float | None = None
        pause_s = min(_FIRST_LOOK_S, allowed.wall_s)
        while True:
            message = await self._read_within(None if endless else pause_s)
            if message is not None and not isinstance(message, Printed):
                return _last(message)
            if message is not None:
                self._heard.take(message)
            if endless:
                continue
            if cpu_end_s is None:
                # Most guests have ended before it is worth asking the kernel what they have used.
                cpu_end_s = self._cpu_s() + allowed.cpu_s + KILL_AFTER_S
            wall_left_s, cpu_left_s = wall_end_s - clock(), cpu_end_s - self._cpu_s()
            if wall_left_s <= 0 or cpu_left_s <= 0:
                await self.kill()
                return _overrun(allowed, of_wall=wall_left_s <= 0)
            # A guest is one thread: its processor time is spent no faster than the wall's.
            pause_s = min(wall_left_s, max(cpu_left_s, 0.01))

    async def _obituary(self, *, loading: bool) -> GuestFailed:
        """What the end of the process in the middle of a job says about the guest."""
        if self._stopping:
            await self._process.wait()
            return GuestFailed(kind="stopped", message="the runtime was closed while the guest ran")
        status = await self._process.wait()
        if status >= 0:
            raise Bug(
                f"a Wasm worker ended by itself with status {status}: see its traceback on standard error"
            )
        name = signal.Signals(-status).name
        if -status == signal.SIGKILL:
            message = "the worker was killed from outside, as a machine short of memory does"
            return GuestFailed(kind="memory", message=message)
        if loading:
            return GuestFailed(kind="invalid_module", message=f"the compiler did not survive it ({name})")
        return GuestFailed(kind="trap", message=f"the worker did not survive the guest ({name})")

    async def _read(self) -> FromWorker:
        if self._stdout is None:
            raise Bug("a worker without a pipe")
        if self._announced_bytes is None:  # else a read was given up between the length and the message
            self._announced_bytes = messages.length(await self._stdout.readexactly(messages.HEADER.size))
        body = await self._stdout.readexactly(self._announced_bytes)
        self._announced_bytes = None
        return messages.decode_from_worker(body)

    async def _read_within(self, pause_s: float | None) -> FromWorker | None:
        """The next message, or None if none has come by then."""
        try:
            async with asyncio.timeout(pause_s):
                return await self._read()
        except TimeoutError:
            return None

    async def _write(self, content: bytes | memoryview) -> None:
        """Write in pieces, so that a large module never holds the loop."""
        if self._stdin is None:
            raise Bug("a worker without a pipe")
        view = memoryview(content)
        for start in range(0, len(view), _CHUNK_BYTES):
            self._stdin.write(view[start : start + _CHUNK_BYTES])
            await self._stdin.drain()

    async def _send_module(self, content: bytes) -> None:
        await self._write(messages.encode(ModuleFollows(size_bytes=len(content))))
        await self._write(content)

    def _cpu_s(self) -> float:
        """Processor seconds of the worker so far, as the kernel counts them; 0 once it is gone."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


class Heard:
    """What a guest has printed so far, by its worker's word: told on at once, and kept for its obituary."""

    def __init__(self, job: GuestJob | None = None) -> None:
        self._on_output = job.on_output if job is not None else None
        bounds = job.limits if job is not None else GuestLimits()
        self._bounds_bytes = {"stdout": bounds.stdout_bytes, "stderr": bounds.stderr_bytes}
        self._kept = {"stdout": bytearray(), "stderr": bytearray()}

    def take(self, printed: Printed) -> None:
        """Note it, and tell whoever reads along."""
        kept = self._kept[printed.stream]
        kept += printed.data
        del kept[: max(0, len(kept) - self._bounds_bytes[printed.stream])]
        if self._on_output is not None:
            self._on_output(printed.stream, printed.data, printed.skipped_bytes)

    def completed(self, failed: GuestFailed) -> GuestFailed:
        """The failure with what the guest had printed, where a killed worker could no longer say it."""
        texts = {name: kept.decode(errors="replace") for name, kept in self._kept.items()}
        return replace(
            failed, stdout=failed.stdout or texts["stdout"], stderr=failed.stderr or texts["stderr"]
        )


def _last(message: FromWorker) -> Finished:
    if not isinstance(message, Finished):
        raise DecodeError(f"{type(message).__name__} while a guest runs")
    return message


def _overrun(allowed: GuestLimits, *, of_wall: bool) -> GuestFailed:
    told = f"wall limit of {allowed.wall_s:g} s" if of_wall else f"processor time of {allowed.cpu_s:g} s"
    return GuestFailed(
        kind="timeout" if of_wall else "cpu",
        message=f"the guest ran into its {told} inside a host call, and was killed with its worker",
        wall_s=allowed.wall_s if of_wall else 0.0,
        cpu_s=0.0 if of_wall else allowed.cpu_s,
    )
