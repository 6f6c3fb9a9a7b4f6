"""An event loop whose clock is virtual: when nobody can go on, time jumps to the next timer.

Nothing ever waits for real, so hours pass in milliseconds, and the order of everything follows from the
program and its seeds alone. It offers no sockets, threads or signals: a world has none.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from propeller.errors import Bug
from propeller.ports import Instant

T = TypeVar("T")

_TURNS_MAX = 100_000
"""Turns of the loop without the passing of time after which nobody believes that it will ever pass."""
EPOCH_S = 1_700_000_000.0
"""Wall time at which every world begins (Unix seconds)."""


class _Jump(selectors.BaseSelector):
    """A selector that watches nothing and, instead of waiting, lets the loop's clock jump."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._still = 0
        self._watched: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Remember a file object; the loop registers only its own wake-up pipe."""
        key = selectors.SelectorKey(
            fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data
        )
        self._watched[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Forget a file object."""
        return self._watched.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Jump over the time that the loop would have waited."""
        if timeout is None:
            raise Bug("the world stands still: every task waits for something that no timer brings")
        self._still = 0 if timeout > 0 else self._still + 1
        if self._still > _TURNS_MAX:
            raise Bug(f"the world spins: {_TURNS_MAX} turns of the loop and no time has passed")
        self.now_s += max(0.0, timeout)
        return []

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        """What is registered."""
        return self._watched


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `time()` is virtual seconds since the world began."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jump.now_s


class VirtualClock:
    """`ports.Clock` of a world; its wall clock may be set wrong on purpose by `skew_s`."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.skew_s = 0.0

    def now(self) -> Instant:
        """The present virtual moment."""
        mono_s = self._loop.time()
        return Instant(mono_s=mono_s, wall_s=EPOCH_S + mono_s + self.skew_s)


def run_virtual(main: Coroutine[Any, Any, T], loop: VirtualLoop) -> T:
    """Run `main` to its end on a virtual loop, then cancel what is left and close the loop."""
    try:
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:  # `wait` refuses an empty set
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
