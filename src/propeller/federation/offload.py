"""Where heavy work goes: a thread for kilobytes, a process of our own for megabytes. Knows nothing of it.

A thread alone does not keep the loop awake: decoding or printing a hundred megabytes of JSON is one call that
holds the interpreter lock for half a second. So large arguments travel through pipes, a chunk at a time with
the lock released, to one worker process that starts at its first use and ends when idle.
"""

import asyncio
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from io import BytesIO, FileIO
from typing import Any, Final, ParamSpec, Protocol, Self, TypeVar, cast

from propeller import limits
from propeller.errors import EnvironmentError_

P = ParamSpec("P")
T = TypeVar("T")

_HEAD: Final = struct.Struct("<I")
_FRAME: Final = struct.Struct("<cQ")
_RAW: Final = b"r"
_PICKLED: Final = b"p"
_CHUNK_BYTES: Final = 1 << 16
"""What a Linux pipe takes at once."""
_FRAMES_MAX: Final = 64


class Offload(Protocol):
    """Runs `work` off the loop. `work` is a module-level function without side effects on this process."""

    async def __call__(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns or raises."""
        ...


async def inline(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """An `Offload` that does the work here and now: for simulated worlds, which have no threads."""
    return work(*args, **kwargs)


async def by_size(
    offload: Offload, size_bytes: int, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Do `work` on `size_bytes` here if that takes less than waiting for a thread, else by `offload`."""
    if size_bytes <= limits.OFFLOAD_INLINE_BYTES:
        return work(*args, **kwargs)
    return await offload(work, *args, **kwargs)


class SizedOffload:
    """The `Offload` of production. Work given over `process_bytes` of `bytes` goes to the process.

    Only positional arguments count. One process, one job at a time: memory stays bounded. `close` ends it; so
    does `idle_s` without work.
    """

    def __init__(
        self,
        *,
        process_bytes: int = limits.OFFLOAD_PROCESS_BYTES,
        idle_s: float = limits.WORKER_IDLE_S,
    ) -> None:
        self._process_bytes = process_bytes
        self._idle_s = idle_s
        self._worker = _Worker()
        self._retire: asyncio.TimerHandle | None = None
        self._ending: asyncio.Future[None] | None = None

    async def __call__(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work`. Raises what it raises, or `EnvironmentError_` if the worker process dies."""
        size_bytes = sum(len(one) for one in args if isinstance(one, bytes))
        if size_bytes <= self._process_bytes:
            return await asyncio.to_thread(work, *args, **kwargs)
        if self._retire is not None:
            self._retire.cancel()
        try:
            return cast("T", await asyncio.to_thread(self._worker.run, work, args, kwargs))
        finally:
            loop = asyncio.get_running_loop()
            self._retire = loop.call_later(self._idle_s, self._end_in_background, loop)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the worker process, if there is one."""
        if self._retire is not None:
            self._retire.cancel()
        if self._ending is not None:
            await self._ending
        await asyncio.to_thread(self._worker.end)

    def _end_in_background(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ending = loop.run_in_executor(None, self._worker.retire)


class _Worker:
    """The process and its pipes. Its lock serialises jobs, also those whose caller no longer waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, work: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._lock:
            process = self._started()
            try:
                send(cast("FileIO", process.stdin), [work, kwargs, *args])
                kind, *values = receive(cast("FileIO", process.stdout))
            except (OSError, EOFError) as error:
                self._end()
                raise EnvironmentError_(
                    "the worker process for large requests ended before it answered, perhaps for want of "
                    "memory; try again, or send less at once",
                    code="worker_died",
                ) from error
        if kind == "error":
            raise values[0]
        return tuple(values) if kind == "tuple" else values[0]

    def retire(self) -> None:
        """End the process unless it is at work again."""
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def end(self) -> None:
        """End the process now; a job in it fails."""
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end()

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "propeller.federation.offload_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                # Its own group: Ctrl-C at the terminal is for us, who then end it.
                process_group=0,
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with process:
                process.kill()


def send(pipe: FileIO, values: list[Any]) -> None:
    """Write one message: `bytes` as they are, without a copy; anything else pickled."""
    pipe.write(_HEAD.pack(len(values)))
    for value in values:
        raw = type(value) is bytes
        body = memoryview(value if raw else pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))
        pipe.write(_FRAME.pack(_RAW if raw else _PICKLED, len(body)))
        sent = 0
        while sent < len(body):
            sent += pipe.write(body[sent:])


def receive(pipe: FileIO) -> list[Any]:
    """Read one message of `send`; `EOFError` if the other side has gone.

    What is unpickled comes from the other half of this program over a private pipe, from nowhere else.
    """
    (count,) = _HEAD.unpack(_exactly(pipe, _HEAD.size))
    if count > _FRAMES_MAX:
        raise EOFError("a broken frame")
    values: list[Any] = []
    for _ in range(count):
        kind, size_bytes = _FRAME.unpack(_exactly(pipe, _FRAME.size))
        if size_bytes > limits.OFFLOAD_ANSWER_BYTES_MAX:
            raise EOFError("a broken frame")
        body = _exactly(pipe, size_bytes)
        values.append(body if kind == _RAW else pickle.loads(body))  # noqa: S301 - see above
    return values


def _exactly(pipe: FileIO, size_bytes: int) -> bytes:
    # BytesIO hands its buffer over without the copy that joining chunks would make under the lock.
    whole = BytesIO()
    missing = size_bytes
    while missing:
        chunk = pipe.read(min(missing, _CHUNK_BYTES))
        if not chunk:
            raise EOFError("the pipe was closed")
        whole.write(chunk)
        missing -= len(chunk)
    return whole.getvalue()
