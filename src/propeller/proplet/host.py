"""What a proplet can say of the machine it runs on, and whether the process that started it still lives."""

import asyncio
import ctypes
import os
import platform
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import propeller
from propeller.errors import EnvironmentError_
from propeller.wire.messages import PropletMetadata

_PR_SET_PDEATHSIG = 1
PARENT_CHECK_S = 1.0
"""The kernel's signal is the fast way to learn of the parent's end; this is the sure one."""


def describe(
    *,
    description: str = "",
    location: str = "",
    tags: tuple[str, ...] = (),
    labels: Mapping[str, str] | None = None,
) -> PropletMetadata:
    """The metadata of an announcement; what cannot be found out is left out."""
    return PropletMetadata(
        description=description or None,
        tags=list(tags) or None,
        labels=dict(labels or {}) or None,
        location=location or None,
        ip=_ip(),
        environment="docker" if Path("/.dockerenv").exists() else "binary",
        os=platform.system().lower(),
        hostname=socket.gethostname() or None,
        cpu_arch=platform.machine(),
        total_memory_bytes=_memory_bytes(),
        proplet_version=propeller.__version__,
        wasm_runtime=f"wasmtime-{metadata.version('wasmtime')}",
    )


def _memory_bytes() -> float | None:
    with suppress(OSError, ValueError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return None


def _ip() -> str | None:
    """The address that this machine speaks to others from. Connecting a datagram socket sends nothing."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return None


def end_with_parent() -> int:
    """Have the kernel send this process SIGTERM when its parent ends; returns the parent's id.

    Raises `EnvironmentError_` where the kernel cannot do that.
    """
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise EnvironmentError_(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    return parent


async def orphaned(parent: int) -> None:
    """Return when `parent` is no longer this process's parent."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing in this process brings the news
        await asyncio.sleep(PARENT_CHECK_S)
