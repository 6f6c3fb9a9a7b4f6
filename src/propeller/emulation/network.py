"""The networks of a fleet: QEMU's own, which needs no privileges, or a bridge with a tap for each device.

A bridge lives in a network namespace that this process enters and nobody else does: it is gone when the last
process of the fleet is, so nothing can be left behind on the machine. It must not know what is sent.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from propeller.errors import EnvironmentError_

BRIDGE: Final = "zfl"
HOST: Final = "10.77.0.1"
PREFIX: Final = 16
NETMASK: Final = "255.255.0.0"
_PER_BLOCK: Final = 250
_CLONE_NEWNET: Final = 0x40000000


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A device's place in the network. An empty `ip` means that it asks by DHCP."""

    ip: str
    netmask: str
    gateway: str


class Network(Protocol):
    """What a fleet asks of its network. `host` is this machine, as devices reach it."""

    name: str
    host: str

    def backend(self, number: int) -> str:
        """QEMU's back end for the device of that number, from 1 on."""
        ...

    def address(self, number: int) -> Address:
        """The address of that device."""
        ...


class UserNetwork:
    """QEMU's user networking: every device alone with this machine's loopback."""

    name = "user"
    host = "10.0.2.2"

    def backend(self, number: int) -> str:
        """The same for all."""
        del number
        return "user"

    def address(self, number: int) -> Address:
        """QEMU answers DHCP."""
        del number
        return Address(ip="", netmask="", gateway="")


class BridgeNetwork:
    """A bridge with a tap for each of `devices`, in a namespace of its own. See `enter`."""

    name = "bridge"
    host = HOST

    def backend(self, number: int) -> str:
        """The device's own tap."""
        return f"tap,ifname={BRIDGE}{number},script=no,downscript=no"

    def address(self, number: int) -> Address:
        """A fixed one."""
        return Address(ip=device_ip(number), netmask=NETMASK, gateway=HOST)

    @classmethod
    def enter(cls, devices: int) -> "BridgeNetwork":
        """Put this process and its children into a new namespace with the bridge in it.

        To be called before there are threads. Raises `EnvironmentError_` without the right to.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise EnvironmentError_(
                f"no network namespace: {os.strerror(ctypes.get_errno())}; --network user needs none",
                code="no_namespace",
            )
        _ip(bridge_commands(devices))
        return cls()

    @staticmethod
    def loses_by(share: float) -> Literal["iptables", "proxy"]:
        """By which means packets can be lost here: the kernel's filter if it has one, else the forwarder."""
        if not share:
            return "iptables"
        try:
            _run(["iptables", *_dropping("-A", "INPUT", "-i", share)], "iptables")
            _run(["iptables", *_dropping("-D", "INPUT", "-i", share)], "iptables")
        except EnvironmentError_:
            return "proxy"
        return "iptables"

    @staticmethod
    @contextlib.contextmanager
    def losing(share: float) -> Iterator[None]:
        """Lose that share of packets each way, by the kernel's filter, for the life of the context."""
        ways = (("INPUT", "-i"), ("OUTPUT", "-o"))
        for chain, direction in ways:
            _run(["iptables", *_dropping("-A", chain, direction, share)], "iptables")
        try:
            yield
        finally:
            for chain, direction in ways:
                _run(["iptables", *_dropping("-D", chain, direction, share)], "iptables")


def _dropping(action: str, chain: str, direction: str, share: float) -> list[str]:
    match = ["-m", "statistic", "--mode", "random", "--probability", f"{share:.4f}"]
    return [action, chain, direction, BRIDGE, *match, "-j", "DROP"]


def device_ip(number: int) -> str:
    """The address of the device of that number on the bridge."""
    return f"10.77.{1 + (number - 1) // _PER_BLOCK}.{1 + (number - 1) % _PER_BLOCK}"


def bridge_commands(devices: int) -> Sequence[str]:
    """What `ip -batch` is told to make the bridge and the taps."""
    made = [
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"addr add {HOST}/{PREFIX} dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ]
    for number in range(1, devices + 1):
        made.append(f"tuntap add dev {BRIDGE}{number} mode tap")
        made.append(f"link set {BRIDGE}{number} master {BRIDGE} up")
    return made


def tcp_resent() -> int:
    """Segments that this machine has sent again in the network namespace of this process."""
    lines = [line.split() for line in Path("/proc/net/snmp").read_text(encoding="ascii").splitlines()]
    names, values = (line for line in lines if line[0] == "Tcp:")
    return int(values[names.index("RetransSegs")])


def may_bridge() -> bool:
    """Whether this process may make a bridge: root, with the programs for it."""
    return os.geteuid() == 0 and shutil.which("ip") is not None and Path("/dev/net/tun").exists()


def _ip(commands: Sequence[str]) -> None:
    _run(["ip", "-batch", "-"], "iproute2", "\n".join(commands) + "\n")


def _run(command: Sequence[str], package: str, told: str | None = None) -> None:
    if shutil.which(command[0]) is None:
        raise EnvironmentError_(f"missing Debian package: {package}", code="missing_program")
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode != 0:
        raise EnvironmentError_(
            f"{' '.join(command)}: {done.stderr.strip()}; --network user needs no privileges",
            code="network_refused",
        )
