"""The first process of an emulated gateway: mounts, network, the console, and the ordinary proplet.

It runs inside the device, as `/init`, with the standard library alone; `gateway` puts it there. What
it is told on the console is what the firmware is told: `set NAME VALUE`, `run`, `status`. The system's
services appear on the device's own loopback, where every proplet of one machine finds them. It must not know
any of our modules but the entry point that it starts.
"""

import asyncio
import ctypes
import fcntl
import gc
import json
import os
import socket
import struct
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path

MODULES = (
    "failover", "net_failover", "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev",
    "virtio_pci", "virtio_net",
)  # fmt: skip
"""Of the kernel's, in this order, in `/modules`."""
MOUNTS = (
    ("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/dev/shm"), ("tmpfs", "/run"),  # noqa: S108
    ("tmpfs", "/tmp"),  # noqa: S108 - it is made here, and nobody else is on this device
)  # fmt: skip
CARD = b"eth0"
USER_IP, USER_NETMASK, USER_GATEWAY = "10.0.2.15", "255.255.255.0", "10.0.2.2"
"""The one lease of QEMU's user network."""
FINIT_MODULE = {"x86_64": 313, "aarch64": 273}
SIOCADDRT, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x890B, 0x8914, 0x8916, 0x891C
UP_AND_RUNNING = 0x41
SERVICES = ("manager", "coordinator", "aggregator", "model_registry", "data_store", "registry")
KNOWN = {*SERVICES, "id", "key", "domain", "channel", "broker", "ip", "netmask", "gateway", "description"}
PIECE = 65536
CONFIG = Path("/run/config.toml")

libc = ctypes.CDLL(None, use_errno=True)


def say(line: str) -> None:
    """One line on the console."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def mount_all() -> None:
    """What every Linux process expects to find."""
    for kind, where in MOUNTS:
        Path(where).mkdir(parents=True, exist_ok=True)
        if libc.mount(kind.encode(), where.encode(), kind.encode(), 0, None) != 0:
            say(f"init: {kind} on {where}: {os.strerror(ctypes.get_errno())}")


def load_modules() -> None:
    """The network card's driver."""
    for name in MODULES:
        with Path(f"/modules/{name}.ko").open("rb") as file:
            if libc.syscall(FINIT_MODULE[os.uname().machine], file.fileno(), b"", 0) != 0:
                say(f"init: module {name}: {os.strerror(ctypes.get_errno())}")


def _inet(address: str) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


def set_address(card: bytes, address: str, netmask: str) -> None:
    """Give a card its address, and switch it on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for what, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, netmask)):
            fcntl.ioctl(sock, what, struct.pack("=16s16s", card, _inet(value)))
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("=16sH14x", card, UP_AND_RUNNING))


def set_gateway(gateway: str) -> None:
    """The way to everywhere else (`struct rtentry` of a 64-bit Linux)."""
    route = struct.pack(
        "=8x16s16s16sHh4xQQh6xQQQH6x",
        _inet("0.0.0.0"), _inet(gateway), _inet("0.0.0.0"),  # noqa: S104 - the default route, nothing is bound
        3, 0, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCADDRT, route)


def counters() -> dict[str, int]:
    """Bytes of the card, and TCP segments, since the start."""
    found = {"sent": 0, "received": 0, "tcp_dropped": 0, "tcp_resent": 0}
    for line in Path("/proc/net/dev").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == CARD.decode():
            fields = rest.split()
            found |= {"received": int(fields[0]), "sent": int(fields[8])}
    tcp = [one.split() for one in Path("/proc/net/snmp").read_text(encoding="ascii").splitlines()]
    names, values = (one for one in tcp if one[0] == "Tcp:")
    return found | {"tcp_resent": int(values[names.index("RetransSegs")])}


class Proplet:
    """The proplet's process: there from the start, it imports while the console is talked to."""

    def __init__(self) -> None:
        reading, self._told = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._told)
            self._live(reading)
        os.close(reading)

    def begin(self, description: str) -> None:
        """Have it run by what is in `CONFIG`."""
        os.write(self._told, description.encode() + b"\n")
        ended = os.pidfd_open(self._pid)
        asyncio.get_running_loop().add_reader(ended, self._say_end, ended)

    def _say_end(self, ended: int) -> None:
        asyncio.get_running_loop().remove_reader(ended)
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        say(f"Kernel panic: the proplet ended with status {status}")

    @staticmethod
    def _live(reading: int) -> None:
        """The life of the process that was forked."""
        try:
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            # What is imported stays: looking for garbage meanwhile finds none.
            gc.disable()
            # By name: it is the device that has them, not the room of this file.
            device, settings = (import_module(f"propeller.roles.{name}") for name in ("device", "settings"))
            gc.freeze()
            gc.enable()
            with os.fdopen(reading) as told:
                description = told.readline().strip()
            flags = {"data_dir": "/run/proplet", "metrics": False, "description": description}
            device.run_device(settings.Told(flags=flags, env={}, settings=None, config=CONFIG))
        except BaseException:  # noqa: BLE001 - the end of a process
            traceback.print_exc()
            os._exit(1)
        os._exit(0)


class Gateway:
    """What this device was told, and the proplet that it runs."""

    def __init__(self, proplet: Proplet) -> None:
        self.told: dict[str, str] = {}
        self.running = False
        self._proplet = proplet
        self._keep: list[object] = []

    async def obey(self, line: str) -> None:
        """One command of the console."""
        word, _, rest = line.strip().partition(" ")
        if word == "set":
            self._set(*rest.partition(" ")[::2])
        elif word == "run":
            await self._run()
        elif word == "status":
            say(json.dumps(counters()))
        elif word:
            say(f"{word}: no such command; there are set, run and status")

    def _set(self, name: str, value: str) -> None:
        if self.running or name not in KNOWN:
            say(f"set {name}: " + ("the proplet runs" if self.running else "no such setting"))
            return
        self.told[name] = value
        say("ok")

    async def _run(self) -> None:
        missing = [name for name in ("id", "key", "domain", "channel", "broker") if name not in self.told]
        if missing or self.running:
            say(f"run: {', '.join(missing)} is not set" if missing else "run: it runs already")
            return
        address = self.told.get("ip", USER_IP)
        set_address(CARD, address, self.told.get("netmask", USER_NETMASK))
        set_gateway(self.told.get("gateway", USER_GATEWAY))
        await self._open_doors()
        self._write_config()
        self.running = True
        self._proplet.begin(self.told.get("description", ""))
        say(f"running as {self.told['id']} at {address}")

    async def _open_doors(self) -> None:
        host, _, port = self.told["broker"].rpartition(":")
        ports = {int(port)} | {
            int(self.told[name].rpartition(":")[2]) for name in SERVICES if name in self.told
        }
        for one in ports:
            self._keep.append(await asyncio.start_server(door(host, one), "127.0.0.1", one))

    def _write_config(self) -> None:
        me = {"domain_id": "domain", "channel_id": "channel", "client_id": "id", "client_key": "key"}
        services = {f"{name}_url": self.told[name] for name in SERVICES[:-1] if name in self.told}
        services |= {"mqtt_address": f"tcp://127.0.0.1:{self.told['broker'].rpartition(':')[2]}"}
        services |= {"registry": self.told.get("registry", "").removeprefix("http://")}
        lines = ["[proplet1]", *(f"{name} = {json.dumps(self.told[key])}" for name, key in me.items())]
        lines += ["[services]", *(f"{name} = {json.dumps(value)}" for name, value in services.items())]
        CONFIG.write_text("\n".join(lines) + "\n", encoding="utf-8")


Door = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def door(host: str, port: int) -> Door:
    """What carries one connection from here to the same port of `host`."""

    async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(host, port)
        except OSError as error:
            say(f"init: {host}:{port}: {error}")
            writer.close()
            return
        await asyncio.gather(carry(reader, back), carry(there, writer))

    return enter


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes one way, to their end."""
    try:
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def main(proplet: Proplet) -> None:
    """Listen to the console for ever."""
    gateway, loop = Gateway(proplet), asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()

    def hear() -> None:
        lines.put_nowait(sys.stdin.readline())

    loop.add_reader(sys.stdin.fileno(), hear)
    say(f"propeller gateway, ready after {time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000} ms")
    while True:
        line = await lines.get()
        try:
            await gateway.obey(line)
        except (OSError, ValueError) as error:
            say(f"{line.partition(' ')[0].strip()}: {error}")


def start() -> None:
    """The life of the device, as its first process."""
    mount_all()
    load_modules()
    set_address(b"lo", "127.0.0.1", "255.0.0.0")
    # Before there is a loop, which no other process must share.
    asyncio.run(main(Proplet()))
