"""The life of one process of roles: its loop, its signals, its logs, and an end that is always clean.

It must not know which roles it runs.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

import uvloop

from propeller import limits
from propeller.errors import EnvironmentError_, PropellerError
from propeller.telemetry import logs

STOP_S: Final = 5.0
"""A process that was asked to stop has stopped after this."""
_SWITCH_S: Final = 0.0005
_COLLECT: Final = (10_000, 10, 10)
_PR_SET_PDEATHSIG: Final = 1
_DESCRIPTORS_MAX: Final = 65_536
"""What a process asks for at most: far above its connections, and its bookkeeping stays small."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def enough_descriptors(needed: int) -> None:
    """Have this process use as many file descriptors as it is allowed.

    Raises `EnvironmentError_` if it is allowed fewer than `needed`: it would stop halfway, without a word.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise EnvironmentError_(
            f"{needed} file descriptors are needed and {soft} allowed: raise the limit with `ulimit -n`, "
            "or LimitNOFILE= in a systemd unit",
            code="descriptors",
        )


def run_role(role: str, level: logs.Level, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `work` as the one role of this process, its log on stderr, until it ends or a signal asks."""
    enough_descriptors(limits.ROLE_DESCRIPTORS_MIN)
    logs.configure(role, level)
    with logs.role_context(role):
        run(work)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `work` in a loop of its own. SIGTERM and Ctrl-C cancel it and are no failure."""
    # The thread that commits asks for the interpreter after every row. A busy loop lets it wait this long
    # each time, by default 5 ms, and all that wait for the commit with it.
    sys.setswitchinterval(_SWITCH_S)
    # What was loaded stays, and little of what a role makes is a cycle; by default the collector looks for
    # some every 700 objects, of which a task has hundreds.
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    uvloop.run(_until_told(work))


async def _until_told(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    task = asyncio.ensure_future(work())
    loop = asyncio.get_running_loop()
    for one in _SIGNALS:
        loop.add_signal_handler(one, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return
    except BaseExceptionGroup as group:
        raise first_cause(group) from group
    finally:
        for one in _SIGNALS:
            loop.remove_signal_handler(one)


def first_cause(error: BaseException) -> BaseException:
    """The first of our own errors inside a group, else the first of any kind."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [first_cause(one) for one in error.exceptions]
    return next((one for one in causes if isinstance(one, PropellerError)), causes[0])


@contextlib.asynccontextmanager
async def beside(name: str, work: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Task[None]"]:
    """`work` in a task of its own for the life of the context; then cancelled and awaited.

    If it ends earlier that is a failure of its own, which the body learns from `watch`.
    """
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            logs.logger().error("role ended badly", name=name, error=str(first_cause(error)))


async def watch(*tasks: "asyncio.Task[None]") -> None:
    """Wait until one of `tasks` ends, which none should, and raise why."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    ended = next(iter(done))
    error = None if ended.cancelled() else ended.exception()
    if error is not None:
        raise first_cause(error)
    raise EnvironmentError_(f"{ended.get_name()} ended by itself")


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however that ends.

    The parent may be gone already, in which case no signal will come: then this process ends here.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise EnvironmentError_(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit(0)
