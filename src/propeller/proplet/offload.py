"""Where blocking work of a proplet runs: a thread on a device, at once in a simulated world."""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

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
