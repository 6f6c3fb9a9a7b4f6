"""Where a running system keeps what: the data directory, and the note that says what runs in it.

    DATA/config.toml          identities and keys of this system (0600), and where its services are
    DATA/running.json         while `up` runs: its process, ports and URLs, for the commands beside it
    DATA/lock                 held by the one `up` of this directory
    DATA/update-token.key     the secret that manager and coordinator share (0600)
    DATA/broker/              the broker's credentials; for Mosquitto its configuration
    DATA/manager/             manager.db and inline modules
    DATA/coordinator/         coordinator.db, updates, copies of base models
    DATA/model-registry/      registry.db and model versions
    DATA/data-store/          data-store.db and data sets
    DATA/registry/            OCI images
    DATA/proplets/SECTION/    each proplet's spool and client state, and its process id
    DATA/cache/               images and compiled modules, shared by the proplets
    DATA/logs/ROLE.log        JSON lines

It must not know how any of these files is made.
"""

import fcntl
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from propeller.errors import Conflict, EnvironmentError_, StorageBroken
from propeller.roles.identity import write_private

DEFAULT_DATA_DIR: Final = Path(".propeller")
DATA_DIR_VARIABLE: Final = "PROPELLER_DATA_DIR"
_SECRET_BYTES = 32


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """`running.json`: what `up` runs and where. `urls` are keyed by role name."""

    pid: int
    urls: dict[str, str]
    mqtt_address: str
    proplets: list[str]


@dataclass(frozen=True, slots=True)
class DataDir:
    """One data directory; every path below it."""

    root: Path

    @property
    def config(self) -> Path:
        """Identities and services."""
        return self.root / "config.toml"

    @property
    def broker(self) -> Path:
        """The broker's credentials."""
        return self.root / "broker"

    @property
    def logs(self) -> Path:
        """One file per role."""
        return self.root / "logs"

    def role(self, role: str) -> Path:
        """What one role owns."""
        return self.root / role

    def proplet(self, section: str) -> Path:
        """What one proplet of `up` owns."""
        return self.root / "proplets" / section

    def log(self, role: str) -> Path:
        """The log of one role, or of one proplet by its section's name."""
        return self.logs / f"{role}.log"

    def make(self) -> None:
        """Create the directory, private to its owner. Raises `EnvironmentError_` if that cannot be."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentError_(
                f"cannot keep data in {self.root}: {error.strerror or error}; --data-dir names another place"
            ) from error

    def lock(self) -> int:
        """Take the directory for this process, until the descriptor returned is closed.

        Raises `Conflict` if another `up` has it.
        """
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            running = self.running()
            who = f" (process {running.pid})" if running else ""
            raise Conflict(
                f"{self.root} is in use by another `propeller up`{who}; stop it, or name another directory "
                "with --data-dir",
                code="data_dir_in_use",
            ) from None
        return descriptor

    def note(self, running: Running) -> None:
        """Say what runs here."""
        write_private(self.root / "running.json", msgspec.json.encode(running).decode())

    def forget_note(self) -> None:
        """Say that nothing runs here any more."""
        (self.root / "running.json").unlink(missing_ok=True)

    def running(self) -> Running | None:
        """What runs here, if anything says so and its process is alive."""
        try:
            note = msgspec.json.decode((self.root / "running.json").read_bytes(), type=Running)
            os.kill(note.pid, 0)
        except (OSError, msgspec.MsgspecError):
            return None
        return note

    def update_token_secret(self) -> bytes:
        """The secret behind update tokens: made once, then always the same."""
        path = self.root / "update-token.key"
        if not path.exists():
            write_private(path, secrets.token_hex(_SECRET_BYTES) + "\n")
        try:
            secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except (UnicodeDecodeError, ValueError) as error:
            raise StorageBroken(f"{path} is not a line of hex digits; restore it, or delete it") from error
        if len(secret) != _SECRET_BYTES:
            raise StorageBroken(f"{path} holds {len(secret)} bytes, not {_SECRET_BYTES}")
        return secret


def data_dir(named: Path | None, env: Mapping[str, str]) -> DataDir:
    """The directory of `--data-dir`, else of the environment, else `.propeller` here."""
    return DataDir((named or Path(env.get(DATA_DIR_VARIABLE) or DEFAULT_DATA_DIR)).expanduser())
