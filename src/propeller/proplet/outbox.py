"""What a proplet has to say and has not handed to the bus yet: bounded, in order.

Of each attempt only the newest word waits, as it implies those before it: a short task costs one message.
Everything here may be lost: what matters is said again by the agent. It knows no topics.
"""

import asyncio
from collections import OrderedDict

from propeller.errors import PropellerError
from propeller.ports import Bus, Message
from propeller.proplet.place import Log
from propeller.wire.messages import AttemptKey

OUTBOX_MAX = 512
"""Messages that wait for the bus; beyond it the oldest is dropped, and said again when it is due."""
OUTBOX_LOGS_MAX = 64
"""With more waiting than this, logs and measurements are left out."""


class Outbox:
    """Waiting messages, and the one task that sends them."""

    def __init__(self, bus: Bus, log: Log) -> None:
        self._bus = bus
        self._log = log
        self._waiting: OrderedDict[AttemptKey | int, Message] = OrderedDict()
        self._number = 0
        self._arrived = asyncio.Event()

    def put(self, message: Message, attempt: AttemptKey | None = None) -> None:
        """Let a message wait its turn; the latest event of an `attempt` says all that earlier ones did."""
        self._number += 1
        name = self._number if attempt is None else attempt
        self._waiting.pop(name, None)
        self._waiting[name] = message
        if len(self._waiting) > OUTBOX_MAX:
            self._waiting.popitem(last=False)
        self._arrived.set()

    @property
    def behind(self) -> bool:
        """Whether what can be left out should be."""
        return len(self._waiting) >= OUTBOX_LOGS_MAX

    async def send(self) -> None:
        """Hand messages to the bus in order, until cancelled."""
        while True:
            while self._waiting:
                _, message = self._waiting.popitem(last=False)
                try:
                    await self._bus.publish(message)
                except PropellerError as error:
                    self._log.warning("message not sent", topic=message.topic, reason=error.message)
            self._arrived.clear()
            await self._arrived.wait()
