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

from propeller.errors import Bug, EnvironmentError_, PropellerError, StorageFull
from propeller.storage.connection import Connection

T = TypeVar("T")

GROUP_MAX = 512
"""Writes of one commit, but for those of one turn: bounds how long the first waits for the last."""


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
        self._turn: list[_Job] = []
        """What came in the present turn of the loop: handed to the thread together, which wakes once."""
        self._jobs: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._live, name=f"{type(self).__name__} {name}", daemon=True)
        self._thread.start()

    async def submit(self, fn: Callable[[Connection], T]) -> T:
        """Wait for `fn`'s turn and its result."""
        if self._closed:
            raise EnvironmentError_(f"{self._name} is closed", code="storage_closed")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._turn.append(_Job(fn, answer))
        if len(self._turn) == 1:
            self._loop.call_soon(self._hand_over)
        return await answer

    async def close(self) -> None:
        """Finish what is queued, then close the connection; closing again is harmless."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self) -> None:
        jobs, self._turn = self._turn, []
        if jobs:
            self._jobs.put(jobs)

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
        """Wait for the jobs of one turn, then take what else is there."""
        jobs: list[_Job] = []
        while (more := self._jobs.get()) is not None:
            jobs += more
            if len(jobs) >= GROUP_MAX or self._jobs.empty():
                return jobs, False
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

    _uncertain = False
    """Whether the last commit may have been kept though it failed: the way to the database ended in it."""

    def _work(self, jobs: list[_Job]) -> None:
        # Rare: somebody's function has raised, or the group could not be kept. Who must be undone is
        # found by a second try, in which each can be undone by itself.
        for apart in (False, True):
            error = self._commit(jobs, apart=apart)
            if error is None:
                return
            if self._uncertain or (apart and len(jobs) == 1):
                for job in jobs:
                    job.error = error
                return
        # Not kept for one member's sake, perhaps: each gets its own transaction.
        for job in jobs:
            self._work([job])

    def _commit(self, jobs: list[_Job], *, apart: bool) -> Exception | None:
        """Run and commit them; the error if none of it was kept. A failure `apart` undoes its job alone."""
        self._uncertain = False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                well = self._apart(job) if apart else self._attempt(job)
                # The database may give up the whole transaction, as SQLite does without room.
                if not (well or apart) or not self._connection.in_transaction:
                    self._undo()
                    return job.error or Bug("a function of the database ended its group's transaction")
        except self._connection.Error as error:
            self._undo()
            return self._ours(error)
        return self._kept()

    def _kept(self) -> Exception | None:
        try:
            self._connection.execute("COMMIT")
        except self._connection.Error as error:
            ours = self._ours(error)
            self._uncertain = isinstance(ours, EnvironmentError_) and not isinstance(ours, StorageFull)
            self._undo()
            return ours
        return None

    def _apart(self, job: _Job) -> bool:
        connection = self._connection
        connection.execute("SAVEPOINT one")
        well = self._attempt(job)
        if connection.in_transaction:
            if not well:
                connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
        return well

    def _undo(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class ReadLane(_Lane):
    """Each job sees one state of the database, which jobs that wait together share."""

    def _work(self, jobs: list[_Job]) -> None:
        for job in jobs:
            if not self._attempt(job):
                self._let_go()
        self._let_go()

    def _call(self, job: _Job) -> Any:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")
        return job.fn(self._connection)

    def _let_go(self) -> None:
        if self._connection.in_transaction:
            # One that cannot be ended has ended with its connection.
            with contextlib.suppress(self._connection.Error):
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
