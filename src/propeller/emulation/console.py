"""A device's serial console: what it says, kept and waited for, and what it is told.

The console is a pair of FIFOs that QEMU opens at its other end. Everything said goes to a log file, the last
part is kept in memory, and others may listen. It must not know what runs on the device, beyond the one form
of dialogue that all of ours have: a command a line, answered by a line that is `ok` or says what is wrong.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from propeller.errors import PeerRefused, PeerUnavailable

KEPT_CHARS: Final = 65_536
"""Of the end of what was said; all of it is in the log."""
LOG_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of one device's log; a device that says more is cut off there."""
ANSWER_S: Final = 20.0
_READ_BYTES = 65_536
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PANIC = re.compile(r"FATAL ERROR|Kernel panic|E: Halting|assertion failed", re.IGNORECASE)

Listener = Callable[[bytes], None]


class Console:
    """One console, from `open` to `close`, on the running loop."""

    def __init__(self, path: Path, log: Path) -> None:
        self.path = path
        self.panics = 0
        """Lines so far that only a device beyond help says."""
        self._log = log
        self._text = ""
        self._dropped = 0
        self._logged = 0
        self._listeners: list[Listener] = []
        self._more = asyncio.Event()
        self._descriptors: tuple[int, int] | None = None

    def open(self) -> None:
        """Make the FIFOs and begin to read; before QEMU is started."""
        for end in ("in", "out"):
            fifo = self.path.with_name(f"{self.path.name}.{end}")
            fifo.unlink(missing_ok=True)
            os.mkfifo(fifo, 0o600)
        # Both for reading and writing: opening waits for nobody, and no end closes when QEMU does.
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
        names = [str(self.path.with_name(f"{self.path.name}.{end}")) for end in ("in", "out")]
        self._descriptors = (os.open(names[0], flags), os.open(names[1], flags))
        asyncio.get_running_loop().add_reader(self._descriptors[1], self._read)

    def close(self) -> None:
        """Stop reading; the log stays."""
        if self._descriptors is None:
            return
        into, out = self._descriptors
        asyncio.get_running_loop().remove_reader(out)
        self._read()
        os.close(into)
        os.close(out)
        self._descriptors = None
        for end in ("in", "out"):
            self.path.with_name(f"{self.path.name}.{end}").unlink(missing_ok=True)

    @property
    def mark(self) -> int:
        """Where what is said next begins, for `wait`."""
        return self._dropped + len(self._text)

    def since(self, mark: int) -> str:
        """What was said since then, without colours."""
        return _ESCAPES.sub("", self._text[max(0, mark - self._dropped) :])

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` called with all that is said from now on; the answer ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def write(self, content: bytes) -> None:
        """Put keys on the wire; those for which there is no room are lost, as on a real one."""
        if self._descriptors is not None:
            with contextlib.suppress(BlockingIOError):
                os.write(self._descriptors[0], content)

    async def wait(self, pattern: str, *, mark: int = 0, timeout_s: float = ANSWER_S) -> re.Match[str]:
        """The first match of what is said after `mark`; raises `PeerUnavailable` if it does not come."""
        compiled = re.compile(pattern, re.MULTILINE)
        try:
            async with asyncio.timeout(timeout_s):
                while (found := compiled.search(self.since(mark))) is None:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            last = self.since(mark).strip().rpartition("\n")[2]
            raise PeerUnavailable(
                f"{self.path.name} has not said {pattern!r} within {timeout_s:g} s; last: {last[:200]!r}; "
                f"its console is in {self._log}",
                code="console_silent",
            ) from None
        return found

    async def command(
        self, line: str, *, good: str = r"^ok\r?\n", timeout_s: float = ANSWER_S
    ) -> re.Match[str]:
        """Say one line and wait for its answer; raises `PeerRefused` with what the device says instead."""
        mark = self.mark
        self.write(line.encode() + b"\n")
        word = re.escape(line.split(" ", 1)[0])
        answer = await self.wait(
            rf"(?:{good})|^{word}[^\r\n]*: [^\r\n]+\r?\n", mark=mark, timeout_s=timeout_s
        )
        if re.search(good, answer[0], re.MULTILINE) is None:
            raise PeerRefused(f"{self.path.name} answers: {answer[0].strip()}", code="console_refused")
        return answer

    def _read(self) -> None:
        if self._descriptors is None:
            return
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._descriptors[1], _READ_BYTES):
                self._take(piece)

    def _take(self, piece: bytes) -> None:
        if self._logged < LOG_BYTES_MAX:
            with self._log.open("ab") as file:
                file.write(piece)
            self._logged += len(piece)
        text = piece.decode(errors="replace")
        self.panics += len(_PANIC.findall(text))
        self._text += text
        if (over := len(self._text) - KEPT_CHARS) > 0:
            self._text, self._dropped = self._text[over:], self._dropped + over
        self._more.set()
        for listener in list(self._listeners):
            listener(piece)
