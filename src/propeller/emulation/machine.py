"""One emulated device as a process of this machine: started, measured, switched off.

It must not know what the device does; its console is `Console`'s business.
"""

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from propeller.emulation.console import Console
from propeller.errors import EnvironmentError_

STOP_S: Final = 3.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


class Machine:
    """A QEMU process with its console. It ends with this process, however that ends."""

    def __init__(self, name: str, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.console = Console(directory / name, directory / f"{name}.log")
        self._errors = directory / f"{name}.qemu.log"
        self._process: asyncio.subprocess.Process | None = None
        self._spent_s = 0.0

    async def start(self, command: Sequence[str]) -> None:
        """Switch it on. Raises `EnvironmentError_` without the program or `setpriv`."""
        for program in (command[0], "setpriv"):
            if shutil.which(program) is None:
                raise EnvironmentError_(f"{program} is not installed", code="missing_program")
        self.console.open()
        with self._errors.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                # Ctrl-C is for us alone. Not a session each: that would be a scheduling group each.
                preexec_fn=os.setpgrp,
                env={**os.environ, "MALLOC_ARENA_MAX": "1"},
            )

    @property
    def running(self) -> bool:
        """Whether it is switched on and has not ended by itself."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process id; 0 if it is off."""
        return self._process.pid if self._process is not None and self.running else 0

    async def stop(self) -> None:
        """Pull the plug."""
        self._spent_s = self.cpu_s()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._process = None
        self.console.close()

    def complaint(self) -> str:
        """The last line that QEMU itself said."""
        try:
            return self._errors.read_text(errors="replace").strip().rpartition("\n")[2]
        except FileNotFoundError:
            return ""

    def pss_bytes(self) -> int:
        """Its proportional share of memory now; 0 if it is off."""
        try:
            found = _PSS.search(Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii"))
        except OSError:
            return 0
        return int(found[1]) * 1024 if found else 0

    def cpu_s(self) -> float:
        """Processor seconds since it was first switched on, the emulator's own included."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return self._spent_s
        fields = stat.rpartition(")")[2].split()
        return self._spent_s + (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
