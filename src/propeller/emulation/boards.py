"""The boards that a fleet can be made of: what QEMU is told for each, and how much memory it has. Pure.

It must not know networks, processes or services: a network gives its back end as text, a process takes a
command.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from propeller.errors import BadInput

LINUX_ARGUMENTS: Final = (
    "quiet panic=-1 rootfstype=ramfs mitigations=off cryptomgr.notests lsm= audit=0 nokaslr rodata=off"
)
"""A ramfs has no limit of its own; a tmpfs would cut the file system at half of the memory.

What a kernel tests and protects at its start costs an emulated processor a second.
"""
TB_CACHE_MB: Final = 6
"""Of translated code, a device; QEMU would take a gigabyte of address space and use it. Less is slower."""
GATEWAY_TB_CACHE_MB: Final = 64
"""A Linux with Python runs so much code that with less the emulator translates it again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One kind of device. `machine` is QEMU's part of the command that never changes."""

    name: str
    program: str
    package: str
    """The Debian package that has `program`."""
    machine: tuple[str, ...]
    memory_mb: int
    memory_fixed: bool
    """Whether the image is built for exactly this memory."""
    on_board_card: str = ""
    """QEMU's model of a network card that is soldered on; empty where `card` is plugged in."""
    card: str = ""
    emulated: bool = True
    processor: str = ""
    """Of a gateway, as the kernel names it. A gateway runs Linux and the ordinary proplet."""
    serial: str = ""
    """A gateway's console, as the kernel names it."""
    boot_s_max: float = 30.0
    ready_s_max: float = 30.0
    """From the last device's start to the manager's seeing it."""

    @property
    def gateway(self) -> bool:
        """Whether it runs Linux and the ordinary proplet."""
        return bool(self.processor)


ZEPHYR_X86: Final = Board(
    name="qemu_x86",
    program="qemu-system-i386",
    package="qemu-system-x86",
    # Without the disk controller and the ACPI tables that nobody asks for: 4 MB less of the host's memory.
    machine=(
        "-machine",
        "q35,vmport=off,smm=off,sata=off,smbus=off,acpi=off",
        "-cpu",
        "qemu32,+nx,+pae",
    ),
    memory_mb=15,
    memory_fixed=True,
    # The device tree fixes the card's interrupt, which is right in slot 2 alone.
    card="e1000,netdev=n0,addr=0x2,romfile=",
)
ZEPHYR_ARM: Final = Board(
    name="mps2_an385",
    program="qemu-system-arm",
    package="qemu-system-arm",
    machine=("-machine", "mps2-an385", "-cpu", "cortex-m3"),
    memory_mb=16,
    memory_fixed=True,
    on_board_card="lan9118",
)
LINUX_X86: Final = Board(
    name="linux-x86_64",
    program="qemu-system-x86_64",
    package="qemu-system-x86",
    machine=("-machine", "q35,vmport=off,smm=off", "-cpu", "max"),
    memory_mb=256,
    memory_fixed=False,
    card="virtio-net-pci,netdev=n0,romfile=",
    processor="x86_64",
    serial="ttyS0",
    boot_s_max=90.0,
    ready_s_max=180.0,
)
LINUX_ARM: Final = Board(
    name="linux-aarch64",
    program="qemu-system-aarch64",
    package="qemu-system-arm",
    # A processor with pointer authentication would spend most of its emulated time on that.
    machine=("-machine", "virt", "-cpu", "cortex-a53"),
    memory_mb=256,
    memory_fixed=False,
    card="virtio-net-pci,netdev=n0,romfile=",
    processor="aarch64",
    serial="ttyAMA0",
    boot_s_max=120.0,
    ready_s_max=240.0,
)
PLAIN: Final = Board(
    name="plain", program="", package="", machine=(), memory_mb=0, memory_fixed=True, emulated=False
)
"""No device at all but an ordinary proplet as a process of this machine, for comparison."""
_ALL: Final = (ZEPHYR_X86, ZEPHYR_ARM, LINUX_X86, LINUX_ARM, PLAIN)
BOARDS: Final[Mapping[str, Board]] = {one.name: one for one in _ALL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What a board boots: a kernel, and for Linux an initial file system."""

    kernel: Path
    initrd: Path | None = None


def board(name: str) -> Board:
    """The board of that name; raises `BadInput` that lists them."""
    if name not in BOARDS:
        raise BadInput(f"no board {name!r}; there are {', '.join(BOARDS)}", code="unknown_board")
    return BOARDS[name]


def memory_mb(of: Board, asked_mb: int | None) -> int:
    """The memory of a device; raises `BadInput` where the board cannot have what was asked for."""
    if asked_mb is None or asked_mb == of.memory_mb:
        return of.memory_mb
    if of.memory_fixed:
        raise BadInput(
            f"the firmware for {of.name} is built for {of.memory_mb} MB; another size needs another device "
            "tree (firmware/boards) and build",
            code="memory_fixed",
        )
    if asked_mb < of.memory_mb:
        raise BadInput(f"{of.name} needs {of.memory_mb} MB at least, not {asked_mb}", code="memory_too_small")
    return asked_mb


def command(of: Board, image: Image, *, memory: int, mac: str, backend: str, console: Path) -> Sequence[str]:
    """The whole QEMU command. `backend` is a network's, such as `user`; `console` names a pair of FIFOs."""
    quiet = ("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none")
    size = () if of.on_board_card else ("-m", str(memory))
    booted: tuple[str, ...] = ("-kernel", str(image.kernel))
    if image.initrd is not None:
        booted += ("-initrd", str(image.initrd), "-append", f"console={of.serial} {LINUX_ARGUMENTS}")
    tcg = ("-accel", f"tcg,tb-size={GATEWAY_TB_CACHE_MB if of.gateway else TB_CACHE_MB}")
    return (
        *(of.program, *of.machine, *tcg, *size, *quiet),
        *("-serial", f"pipe:{console}", *_network(of, mac, backend), *booted),
    )


def _network(of: Board, mac: str, backend: str) -> tuple[str, ...]:
    if of.on_board_card:
        return ("-nic", f"{backend},model={of.on_board_card},mac={mac}")
    kind, _, rest = backend.partition(",")
    return ("-netdev", f"{kind},id=n0" + (f",{rest}" if rest else ""), "-device", f"{of.card},mac={mac}")
