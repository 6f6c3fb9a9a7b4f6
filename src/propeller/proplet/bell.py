"""Waiting for either of two things: somebody rings, or a moment comes. Knows no reason for either."""

import asyncio


class Bell:
    """One waits, any number ring. A ring that finds nobody is heard by the next who waits.

    Cheaper than a timeout around an event: a timer that rings in time anyway is left as it is, so whoever
    waits may be woken early, and looks again.
    """

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def ring(self) -> None:
        """Wake whoever waits."""
        self._rung.set()

    async def wait(self, pause_s: float) -> None:
        """Return when it has rung, or after `pause_s` (infinity: never) at the latest."""
        if pause_s != float("inf"):
            loop = asyncio.get_running_loop()
            due_s = loop.time() + pause_s
            if self._timer is None or self._timer.when() > due_s:
                self._stop()
                self._timer = loop.call_at(due_s, self._ring_by_itself)
        try:
            await self._rung.wait()
        except BaseException:
            self._stop()
            raise
        self._rung.clear()

    def _ring_by_itself(self) -> None:
        self._timer = None
        self._rung.set()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
