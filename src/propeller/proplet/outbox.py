"""What a proplet has to say and has not handed to the bus yet: bounded, in order.

Of each attempt only the newest word waits, as it implies those before it: a short task costs one message.
On a long line several messages are on their way at once, or a round trip would be the pace of everything.
Everything here may be lost: what matters is said again by the agent. It knows no topics.
"""

import asyncio
from collections import OrderedDict

from propeller.errors import PropellerError
from propeller.ports import Bus, Message
from propeller.proplet.bell import Bell
from propeller.proplet.place import Log
from propeller.wire.messages import AttemptKey

OUTBOX_MAX = 512
"""Messages that wait for the bus; beyond it the oldest is dropped, and said again when it is due."""
OUTBOX_LOGS_MAX = 64
"""With more waiting than this, logs and measurements are left out."""
OUTBOX_PATIENCE_S = 0.05
"""How long an attempt's event waits for the acknowledgement of the one before: a newer may come."""
OUTBOX_UNDER_WAY_MAX = 32
"""Messages that may be unacknowledged at once."""


class Outbox:
    """Waiting messages, and the one task that sends them."""

    def __init__(self, bus: Bus, log: Log) -> None:
        self._bus = bus
        self._log = log
        self._waiting: OrderedDict[AttemptKey | int | str, Message] = OrderedDict()
        self._number = 0
        self._bell = Bell()
        self._under_way: set[asyncio.Task[None]] = set()
        """Messages that are not acknowledged."""
        self._newest: asyncio.Task[None] | None = None
        self._sent_s = 0.0

    def put(self, message: Message, attempt: AttemptKey | None = None, *, renews: bool = False) -> None:
        """Let a message wait its turn; the latest event of an `attempt` says all that earlier ones did.

        One that `renews` says what is true now: it takes the turn of the last such on its topic.
        """
        self._number += 1
        if renews:
            self._waiting[message.topic] = message
        else:
            name = self._number if attempt is None else attempt
            self._waiting.pop(name, None)
            self._waiting[name] = message
        if len(self._waiting) > OUTBOX_MAX:
            self._waiting.popitem(last=False)
        self._bell.ring()

    @property
    def behind(self) -> bool:
        """Whether what can be left out should be."""
        return len(self._waiting) >= OUTBOX_LOGS_MAX

    async def send(self) -> None:
        """Hand messages to the bus in order, until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                pause_s = self._pause_s(loop.time())
                if pause_s > 0:
                    await self._bell.wait(pause_s)
                    continue
                _, message = self._waiting.popitem(last=False)
                self._newest, self._sent_s = group.create_task(self._hand_over(message)), loop.time()
                self._under_way.add(self._newest)
                self._newest.add_done_callback(self._handed_over)

    def _pause_s(self, now_s: float) -> float:
        """How long the next message has to wait, as far as that can be known."""
        if not self._waiting or len(self._under_way) >= OUTBOX_UNDER_WAY_MAX:
            return float("inf")
        if self._newest in self._under_way and isinstance(next(iter(self._waiting)), AttemptKey):
            return self._sent_s + OUTBOX_PATIENCE_S - now_s
        return 0.0

    def _handed_over(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._waiting:
            self._bell.ring()

    async def _hand_over(self, message: Message) -> None:
        try:
            await self._bus.publish(message)
        except PropellerError as error:
            self._log.warning("message not sent", topic=message.topic, reason=error.message)
