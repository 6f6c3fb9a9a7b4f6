"""What devices count themselves, asked over their consoles. It must not know any service."""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Self

import msgspec

from propeller.emulation.fleet import Device
from propeller.errors import PropellerError

ANSWER_S = 10.0


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """A device's `status`, as far as it is counted here: bytes, and TCP segments."""

    sent: int = 0
    received: int = 0
    tcp_dropped: int = 0
    tcp_resent: int = 0
    connects: int = 0

    def __add__(self, other: Self) -> "Counters":
        return Counters(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__}
        )


async def counters(devices: Iterable[Device]) -> Counters:
    """The sum of the counters of every device that answers, since its last start."""
    found = await asyncio.gather(*(_of(device) for device in devices if device.machine.running))
    return sum(found, Counters())


async def _of(device: Device) -> Counters:
    with contextlib.suppress(PropellerError, msgspec.MsgspecError):
        said = await device.machine.console.command("status", good=r"^\{.*\}\r?\n", timeout_s=ANSWER_S)
        return msgspec.json.decode(said[0].strip(), type=Counters)
    return Counters()
