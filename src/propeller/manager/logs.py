"""What guests printed, from messages of proplets to those who read it. Best effort and bounded everywhere.

A chunk counts only from the proplet whose attempt it names. Lines wait a moment in memory, then go to the
store together; who follows a log gets each as it comes, and sees where something is missing.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

import msgspec

from propeller.core.engine import Engine
from propeller.core.ids import check_id
from propeller.errors import DecodeError
from propeller.ports import Clock
from propeller.wire import codec
from propeller.wire.messages import LogChunk
from propeller.wire.topics import ControlTopic

T = TypeVar("T")
Key = tuple[str, int, int]
"""Task, run and attempt."""

FLUSH_S = 0.25
"""Lines wait in memory for so long."""
PENDING_BYTES_MAX = 8 * 1024 * 1024
"""Bytes of lines that wait at once; more are dropped, with a mark in the log."""
FOLLOWERS_MAX = 256
FOLLOWER_LINES_MAX = 1024
"""Readers that follow at once, and lines that wait for a slow one; then its oldest are dropped."""
KNOWN_MAX = 4096
"""Attempts whose last words are still taken after their end."""
POLL_S = 0.5
"""How often a follower looks whether its run has ended."""
QUIET_S = 1.0
"""A run's last lines may come this long after its end."""


class LogStore(Protocol):
    """Keeps lines by task, boundedly."""

    async def append(self, lines: Mapping[str, Sequence[bytes]]) -> None:
        """Add lines to the logs of tasks, by task id."""
        ...

    async def read(self, task_id: str) -> list[bytes]:
        """Every line kept of a task, oldest first."""
        ...

    async def task_ids(self) -> list[str]:
        """The tasks of which something is kept, in order of their ids."""
        ...

    async def forget(self, task_ids: Collection[str]) -> None:
        """Drop all that is kept of these tasks."""
        ...


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One chunk as it is kept. `missing_bytes` were left out just before it."""

    at_s: float
    run: int
    attempt: int
    proplet_id: str
    stream: str
    text: str = ""
    missing_bytes: int = 0


class Logs:
    """The logs of one manager; `run` writes them. `engine` says whose attempt a chunk may speak of."""

    def __init__(self, store: LogStore, *, clock: Clock, engine: Callable[[], Engine]) -> None:
        self._store = store
        self._clock = clock
        self._engine = engine
        self._pending: dict[str, list[bytes]] = {}
        self._pending_bytes = 0
        self._known: OrderedDict[Key, str] = OrderedDict()
        self._dropped: OrderedDict[Key, int] = OrderedDict()
        self._followers: dict[str, set[asyncio.Queue[Line]]] = {}
        self._dirty = asyncio.Event()
        self._writing = asyncio.Lock()

    def heard(self, topic: ControlTopic, payload: bytes) -> None:
        """Take a chunk. Raises `DecodeError` or `BadInput` for what is none."""
        chunk = codec.decode(LogChunk, payload, what="a piece of a log")
        check_id(chunk.task_id, "task_id")
        if topic.sender is None:
            raise DecodeError("logs exist on directed topics only")
        key = (chunk.task_id, chunk.run, chunk.attempt)
        if not self._is_from(topic.sender, key):
            return
        missing = max(0, chunk.dropped_bytes - self._dropped.get(key, 0))
        _remember(self._dropped, key, chunk.dropped_bytes)
        if chunk.text or missing:
            self._take(
                chunk.task_id,
                Line(
                    at_s=self._clock.now().wall_s,
                    run=chunk.run,
                    attempt=chunk.attempt,
                    proplet_id=topic.sender,
                    stream=chunk.stream,
                    text=chunk.text,
                    missing_bytes=missing,
                ),
            )

    async def run(self) -> None:
        """Write what was heard, until cancelled."""
        while True:
            await self._dirty.wait()
            await asyncio.sleep(FLUSH_S)
            await self._flush()

    async def lines(self, task_id: str, run: int) -> list[Line]:
        """Every line kept of a run (0: of all runs), oldest first."""
        await self._flush()
        found = []
        for raw in await self._store.read(task_id):
            # A line torn by a full disk or a killed process is none.
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                found.append(msgspec.json.decode(raw, type=Line))
        return [line for line in found if run in {0, line.run}]

    async def follow(self, task_id: str, run: int) -> AsyncIterator[Line]:
        """The lines of a run as `lines` has them, then each as it comes, until the run has ended."""
        queue: asyncio.Queue[Line] = asyncio.Queue(FOLLOWER_LINES_MAX)
        followers = self._followers.setdefault(task_id, set())
        followers.add(queue)
        try:
            for line in await self.lines(task_id, run):
                yield line
            async for line in self._coming(queue, task_id, run):
                yield line
        finally:
            followers.discard(queue)
            if not followers:
                self._followers.pop(task_id, None)

    @property
    def full(self) -> bool:
        """Whether as many follow as may."""
        return sum(map(len, self._followers.values())) >= FOLLOWERS_MAX

    async def _coming(self, queue: "asyncio.Queue[Line]", task_id: str, run: int) -> AsyncIterator[Line]:
        ended_s = None
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    line = await queue.get()
            except TimeoutError:
                now_s = self._clock.now().mono_s
                live = self._engine().ledger.runs.get(task_id)
                if live is not None and run in {0, live.number}:
                    ended_s = None
                elif ended_s is None:
                    ended_s = now_s
                elif now_s - ended_s >= QUIET_S:
                    return
                continue
            if run in {0, line.run}:
                yield line

    def _is_from(self, sender: str, key: Key) -> bool:
        """Whether the attempt is, or lately was, that proplet's."""
        task_id, number, attempt_number = key
        run = self._engine().ledger.runs.get(task_id)
        attempt = run.live_attempt if run else None
        if run and attempt and (run.number, attempt.number) == (number, attempt_number):
            _remember(self._known, key, attempt.proplet_id)
        return self._known.get(key) == sender

    def _take(self, task_id: str, line: Line) -> None:
        content = msgspec.json.encode(line)
        if self._pending_bytes + len(content) > PENDING_BYTES_MAX:
            key = (task_id, line.run, line.attempt)
            # What is dropped here shows as missing before the next line that is kept.
            lost_bytes = len(line.text.encode()) + line.missing_bytes
            _remember(self._dropped, key, self._dropped.get(key, 0) - lost_bytes)
            return
        self._pending.setdefault(task_id, []).append(content)
        self._pending_bytes += len(content)
        self._dirty.set()
        for queue in self._followers.get(task_id, ()):
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(line)

    async def _flush(self) -> None:
        async with self._writing:
            self._dirty.clear()
            pending, self._pending, self._pending_bytes = self._pending, {}, 0
            if pending:
                await self._store.append(pending)


def _remember(known: "OrderedDict[Key, T]", key: Key, value: T) -> T:
    """Note `value`, forgetting the oldest over the bound; returns what was noted before, else `value`."""
    before = known.get(key, value)
    known[key] = value
    known.move_to_end(key)
    if len(known) > KNOWN_MAX:
        known.popitem(last=False)
    return before
