"""Where blocking work of a proplet runs: a thread on a device, at once in a simulated world."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Protocol, TypeVar

from propeller import limits

T = TypeVar("T")


class Offload(Protocol):
    """Runs a call that blocks or computes, away from the event loop."""

    async def __call__(self, call: Callable[[], T], /) -> T:
        """What `call()` returns or raises."""
        ...


async def in_thread(call: Callable[[], T], /) -> T:
    """Run it in a thread of the loop's pool."""
    return await asyncio.to_thread(call)


async def at_once(call: Callable[[], T], /) -> T:
    """Run it here and now, for worlds without threads."""
    return call()


def for_size(size_bytes: int, offload: Offload) -> Offload:
    """What runs work on so many bytes: here, if that takes no longer than a thread takes to be told of it."""
    return at_once if size_bytes <= limits.HTTP_JSON_OFFLOAD_BYTES else offload


async def sha256_of(content: bytes, offload: Offload) -> str:
    """The SHA-256 in hex, of what is large by `offload`."""
    return await for_size(len(content), offload)(lambda: hashlib.sha256(content).hexdigest())
