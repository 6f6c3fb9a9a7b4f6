"""One worker process, seen from the agent: start it, give it a job, kill it when it does not end in time.

It imports nothing that runs Wasm. Its reader need not trust a worker: whatever comes from there is decoded
with types and bounds, and a worker that breaks the protocol is killed.
"""

import asyncio
import math
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from propeller import limits
from propeller.errors import Bug, DecodeError, EnvironmentError_
from propeller.ports import GuestDone, GuestFailed, GuestJob, GuestLimits
from propeller.runtime import messages
from propeller.runtime.line import Line, LineLost
from propeller.runtime.messages import (
    Finished,
    FromWorker,
    Loading,
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
_PROGRAM: Final = ("-P", "-m", "propeller.runtime.worker")
_KEPT_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH")
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")

Outcome = GuestDone | GuestFailed


class WorkerProcess:
    """A running worker. `start` makes one; it takes one job at a time; drop it once it is not `alive`."""

    def __init__(self, process: asyncio.subprocess.Process, line: Line) -> None:
        self._process = process
        self._line = line
        self._stopping = False
        self._retiring = False
        self._loading = False
        self._ran: set[str] = set()
        """Digests of the modules that it was given."""
        self._heard = Heard()

    @classmethod
    async def start(cls, cache_dir: Path) -> "WorkerProcess":
        """Spawn a worker and wait until it is ready; raises `EnvironmentError_` if it does not get there.

        The worker gets none of the agent's environment beyond paths and language: no secret to find there.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, *_PROGRAM, str(os.getpid()), str(cache_dir)),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                    env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
                )
            except BaseException:
                ours.close()
                raise
        _, line = await asyncio.get_running_loop().create_connection(Line, sock=ours)
        worker = cls(process, line)
        try:
            async with asyncio.timeout(limits.WORKER_START_S):
                ready = await line.next()
        except (LineLost, DecodeError, TimeoutError) as error:
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
        return await self._ended()

    async def retire(self) -> None:
        """Let it go: it ends by itself when its pipe closes, or is killed."""
        self._retiring = True
        self._line.close()
        try:
            async with asyncio.timeout(limits.WORKER_START_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def _ended(self) -> int:
        """The exit status, once there is one."""
        status = await self._process.wait()
        self._line.abort()
        return status

    async def run(self, job: GuestJob, framed: bytes, compile_s: float) -> Outcome:
        """Run one job to its end, however it ends; `alive` says afterwards whether the worker survived it.

        `framed` is the job's message by `messages.encode_job`, made before a worker was risked on it.

        Raises `Bug` if the worker met a mistake of ours. When cancelled, the caller kills the worker.
        """
        self._heard = Heard(job)
        try:
            await self._line.send(framed)
            ended = await self._end(job, compile_s)
            outcome = ended if isinstance(ended, GuestFailed) else self._outcome(ended)
        except DecodeError as error:
            await self.kill()
            outcome = GuestFailed(kind="trap", message=f"the worker broke its protocol: {error}")
        except LineLost:
            outcome = await self._obituary()
        # A worker that gave up over its memory reports in haste, without what the guest had printed.
        return self._heard.completed(outcome) if isinstance(outcome, GuestFailed) else outcome

    def _outcome(self, finished: Finished) -> Outcome:
        self._retiring = finished.retire
        outcome = finished.done or finished.failed
        if outcome is None:
            raise Bug("a worker finished a job without an outcome")
        return outcome

    async def _end(self, job: GuestJob, compile_s: float) -> Finished | GuestFailed:
        """Wait for the guest's end, and for its module before it if need be."""
        ended: Finished | GuestFailed | Loading = Loading()
        if job.digest in self._ran:
            # Most likely still in its memory; if not, a busy worker may say so late.
            ended = await self._run_out(job)
        if isinstance(ended, Loading):
            self._ran.add(job.digest)
            ended = await self._load(job, compile_s) or await self._run_out(job)
        if isinstance(ended, Loading):
            raise DecodeError("a module loads twice")
        return ended

    async def _run_out(self, job: GuestJob) -> Finished | GuestFailed | Loading:
        """The end of a guest that should have begun; `Loading` if it has not."""
        began_s = asyncio.get_running_loop().time()
        message = await self._line.next(min(_FIRST_LOOK_S, job.limits.wall_s))
        if isinstance(message, Finished | Loading):
            return message
        if job.on_worker is not None:
            job.on_worker(self.pid)
        return await self._watched(message, job, began_s)

    async def _load(self, job: GuestJob, compile_s: float) -> Finished | GuestFailed | None:
        """Serve the worker until the guest starts (None), or has already failed."""
        self._loading = True
        try:
            async with asyncio.timeout(compile_s):
                while isinstance(message := await self._line.next(), Loading | NeedModule):
                    if isinstance(message, NeedModule):
                        await self._line.send(messages.encode(ModuleFollows(size_bytes=len(job.module))))
                        await self._line.send(job.module)
        except TimeoutError:
            await self.kill()
            why = f"compiling the module took longer than {compile_s:g} s"
            return GuestFailed(kind="timeout", message=why)
        self._loading = False
        if isinstance(message, Started):
            return None
        return _last(message, "while a module loads")

    async def _watched(
        self, message: FromWorker | None, job: GuestJob, began_s: float
    ) -> Finished | GuestFailed | Loading:
        """The same of a guest that runs for long; one that does not feel its soft stop is killed."""
        allowed, clock = job.limits, asyncio.get_running_loop().time
        wall_end_s = math.inf if job.endless else began_s + allowed.wall_s + KILL_AFTER_S
        # Its processor time counts from the first look: less exactly than the worker itself counts it.
        cpu_end_s = math.inf if job.endless else self._cpu_s() + allowed.cpu_s + KILL_AFTER_S
        pause_s: float | None = None
        while True:
            if isinstance(message, Printed):
                self._heard.take(message)
            elif isinstance(message, Loading):
                return message
            elif message is not None:
                return _last(message, "while a guest runs")
            if not job.endless:
                wall_left_s, cpu_left_s = wall_end_s - clock(), cpu_end_s - self._cpu_s()
                if wall_left_s <= 0 or cpu_left_s <= 0:
                    await self.kill()
                    return _overrun(allowed, of_wall=wall_left_s <= 0)
                # A guest is one thread: its processor time is spent no faster than the wall's.
                pause_s = min(wall_left_s, max(cpu_left_s, 0.01))
            message = await self._line.next(pause_s)

    async def _obituary(self) -> GuestFailed:
        """What the end of the process in the middle of a job says about the guest."""
        stopping = self._stopping
        status = await self._ended()
        if stopping:
            return GuestFailed(kind="stopped", message="the runtime was closed while the guest ran")
        if status >= 0:
            raise Bug(
                f"a Wasm worker ended by itself with status {status}: see its traceback on standard error"
            )
        name = signal.Signals(-status).name
        if -status == signal.SIGKILL:
            message = "the worker was killed from outside, as a machine short of memory does"
            return GuestFailed(kind="memory", message=message)
        if self._loading:
            return GuestFailed(kind="invalid_module", message=f"the compiler did not survive it ({name})")
        return GuestFailed(kind="trap", message=f"the worker did not survive the guest ({name})")

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


def _last(message: FromWorker | None, when: str) -> Finished:
    if not isinstance(message, Finished):
        raise DecodeError(f"{type(message).__name__} {when}")
    return message


def _overrun(allowed: GuestLimits, *, of_wall: bool) -> GuestFailed:
    told = f"wall limit of {allowed.wall_s:g} s" if of_wall else f"processor time of {allowed.cpu_s:g} s"
    return GuestFailed(
        kind="timeout" if of_wall else "cpu",
        message=f"the guest ran into its {told} inside a host call, and was killed with its worker",
        wall_s=allowed.wall_s if of_wall else 0.0,
        cpu_s=0.0 if of_wall else allowed.cpu_s,
    )
