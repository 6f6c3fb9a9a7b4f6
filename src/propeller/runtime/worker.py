"""The worker process: takes jobs from its parent one at a time, and runs each guest to its end.

One thread, whose stack is the guests', reads the socket and runs them. The main thread keeps the watch: an
alarm wakes it only when a guest runs for long, and a hang-up when the parent went away, even in the middle
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
from pathlib import Path
from typing import Final, NoReturn

from wasmtime import Module, Trap, WasmtimeError

from propeller import limits
from propeller.errors import DecodeError
from propeller.ports import GuestDone, GuestFailed, OutputStream
from propeller.runtime import messages
from propeller.runtime.cache import CompileCache
from propeller.runtime.capture import Capture
from propeller.runtime.component import CommandFailed, ComponentRunner
from propeller.runtime.engine import Sandbox
from propeller.runtime.failure import Failure, Unfit, classify, exited_well, stopped
from propeller.runtime.guest import CoreRunner, Streams
from propeller.runtime.host import HostCalls
from propeller.runtime.messages import (
    Finished,
    Job,
    Loading,
    ModuleFollows,
    NeedModule,
    Printed,
    Ready,
    Started,
)
from propeller.runtime.modules import Loaded, Modules
from propeller.runtime.watch import CHECK_S, Alarm, Watch, own_bytes

CRASHED: Final = 70
"""Exit status of a worker that met a mistake of its own (EX_SOFTWARE)."""
_READ_BYTES: Final = 64 * 1024
_READ_BYTES_MAX: Final = 1024 * 1024
_HOST_STACK_BYTES: Final = 2 * 1024 * 1024
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_GUEST_ERRORS: Final = (WasmtimeError, Trap, Unfit, CommandFailed, RecursionError)


class Pipe:
    """The socket that leads to the parent, taken away from everything else in the process."""

    def __init__(self) -> None:
        self.descriptor = os.dup(0)
        self._lock = threading.Lock()
        self._arrived = bytearray()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)

    def read(self, size_bytes: int) -> bytes:
        """Exactly so many bytes; ends the process when the parent is gone."""
        arrived = self._arrived
        while len(arrived) < size_bytes:
            # No more than a socket can hold: a read makes room for all that it asks for.
            part = os.read(self.descriptor, min(max(size_bytes - len(arrived), _READ_BYTES), _READ_BYTES_MAX))
            if not part:
                os._exit(0)
            arrived += part
        if len(arrived) == size_bytes:
            self._arrived = bytearray()
            return bytes(arrived)
        taken = bytes(arrived[:size_bytes])
        del arrived[:size_bytes]
        return taken

    def receive(self) -> messages.ToWorker:
        """The next message."""
        size_bytes = messages.length(self.read(messages.HEADER.size))
        return messages.decode_to_worker(self.read(size_bytes))

    def send(self, message: messages.FromWorker) -> None:
        """Write a message whole."""
        rest = memoryview(messages.encode(message))
        with self._lock:
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]


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


class Worker:
    """Serves jobs until the parent closes the socket."""

    def __init__(self, pipe: Pipe, cache: CompileCache) -> None:
        self._pipe = pipe
        self._cache = cache
        self._engine = Engine(limits.GUEST_STACK_BYTES, cache)
        self._alarm = Alarm()
        self._watch: Watch | None = None
        self._printer: Printer | None = None
        self._own_bytes_at_start = own_bytes()

    def serve(self) -> NoReturn:
        """Have jobs done, and keep the watch meanwhile."""
        poller = select.poll()
        poller.register(self._alarm.descriptor, select.POLLIN)
        poller.register(self._pipe.descriptor, 0)  # a hang-up is told unasked
        self._pipe.send(Ready())
        self._hand_over([], limits.GUEST_STACK_BYTES)
        while True:
            for descriptor, _ in poller.poll():
                if descriptor == self._pipe.descriptor:
                    os._exit(0)
                self._alarm.quiet()
                self._look()

    def _look(self) -> None:
        """A guest runs for long: pass on what it prints, and hold it to its limits."""
        watch, printer = self._watch, self._printer
        if printer is not None:
            printer.flush()
        if watch is None:
            return
        if not watch.check():
            self._give_up(watch)
        self._alarm.set(watch.pause_s())

    def _hand_over(self, box: list[Job], stack_bytes: int) -> None:
        """Have jobs done by a new thread with such a stack, beginning with the one in the box."""
        threading.stack_size(stack_bytes + _HOST_STACK_BYTES)
        threading.Thread(target=self._do_all, args=(box, stack_bytes), daemon=True).start()

    def _do_all(self, box: list[Job], stack_bytes: int) -> None:
        """The life of a jobs' thread: until a job wants another stack.

        A mistake of ours ends the process: its state can no longer be trusted.
        """
        try:
            while True:
                if not box:
                    box = [self._next()]
                if box[0].limits.stack_bytes != stack_bytes:
                    self._engine = Engine(box[0].limits.stack_bytes, self._cache)
                    self._hand_over(box, box[0].limits.stack_bytes)
                    return
                self._job(box)
        except BaseException:  # noqa: BLE001 - the boundary of the jobs' thread
            sys.excepthook(*sys.exc_info())
            os._exit(CRASHED)

    def _next(self) -> Job:
        message = self._pipe.receive()
        if isinstance(message, ModuleFollows):
            raise DecodeError("a module came that nobody asked for")
        return message

    def _give_up(self, watch: Watch) -> NoReturn:
        """Too much memory is held where no interruption reaches: report, and end with the memory."""
        wall_s, cpu_s = watch.used()
        message = "the worker's resident memory went over its bound"
        failed = GuestFailed(kind="memory", message=message, wall_s=wall_s, cpu_s=cpu_s)
        self._pipe.send(Finished(failed=failed, retire=True))
        os._exit(0)

    def _job(self, box: list[Job]) -> None:
        """Do the job in the box, which is emptied before memory is measured."""
        job = box.pop()
        watch = self._watch = Watch(job.limits, self._engine.sandbox.engine.increment_epoch)
        self._alarm.set(min(CHECK_S, job.limits.wall_s, job.limits.cpu_s))
        done, failed = self._run(job, watch)
        del job
        self._watch = None
        self._alarm.set(0)
        retire = own_bytes() > self._own_bytes_at_start + limits.WORKER_GROWTH_BYTES
        self._pipe.send(Finished(done=done, failed=failed, retire=retire))

    def _run(self, job: Job, watch: Watch) -> tuple[GuestDone | None, GuestFailed | None]:
        streams = Streams(
            stdout=Capture(job.limits.stdout_bytes, lambda: watch.stop("output"), rolling=job.endless),
            stderr=Capture(job.limits.stderr_bytes, rolling=job.endless),
        )
        loaded = self._engine.modules.at_hand(job.digest)
        late = loaded is None
        try:
            if loaded is None:
                self._pipe.send(Loading())
                loaded = self._engine.modules.load(job.digest, self._fetch)
        except (WasmtimeError, Unfit) as error:
            watch.finish()
            return None, _failed(Failure(kind="invalid_module", message=str(error)), streams, (0.0, 0.0))
        if job.load_only:
            watch.finish()
            return GuestDone(stdout="", stderr=""), None
        watch.begin()
        if late:
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
        calls = HostCalls(strings=job.strings(), env=job.env)
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
        answer = self._pipe.receive()
        if not isinstance(answer, ModuleFollows):
            raise DecodeError("a job came in place of the module that was asked for")
        return self._pipe.read(answer.size_bytes)


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
