"""The firmware that a microcontroller boots: found where it was built, or built with Zephyr and WAMR trees.

It must not know who boots it.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from propeller.emulation.boards import ZEPHYR_ARM, ZEPHYR_X86, Board, Image
from propeller.errors import EnvironmentError_

SOURCE: Final = Path(__file__).parents[3] / "firmware"
_TREES: Final = {
    ZEPHYR_X86.name: ("ZEPHYR_BASE", "WAMR_ROOT"),
    ZEPHYR_ARM.name: ("ZEPHYR_BASE", "WAMR_ROOT", "CMSIS_ROOT"),
}
_PROGRAMS: Final = {"cmake": "cmake", "ninja": "ninja-build", "dtc": "device-tree-compiler"}
_COMPILERS: Final = {
    ZEPHYR_X86.name: ("x86_64-linux-gnu-", "gcc gcc-multilib", ("-DSYSROOT_DIR=/", "-DZEPHYR_MODULES=")),
    ZEPHYR_ARM.name: ("arm-none-eabi-", "gcc-arm-none-eabi", ("-DSYSROOT_DIR=/usr/lib/arm-none-eabi",)),
}
BUILD_S_MAX: Final = 900


def built(board: Board, directory: Path) -> Image:
    """The firmware for `board` in a build directory, or in one below it that has the board's name.

    Raises `EnvironmentError_` if there is none.
    """
    below = directory / board.name
    made = (below if below.is_dir() else directory) / "zephyr"
    kernel, config = made / ("zephyr.strip" if board is ZEPHYR_X86 else "zephyr.elf"), made / ".config"
    if not kernel.is_file() or not config.is_file():
        raise EnvironmentError_(
            f"{directory} holds no firmware for {board.name}: no {kernel}", code="no_firmware"
        )
    if f'CONFIG_BOARD="{board.name}"\n' not in config.read_text(encoding="utf-8"):
        raise EnvironmentError_(
            f"{made.parent} is a build for another board than {board.name}", code="no_firmware"
        )
    return Image(kernel=kernel)


def build(board: Board, directory: Path, env: Mapping[str, str]) -> Image:
    """Build the firmware for `board` into `directory`, or what has changed of it since the last time.

    Raises `EnvironmentError_` that says which tree or program is missing, or what the build said last.
    """
    if missing := [name for name in _TREES[board.name] if not env.get(name)]:
        raise EnvironmentError_(
            f"the firmware for {board.name} needs other projects' trees; {' and '.join(missing)} not set "
            "to where they are (docs/howto/emulate.md); --board linux-x86_64 needs none",
            code="no_zephyr",
        )
    prefix, package, options = _COMPILERS[board.name]
    for program, debian in (_PROGRAMS | {f"{prefix}gcc": package}).items():
        if shutil.which(program) is None:
            raise EnvironmentError_(f"missing Debian package: {debian}", code="missing_program")
    if not SOURCE.is_dir():
        raise EnvironmentError_(
            f"{SOURCE} is not there: build from a checkout of the project", code="no_source"
        )
    if board is ZEPHYR_ARM:
        options += (f"-DZEPHYR_MODULES={env['CMSIS_ROOT']}",)
    configure = [
        "cmake",
        "-GNinja",
        "-B",
        str(directory),
        "-S",
        str(SOURCE),
        f"-DBOARD={board.name}",
        *options,
    ]
    told = {**env, "ZEPHYR_TOOLCHAIN_VARIANT": "cross-compile", "CROSS_COMPILE": f"/usr/bin/{prefix}"}
    directory.mkdir(parents=True, exist_ok=True)
    try:
        _run(configure, {**os.environ, **told})
    except EnvironmentError_:
        # It remembers what it found, and would not look again once what was missing is there.
        (directory / "CMakeCache.txt").unlink(missing_ok=True)
        raise
    _run(["ninja", "-C", str(directory)], {**os.environ, **told})
    return built(board, directory)


def _run(command: list[str], env: Mapping[str, str]) -> None:
    done = subprocess.run(  # noqa: S603 - our own words
        command, env=dict(env), capture_output=True, text=True, check=False, timeout=BUILD_S_MAX
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()[-12:]
        raise EnvironmentError_("the firmware does not build:\n" + "\n".join(said), code="build_failed")
