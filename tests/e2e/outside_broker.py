"""A broker in a process of its own, which can be killed with all that it started. No test lives here."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from walk_system import PROPELLER, SBIN, family, listening, until


class Broker:
    """`propeller broker` as a process of its own, which can be killed with all that it started."""

    def __init__(self, data: Path, port: int, kind: str) -> None:
        self._data = data
        self._port = port
        self._kind = kind
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = [str(PROPELLER), "broker", "--data-dir", str(self._data), "--kind", self._kind]
        self._process = subprocess.Popen(
            [*command, "--port", str(self._port)],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PATH": os.environ.get("PATH", "") + SBIN},
        )
        until("the broker listens", lambda: listening(self._port))

    def kill(self) -> None:
        """SIGKILL for all of it."""
        for pid in [self._process.pid, *family(self._process.pid)]:
            os.kill(pid, signal.SIGKILL)
        self._process.wait(10)
        until("nobody listens", lambda: not listening(self._port))

    def forget(self, credentials: set[str]) -> None:
        """Remove whatever it kept beyond these files of its directory."""
        for path in (self._data / "broker").iterdir():
            if path.name not in credentials:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
