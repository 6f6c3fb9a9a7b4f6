"""Publishes notices again and again until acknowledged: nothing depends on MQTT's own acknowledgement.

Level-triggered: it holds what the store says is unacknowledged, and a lost message is only a delay. It
decides nothing about rounds.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from propeller import limits
from propeller.errors import Bug, CallerError
from propeller.ports import Bus, Clock, Message
from propeller.stores.coordinator import Notice, NoticeKind
from propeller.telemetry.logs import logger
from propeller.wire.topics import Topics

Key = tuple[str, NoticeKind]


@dataclass(slots=True)
class _Pending:
    notice: Notice
    due_mono_s: float
    sent: int = 0


class Outbox:
    """Unacknowledged notices and when each is due. `expired` collects those that need no more sending."""

    def __init__(self, *, bus: Bus, topics: Topics, mirror: bool, clock: Clock) -> None:
        self._bus = bus
        self._topics = topics
        self._mirror = mirror
        self._clock = clock
        self._pending: dict[Key, _Pending] = {}
        self._wake = asyncio.Event()
        self.expired: asyncio.Queue[Key] = asyncio.Queue()
        """Notices that went out as often as they should; whoever takes one has it deleted."""

    def __len__(self) -> int:
        return len(self._pending)

    def replace(self, notices: Iterable[Notice]) -> None:
        """Hold exactly these: what the store says."""
        now_s = self._clock.now().mono_s
        self._pending = {notice.key: _Pending(notice, now_s) for notice in notices}
        self._wake.set()

    def update(self, notices: Iterable[Notice], done: Iterable[Key]) -> None:
        """What a commit changed."""
        for key in done:
            self._pending.pop(key, None)
        now_s = self._clock.now().mono_s
        for notice in notices:
            self._pending[notice.key] = _Pending(notice, now_s)
        self._wake.set()

    def hurry(self) -> None:
        """A connection came up: send everything now."""
        now_s = self._clock.now().mono_s
        for pending in self._pending.values():
            pending.due_mono_s = now_s
        self._wake.set()

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        while True:
            self._wake.clear()
            now = self._clock.now()
            for pending in [one for one in self._pending.values() if one.due_mono_s <= now.mono_s]:
                await self._send(pending)
            await self._rest()

    async def _rest(self) -> None:
        due = min((one.due_mono_s for one in self._pending.values()), default=None)
        pause_s = None if due is None else max(0.0, due - self._clock.now().mono_s)
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _send(self, pending: _Pending) -> None:
        notice, now = pending.notice, self._clock.now()
        old = now.wall_s - notice.created_wall_s > limits.ROUND_NOTICE_S
        try:
            sent = await self._publish(pending)
        except CallerError as error:
            # No connection will ever carry it, so sending it again is of no use to anyone.
            logger().error("notice cannot be sent", round_id=notice.round_id, error=error.message)
            sent, old = False, True
        pending.sent += sent
        if (sent and notice.kind == "next") or old:
            if self._pending.get(notice.key) is pending:
                del self._pending[notice.key]
                self.expired.put_nowait(notice.key)
            return
        pause_s = limits.ROUND_NOTICE_RETRY_S * 2 ** min(max(pending.sent - 1, 0), 10)
        pending.due_mono_s = now.mono_s + min(pause_s, limits.ROUND_NOTICE_RETRY_S_MAX)

    async def _publish(self, pending: _Pending) -> bool:
        notice = pending.notice
        topic = self._topic(notice)
        sent = await self._bus.publish(Message(topic, notice.payload))
        # The older application has no acknowledgement, so its spelling goes out once per start.
        if sent and self._mirror and pending.sent == 0 and notice.kind != "start":
            await self._bus.publish(Message(self._topics.root(topic), notice.payload))
        return sent

    def _topic(self, notice: Notice) -> str:
        match notice.kind:
            case "start":
                return self._topics.rounds_start()
            case "complete":
                return self._topics.round_complete(notice.round_id)
            case "next":
                return self._topics.rounds_next()
        raise Bug(f"notice of unknown kind {notice.kind!r} for round {notice.round_id!r}")
