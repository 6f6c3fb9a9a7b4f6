"""Who waits for whom: one at a time for each key, and many at once of whom none is left behind.

It must not know what is done meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")

TOGETHER = 64
"""How many of many are done at the same time: enough to share a commit."""


class Turns:
    """A lock for each key, for as long as somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, key: str) -> asyncio.Lock:
        """The key's lock, for an `async with`."""
        return self._locks.setdefault(key, asyncio.Lock())


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do it for all; once every one has ended, raise what the first of them raised, if any did.

    A failure cancels nobody: what the others do is wanted, whatever comes of one. But nobody is left at work
    once the caller lets go of its lock, or does it all again.
    """
    room = asyncio.Semaphore(TOGETHER)

    async def one(item: T) -> None:
        async with room:
            await work(item)

    ended = await asyncio.gather(*map(one, items), return_exceptions=True)
    for raised in ended:
        if raised is not None:
            raise raised
