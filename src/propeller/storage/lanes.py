"""The threads of a database: one that commits writes in groups, one that reads.

They must not know what is stored. The queues are bounded by their callers: each waits for its own answer.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from propeller.errors import EnvironmentError_, PropellerError
from propeller.storage.connection import Connection

T = TypeVar("T")

GROUP_MAX = 512
"""Writes of one commit: bounds how long the first of them waits for the last."""


@dataclass(slots=True)
class _Job:
    """One function that waits for its turn, and what came of it."""

    fn: Callable[[Connection], Any]
    answer: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class _Lane:
    """A thread that owns a connection and takes jobs from a queue until it is closed."""

    def __init__(
        self,
        connection: Connection,
        name: str,
        loop: asyncio.AbstractEventLoop,
        ours: Callable[[Exception], PropellerError | None],
    ) -> None:
        """`name` is for messages; `ours` says which of our errors one of the database is, if any."""
        self._connection = connection
        self._name = name
        self._loop = loop
        self._translate = ours
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._live, name=f"{type(self).__name__} {name}", daemon=True)
        self._thread.start()

    async def submit(self, fn: Callable[[Connection], T]) -> T:
        """Wait for `fn`'s turn and its result."""
        if self._closed:
            raise EnvironmentError_(f"{self._name} is closed", code="storage_closed")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(fn, answer))
        return await answer

    async def close(self) -> None:
        """Finish what is queued, then close the connection; closing again is harmless."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _live(self) -> None:
        closing = False
        while not closing:
            jobs, closing = self._take()
            if jobs:
                self._work(jobs)
                with contextlib.suppress(RuntimeError):  # the loop ended before its answers
                    self._loop.call_soon_threadsafe(_resolve, jobs)
        self._end()

    def _take(self) -> tuple[list[_Job], bool]:
        """Wait for one job, then take what else is there."""
        jobs: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == GROUP_MAX or self._jobs.empty():
                return jobs, False
            job = self._jobs.get()
        return jobs, True

    def _attempt(self, job: _Job) -> bool:
        """Run one job; whether it went well."""
        try:
            job.result = self._call(job)
            job.error = None
        except Exception as error:  # noqa: BLE001 - the boundary of a caller's function: its error is its own
            job.error = self._ours(error)
        return job.error is None

    def _call(self, job: _Job) -> Any:
        return job.fn(self._connection)

    def _ours(self, error: Exception) -> Exception:
        if not isinstance(error, self._connection.Error):
            return error
        ours = self._translate(error)
        if ours is None:
            return error
        ours.__cause__ = error
        return ours

    def _work(self, jobs: list[_Job]) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        self._connection.close()


class WriteLane(_Lane):
    """All that wait become one transaction; a failing one is undone by itself."""

    def _work(self, jobs: list[_Job]) -> None:
        error = self._commit(jobs)
        if error is None:
            return
        if len(jobs) == 1:
            jobs[0].error = error
            return
        # The group could not be kept, perhaps for one member's sake: each gets its own transaction.
        for job in jobs:
            self._work([job])

    def _commit(self, jobs: list[_Job]) -> Exception | None:
        """Run and commit them; the error if none of it was kept."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._run_one(job)
                if not self._connection.in_transaction:
                    # The database gave up the whole transaction, as SQLite does without room.
                    return job.error
            self._connection.execute("COMMIT")
        except self._connection.Error as error:
            self._undo()
            return self._ours(error)
        return None

    def _run_one(self, job: _Job) -> None:
        connection = self._connection
        connection.execute("SAVEPOINT one")
        well = self._attempt(job)
        if connection.in_transaction:
            if not well:
                connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")

    def _undo(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class ReadLane(_Lane):
    """Each job sees one state of the database."""

    def _work(self, jobs: list[_Job]) -> None:
        for job in jobs:
            self._attempt(job)

    def _call(self, job: _Job) -> Any:
        self._connection.execute("BEGIN")
        try:
            return job.fn(self._connection)
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _resolve(jobs: list[_Job]) -> None:
    """On the loop: answer everyone of a group."""
    for job in jobs:
        if job.answer.done():
            continue  # its caller was cancelled
        if job.error is not None:
            job.answer.set_exception(job.error)
        else:
            job.answer.set_result(job.result)
