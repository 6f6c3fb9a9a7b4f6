"""One process of a world: started from what it left on disk, and killed at any await. Knows no roles."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from propeller.errors import StorageFull
from propeller.telemetry.logs import role_context


class Life(Protocol):
    """What a node does while it lives, given what it must announce once it answers."""

    async def __call__(self) -> None:
        """Run until cancelled."""
        ...


class Node:
    """A named process. `live` runs it from its disk; `on_crash` cuts its sockets before it is killed."""

    def __init__(
        self,
        name: str,
        live: Callable[[], Awaitable[None]],
        on_crash: Sequence[Callable[[], None]] = (),
    ) -> None:
        self.name = name
        self.crashes = 0
        self.failure: BaseException | None = None
        """What ended the node without anybody killing it; a world with one has found a bug."""
        self._live = live
        self._on_crash = on_crash
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start it unless it runs."""
        if not self.up:
            self._task = asyncio.get_running_loop().create_task(self._guarded(), name=self.name)

    def crash(self) -> None:
        """Kill it: sockets first, so that it has no last word."""
        if self.up and self._task is not None:
            self.crashes += 1
            for cut in self._on_crash:
                cut()
            self._task.cancel()

    async def _guarded(self) -> None:
        try:
            with role_context(self.name):
                await self._live()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - the boundary of a simulated process
            self.failure = error


class Brittle:
    """A store that may have no room for a commit, and whose owner may die just before or just after one.

    Everything else passes through. `saw` is shown what was committed, whether or not anybody lives to tell.
    """

    def __init__(
        self,
        store: Any,
        dies: Callable[[], bool],
        no_room: Callable[[], bool],
        saw: Callable[[Any], None] = lambda _changes: None,
    ) -> None:
        self._store = store
        self._dies = dies
        self._no_room = no_room
        self._saw = saw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, *args: Any, **kwargs: Any) -> Any:
        """Commit, unless the power goes first; it may also go right after."""
        await self._perhaps_never()
        if self._no_room():
            raise StorageFull("this world's disk is full")
        result = await self._store.commit(*args, **kwargs)
        self._saw(args[0])
        await self._perhaps_never()
        return result

    async def _perhaps_never(self) -> None:
        if self._dies():
            await asyncio.Event().wait()  # the node is being killed; nothing runs any more
