"""The files of attempts: a folder that a guest sees as `/fl`, its packed update, what a trainer remembers.

A folder lives as long as the guest's work; a packed update until the attempt is forgotten, for a proplet that
dies delivers it when it is back; a state as long as its experiment goes on. Methods block. Nothing here knows
what is in the files.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from propeller import limits
from propeller.proplet.records import show_file
from propeller.wire.messages import AttemptKey

_PACKED = ".update"
_STATES = "states"


class Workspace:
    """A directory of a proplet's own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: set[str] = set()
        """Attempts that have, or once had, anything here."""

    def knows(self, key: AttemptKey) -> bool:
        """Whether there may be files of the attempt. Asked for every task, so it does not touch the disk."""
        return show_file(key) in self._known

    def folder(self, key: AttemptKey) -> Path:
        """Where the attempt's files are, if it has any."""
        return self._root / show_file(key)

    def open(self, key: AttemptKey) -> Path:
        """The attempt's folder, made empty."""
        folder = self.folder(key)
        self._known.add(folder.name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def close(self, key: AttemptKey) -> None:
        """Drop the folder."""
        shutil.rmtree(self.folder(key), ignore_errors=True)

    def packed(self, key: AttemptKey) -> Path:
        """Where the attempt's packed update is, or is to be."""
        return self._root / (show_file(key) + _PACKED)

    def forget(self, keys: Iterable[AttemptKey]) -> None:
        """Drop everything of these attempts."""
        for key in keys:
            self.packed(key).unlink(missing_ok=True)
            self.close(key)
            self._known.discard(show_file(key))

    def sweep(self, kept: Iterable[AttemptKey]) -> None:
        """Drop what belongs to no attempt of these: a killed process left it."""
        self._known = {show_file(key) for key in kept}
        names = {name + _PACKED for name in self._known} | {_STATES}
        for path in self._root.iterdir() if self._root.exists() else ():
            if path.name in names:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def state(self, experiment: str, trainer: str) -> Path:
        """What this trainer (its digest) remembers of an experiment. The longest unused of too many go."""
        folder = self._root / _STATES
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in known[: -limits.TRAINER_STATES_MAX]:
            old.unlink(missing_ok=True)
        return folder / f"{experiment}.{trainer}.safetensors"
