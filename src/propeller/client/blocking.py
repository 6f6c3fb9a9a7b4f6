"""The same client for code without an event loop: a private loop in a thread, and nothing written twice."""

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Self, TypeVar

from propeller.client.client import AsyncClient, Endpoints
from propeller.ports import HttpStreams
from propeller.wire.retention import RetentionView, Swept

T = TypeVar("T")

_NOUNS = ("tasks", "proplets", "jobs", "workflows", "fl", "models", "datasets")
_STOP_S = 5.0
_END = object()


class _Blocking:
    """A noun of `AsyncClient` whose coroutine functions block until they have an answer."""

    def __init__(self, noun: object, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._noun = noun
        self._run = run

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._noun, name)
        if inspect.isasyncgenfunction(member):
            return wraps(member)(lambda *args, **kwargs: self._drain(member(*args, **kwargs)))
        if not inspect.iscoroutinefunction(member):
            return member

        @wraps(member)
        def blocking(*args: Any, **kwargs: Any) -> Any:
            return self._run(member(*args, **kwargs))

        return blocking

    def _drain(self, items: AsyncGenerator[Any, None]) -> Iterator[Any]:
        try:
            while (item := self._run(_next(items))) is not _END:
                yield item
        finally:
            self._run(_close(items))

    def __dir__(self) -> list[str]:
        return dir(self._noun)


async def _next(items: AsyncGenerator[Any, None]) -> Any:
    return await anext(items, _END)


async def _close(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()


class Client:
    """`AsyncClient` with plain functions: `client.tasks.list()`. Usable inside a running loop (notebooks).

    Use it as a context manager, or `close()` it. Signatures are those of the nouns of `AsyncClient`.
    """

    def __init__(self, endpoints: Endpoints | None = None, *, http: HttpStreams | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="propeller-client", daemon=True)
        self._thread.start()
        self._client = AsyncClient(endpoints, http=http)
        self.tasks, self.proplets, self.jobs, self.workflows, self.fl, self.models, self.datasets = (
            _Blocking(getattr(self._client, noun), self._run) for noun in _NOUNS
        )

    def health(self, role: str = "manager") -> dict[str, Any]:
        """What the role's `GET /health` shows."""
        return self._run(self._client.health(role))

    def retention(self, role: str) -> RetentionView:
        """What a role keeps, how long, and what it would delete now."""
        return self._run(self._client.retention(role))

    def sweep(self, role: str) -> Swept:
        """Have a role delete now what its policy does not keep."""
        return self._run(self._client.sweep(role))

    def aggregate(self, updates: list[dict[str, Any]]) -> dict[str, Any]:
        """The weighted mean of `updates`, by the aggregator alone."""
        return self._run(self._client.aggregate(updates))

    def close(self) -> None:
        """Close the connections and end the private loop; again is fine."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_S)
        self._loop.close()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        pending = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return pending.result()
        except BaseException:
            # A Ctrl-C in the caller's thread must not leave the request running.
            pending.cancel()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
