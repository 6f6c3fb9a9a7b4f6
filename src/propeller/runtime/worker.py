"""The worker process: takes jobs from its parent one at a time, runs each guest on a thread of its own.

The main thread reads the pipe and keeps the watch, so it notices a parent that went away even in the middle
of a job. The process ends with its parent, whichever way that ends. `python -m propeller.runtime.worker` is
started by `propeller.runtime.process` only.
"""

import ctypes
import os
import resource
import select
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NoReturn

from wasmtime import Module, Trap, WasmtimeError

from propeller import limits
from propeller.ports import GuestDone, GuestFailed, OutputStream
from propeller.runtime import messages
from propeller.runtime.cache import CompileCache
from propeller.runtime.capture import Capture
from propeller.runtime.component import CommandFailed, ComponentRunner
from propeller.runtime.engine import Sandbox
from propeller.runtime.failure import Failure, Unfit, classify, exited_well, stopped
from propeller.runtime.guest import CoreRunner, Streams
from propeller.runtime.host import HostCalls
from propeller.runtime.messages import Finished, Job, ModuleFollows, NeedModule, Printed, Ready, Started
from propeller.runtime.modules import Loaded, Modules
from propeller.runtime.watch import Watch, own_bytes

CRASHED: Final = 70
"""Exit status of a worker that met a mistake of its own (EX_SOFTWARE)."""
_READ_BYTES: Final = 1024 * 1024
_HOST_STACK_BYTES: Final = 2 * 1024 * 1024
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_GUEST_ERRORS: Final = (WasmtimeError, Trap, Unfit, CommandFailed, RecursionError)


class Pipe:
    """The two descriptors that lead to the parent, taken away from everything else in the process."""

    def __init__(self) -> None:
        self.inward = os.dup(0)
        self._outward = os.dup(1)
        self._lock = threading.Lock()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)

    def read(self, size_bytes: int) -> bytes:
        """Exactly so many bytes; ends the process when the parent is gone."""
        content = bytearray()
        while len(content) < size_bytes:
            # No more than a pipe can hold: a read makes room for all that it asks for.
            part = os.read(self.inward, min(size_bytes - len(content), _READ_BYTES))
            if not part:
                os._exit(0)
            content += part
        return bytes(content)

    def receive(self) -> messages.ToWorker:
        """The next message."""
        size_bytes = messages.length(self.read(messages.HEADER.size))
        return messages.decode_to_worker(self.read(size_bytes))

    def send(self, message: messages.FromWorker) -> None:
        """Write a message whole."""
        rest = memoryview(messages.encode(message))
        with self._lock:
            while rest:
                rest = rest[os.write(self._outward, rest) :]


class Printer:
    """Tells the parent what a guest prints, from whichever thread, in order and at a bounded pace."""

    def __init__(self, pipe: Pipe, streams: Streams) -> None:
        self._pipe = pipe
        self._streams: tuple[tuple[OutputStream, Capture], ...] = (
            ("stdout", streams.stdout),
            ("stderr", streams.stderr),
        )
        self._lock = threading.Lock()
        self._closed = False

    def flush(self) -> None:
        """Say what is new, at most `limits.GUEST_PRINT_BYTES_MAX` of each stream: its end."""
        with self._lock:
            if not self._closed:
                self._say()

    def close(self, *, rest: bool) -> None:
        """Say nothing more, after the `rest` if that is wanted: the job is over."""
        with self._lock:
            if rest:
                self._say()
            self._closed = True

    def _say(self) -> None:
        for name, capture in self._streams:
            data, skipped = capture.take(limits.GUEST_PRINT_BYTES_MAX)
            if data:
                self._pipe.send(Printed(stream=name, data=data, skipped_bytes=skipped))


class Engine:
    """A sandbox with its runners and modules: everything that is made anew for another stack size."""

    def __init__(self, stack_bytes: int, cache: CompileCache) -> None:
        self.sandbox = Sandbox(stack_bytes)
        self.modules = Modules(self.sandbox, cache)
        self.core = CoreRunner(self.sandbox)
        self.component = ComponentRunner(self.sandbox)


class JobThread:
    """A thread with a stack of its own size that does one job after the other; dropped, it ends."""

    def __init__(self, do: Callable[[list[Job], Watch], None], stack_bytes: int) -> None:
        self._given: SimpleQueue[tuple[list[Job], Watch] | None] = SimpleQueue()
        threading.stack_size(stack_bytes)
        threading.Thread(target=_do_all, args=(self._given, do), daemon=True).start()

    def give(self, box: list[Job], watch: Watch) -> None:
        """Have a job done."""
        self._given.put((box, watch))

    def __del__(self) -> None:
        self._given.put(None)


def _do_all(
    given: "SimpleQueue[tuple[list[Job], Watch] | None]", do: Callable[[list[Job], Watch], None]
) -> None:
    while (job := given.get()) is not None:
        do(*job)
        del job


class Worker:
    """Serves jobs until the parent closes the pipe."""

    def __init__(self, pipe: Pipe, cache: CompileCache) -> None:
        self._pipe = pipe
        self._cache = cache
        self._engine = Engine(limits.GUEST_STACK_BYTES, cache)
        self._watch: Watch | None = None
        self._printer: Printer | None = None
        self._module_bytes: SimpleQueue[bytes] = SimpleQueue()
        self._own_bytes_at_start = own_bytes()
        self._hands: JobThread | None = None

    def serve(self) -> NoReturn:
        """Take messages, and keep the watch meanwhile."""
        poller = select.poll()
        poller.register(self._pipe.inward, select.POLLIN)
        self._pipe.send(Ready())
        while True:
            watch = self._watch
            pause_ms = None if watch is None else watch.pause_s() * 1000
            if poller.poll(pause_ms):
                self._take(self._pipe.receive())
                continue
            printer = self._printer
            if printer is not None:
                printer.flush()
            if watch is not None and not watch.check():
                self._give_up(watch)

    def _take(self, message: messages.ToWorker) -> None:
        if isinstance(message, ModuleFollows):
            self._module_bytes.put(self._pipe.read(message.size_bytes))
            return
        if message.limits.stack_bytes != self._engine.sandbox.stack_bytes:
            self._engine, self._hands = Engine(message.limits.stack_bytes, self._cache), None
        if self._hands is None:
            self._hands = JobThread(self._job, message.limits.stack_bytes + _HOST_STACK_BYTES)
        self._watch = Watch(message.limits, self._engine.sandbox.engine.increment_epoch)
        self._hands.give([message], self._watch)

    def _give_up(self, watch: Watch) -> NoReturn:
        """Too much memory is held where no interruption reaches: report, and end with the memory."""
        wall_s, cpu_s = watch.used()
        message = "the worker's resident memory went over its bound"
        failed = GuestFailed(kind="memory", message=message, wall_s=wall_s, cpu_s=cpu_s)
        self._pipe.send(Finished(failed=failed, retire=True))
        os._exit(0)

    def _job(self, box: list[Job], watch: Watch) -> None:
        """The job's thread. A mistake of ours ends the process: its state can no longer be trusted.

        The job comes in a box, to be dropped before memory is measured.
        """
        try:
            done, failed = self._run(box.pop(), watch)
            retire = own_bytes() > self._own_bytes_at_start + limits.WORKER_GROWTH_BYTES
            self._watch = None
            self._pipe.send(Finished(done=done, failed=failed, retire=retire))
        except BaseException:  # noqa: BLE001 - the boundary of the job's thread
            sys.excepthook(*sys.exc_info())
            os._exit(CRASHED)

    def _run(self, job: Job, watch: Watch) -> tuple[GuestDone | None, GuestFailed | None]:
        streams = Streams(
            stdout=Capture(job.limits.stdout_bytes, lambda: watch.stop("output"), rolling=job.endless),
            stderr=Capture(job.limits.stderr_bytes, rolling=job.endless),
        )
        try:
            loaded = self._engine.modules.get(job.digest, self._fetch)
        except (WasmtimeError, Unfit) as error:
            watch.finish()
            return None, _failed(Failure(kind="invalid_module", message=str(error)), streams, (0.0, 0.0))
        if job.load_only:
            watch.finish()
            return GuestDone(stdout="", stderr=""), None
        watch.begin()
        self._pipe.send(Started())
        printer = self._printer = Printer(self._pipe, streams)
        try:
            return self._enter(loaded, job, watch, streams)
        finally:
            self._printer = None
            printer.close(rest=job.stream)

    def _enter(
        self, loaded: Loaded, job: Job, watch: Watch, streams: Streams
    ) -> tuple[GuestDone | None, GuestFailed | None]:
        value, failure = None, None
        calls = HostCalls(strings=job.host_strings, env=job.env)
        try:
            if isinstance(loaded, Module):
                value = self._engine.core.run(loaded, job, streams, calls)
            else:
                value = self._engine.component.run(loaded, job, streams)
        except _GUEST_ERRORS as error:
            failure = self._verdict(error, job, watch)
        watch.finish()
        if streams.stdout.overflowed:
            failure = stopped("output", job.limits)
        if failure is not None:
            return None, _failed(failure, streams, watch.used())
        return self._done(value, calls.result, streams, watch), None

    def _verdict(self, error: Exception, job: Job, watch: Watch) -> Failure | None:
        if exited_well(error):
            return None
        if isinstance(error, CommandFailed):
            return Failure(kind="exit", message=str(error))
        failure = classify(error, job.limits, refused=self._engine.sandbox.memories.refused)
        if watch.reason is not None and failure.kind in ("trap", "exit"):
            return stopped(watch.reason, job.limits)
        return failure

    def _done(self, value: str | None, result: bytes | None, streams: Streams, watch: Watch) -> GuestDone:
        wall_s, cpu_s = watch.used()
        return GuestDone(
            stdout=streams.stdout.text(),
            stderr=streams.stderr.text(),
            value=value,
            result=result,
            wall_s=wall_s,
            cpu_s=cpu_s,
            memory_bytes=self._engine.sandbox.memories.peak_bytes,
        )

    def _fetch(self) -> bytes:
        self._pipe.send(NeedModule())
        return self._module_bytes.get()


def _failed(failure: Failure, streams: Streams, used_s: tuple[float, float]) -> GuestFailed:
    return GuestFailed(
        kind=failure.kind,
        message=failure.message,
        stdout=streams.stdout.text(),
        stderr=streams.stderr.text(),
        wall_s=used_s[0],
        cpu_s=used_s[1],
    )


def bind_to_parent(parent: int) -> None:
    """End with the parent, gain no privileges, leave no core dump, write no huge file, ignore Ctrl-C."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard_bytes = resource.getrlimit(resource.RLIMIT_FSIZE)
    if hard_bytes == resource.RLIM_INFINITY or hard_bytes > limits.GUEST_FILE_BYTES_MAX:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.GUEST_FILE_BYTES_MAX,) * 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getppid() != parent:
        os._exit(0)


def main() -> NoReturn:
    """Arguments: the parent's process id and the cache directory."""
    parent, cache_dir = int(sys.argv[1]), Path(sys.argv[2])
    bind_to_parent(parent)
    Worker(Pipe(), CompileCache(cache_dir, limits.GUEST_CACHE_BYTES)).serve()


if __name__ == "__main__":
    main()
