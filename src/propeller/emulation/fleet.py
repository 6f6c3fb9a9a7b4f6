"""A fleet: devices switched on in batches, told who they are, watched, killed and brought back, switched off.

It must not know what runs on the devices or who waits for them: it takes identities and hands out consoles.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from propeller.emulation import boards
from propeller.emulation.boards import Board, Image
from propeller.emulation.machine import Machine
from propeller.emulation.network import Network
from propeller.emulation.share import Confine, unlimited
from propeller.errors import PeerRefused, PeerUnavailable, PropellerError

READY: Final = r"ready after \d+ ms"
RUNNING: Final = r"running as \S+ at \S+"
TRIES: Final = 2
"""A device that does not answer is switched off and on once."""
BATCH: Final = 4
"""Devices that boot at once: more than the machine has cores only makes each of them slow."""
RUN_S: Final = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a device is, and its broker as the device reaches it (`host:port`)."""

    id: str
    key: str
    domain: str
    channel: str
    broker: str
    urls: Mapping[str, str]
    """Where services are, for boards that want to know: by the names of a gateway's settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One device before it is switched on."""

    number: int
    board: Board
    image: Image
    memory_mb: int
    mac: str
    identity: Identity


class Device:
    """One device of the fleet. `boot_s` is from power to the proplet's start, 0.0 before."""

    def __init__(self, plan: Plan, network: Network, directory: Path, confine: Confine) -> None:
        self.plan = plan
        self.name = f"device{plan.number}"
        self.boot_s = 0.0
        self.boots = 0
        self._network = network
        self._confine = confine
        self.machine = Machine(self.name, directory)

    async def boot(self) -> None:
        """Switch it on and start its proplet; raises `PropellerError` if it does neither in `TRIES`."""
        for attempt in range(1, TRIES + 1):
            try:
                await self._boot()
            except (PeerUnavailable, PeerRefused) as error:
                complaint = self.machine.complaint()
                await self.machine.stop()
                if attempt == TRIES:
                    raise PeerUnavailable(
                        f"{error.message}. {complaint}".rstrip(". "), code="no_boot"
                    ) from error
            else:
                return

    async def _boot(self) -> None:
        loop, plan = asyncio.get_running_loop(), self.plan
        started_s = loop.time()
        self.boots += 1
        console = self.machine.console
        mark = console.mark
        await self.machine.start(
            boards.command(
                plan.board,
                plan.image,
                memory=plan.memory_mb,
                mac=plan.mac,
                backend=self._network.backend(plan.number),
                console=console.path,
            )
        )
        self._confine(self.machine.pid, self.name)
        await console.wait(READY, mark=mark, timeout_s=plan.board.boot_s_max)
        for name, value in self._settings().items():
            await console.command(f"set {name} {value}")
        await console.command("run", good=RUNNING, timeout_s=RUN_S)
        self.boot_s = loop.time() - started_s

    def _settings(self) -> dict[str, str]:
        me, address = self.plan.identity, self._network.address(self.plan.number)
        told = {"id": me.id, "key": me.key, "domain": me.domain, "channel": me.channel, "broker": me.broker}
        told |= (
            {"ip": address.ip, "netmask": address.netmask, "gateway": address.gateway} if address.ip else {}
        )
        told |= {"description": self.name}
        return told | (dict(me.urls) if self.plan.board.gateway else {})


class Fleet:
    """All devices, by number from 1 on."""

    def __init__(
        self, plans: Sequence[Plan], network: Network, directory: Path, confine: Confine = unlimited
    ) -> None:
        self.devices = {plan.number: Device(plan, network, directory, confine) for plan in plans}
        self.failures: dict[int, str] = {}
        """Why a device could not be started, for those that could not."""

    async def boot(self, some: Iterable[Device] | None = None) -> list[Device]:
        """Switch `some` or all on; gives those that are up. Why others are not is in `failures`."""
        gate, up = asyncio.Semaphore(BATCH), []

        async def one(device: Device) -> None:
            async with gate:
                try:
                    await device.boot()
                except PropellerError as error:
                    self.failures[device.plan.number] = error.message
                else:
                    up.append(device)

        async with asyncio.TaskGroup() as group:
            for device in self.devices.values() if some is None else some:
                group.create_task(one(device))
        return up

    async def close(self) -> None:
        """Pull every plug."""
        await asyncio.gather(*(device.machine.stop() for device in self.devices.values()))

    def pss_bytes(self) -> list[int]:
        """The share of memory of every device that is on."""
        return [device.machine.pss_bytes() for device in self.devices.values() if device.machine.running]

    def cpu_s(self) -> float:
        """Processor seconds of all so far."""
        return sum(device.machine.cpu_s() for device in self.devices.values())

    def panics(self) -> int:
        """Panics on all consoles so far."""
        return sum(device.machine.console.panics for device in self.devices.values())


def mac_of(random: Random) -> str:
    """A random address in the range that QEMU's own cards have."""
    return "52:54:00:" + ":".join(f"{random.randrange(256):02x}" for _ in range(3))
