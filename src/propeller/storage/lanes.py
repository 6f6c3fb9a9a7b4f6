"""The threads of a database: one that commits writes in groups, one that reads.

They must not know what is stored. The queues are bounded by their callers: each waits for its own answer.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from propeller.errors import Bug, EnvironmentError_
from propeller.storage.sqlite_errors import translate

T = TypeVar("T")

GROUP_MAX = 512
"""Writes of one commit: bounds how long the first of them waits for the last."""


class GroupConnection(sqlite3.Connection):
    """A connection whose transactions are the lanes' business: ending one would break a group."""

    def commit(self) -> None:
        """Refused: the group commits."""
        raise Bug("a function of the database must not commit: return, and the group commits")

    def rollback(self) -> None:
        """Refused: raising undoes the function's own work."""
        raise Bug("a function of the database must not roll back: raise, and its own work is undone")

    def executescript(self, _script: str, /) -> sqlite3.Cursor:
        """Refused, because it commits first."""
        raise Bug("a function of the database must not run scripts: they commit")

    def __enter__(self) -> Self:
        raise Bug("a function of the database must not use the connection as a context: that commits")


@dataclass(slots=True)
class _Job:
    """One function that waits for its turn, and what came of it."""

    fn: Callable[[sqlite3.Connection], Any]
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class _Lane:
    """A thread that owns a connection and takes jobs from a queue until it is closed."""

    def __init__(self, connection: sqlite3.Connection, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._path = path
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(
            target=self._live, name=f"{type(self).__name__} {path.name}", daemon=True
        )
        self._thread.start()

    async def submit(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Wait for `fn`'s turn and its result."""
        if self._closed:
            raise EnvironmentError_(f"{self._path} is closed", code="storage_closed")
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

    def _ours(self, error: BaseException) -> BaseException:
        if not isinstance(error, sqlite3.Error):
            return error
        ours = translate(error, self._path)
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

    def _commit(self, jobs: list[_Job]) -> BaseException | None:
        """Run and commit them; the error if none of it was kept."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._run_one(job)
                if not self._connection.in_transaction:
                    # SQLite gave up the whole transaction, as it does without room.
                    return job.error
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
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

    def _end(self) -> None:
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error:
            # Without room the log stays beside the file; the next owner folds it in.
            self._undo()
        super()._end()


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
