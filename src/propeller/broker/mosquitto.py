"""Mosquitto as our broker: its configuration and ACL from the same table, and a process that runs it.

For identity Mosquitto's *username* counts, so the configuration makes it the client id as well: nobody can
take over another's connection. Mosquitto searches all users for each line of one (ten thousand proplets with
a section each took it half a minute, at each change), so what holds for everybody and for proplets is
written once, as `pattern` lines with `%u` for the own id. These hold for every user: who is no proplet has
lines of its own, and denials of what only a proplet may. Mosquitto checks subscriptions at delivery and wills
when they are sent: what a principal may not hear or say does not arrive, though its SUBACK may look like
success.
"""

import asyncio
import errno
import getpass
import os
import shutil
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from propeller import limits
from propeller.broker.credentials import PASSWORDS, CredentialStore
from propeller.broker.principals import EVERYBODYS, RULES, Action, Kind, Rights, Rule, filled
from propeller.errors import EnvironmentError_, PortInUse
from propeller.wire.filters import covers

CONFIGURATION = "mosquitto.conf"
ACL = "mosquitto.acl"
AUTOSAVE_S = 5
"""How often Mosquitto writes its retained messages down; what is younger goes with a kill, not with a stop.

Each of them is one that its sender repeats, or that devices which have only MQTT ask for again.
"""
_READY_S = 30.0
_SAID_CHARS = 2000
_STOP_S = 5.0
_POLL_S = 0.02


def acl_text(store: CredentialStore) -> str:
    """The ACL file for the principals of `store`: who has a password and no section here is a proplet."""
    common = [filled(rule, store.base, "%u") for rule in (*RULES[Kind.PROPLET], *EVERYBODYS)]
    others = sorted(name for name, kind in store.principals().items() if kind is not Kind.PROPLET)
    sections = [_section(rights, store.base) for name in others if (rights := store.rights(name))]
    return "".join([_lines("# everybody; %u is the user's own name", "pattern", common), *sections])


def _section(rights: Rights, base: str) -> str:
    """The lines of one who is no proplet.

    A denial holds for both directions. That takes nothing away: where only the principal itself could speak
    or be spoken to as a proplet, nobody does.
    """
    own = [filled(rule, base, rights.id) for rule in RULES[rights.kind]]
    as_proplet = [filled(rule, base, rights.id) for rule in RULES[Kind.PROPLET]]
    denied = [
        f"topic deny {rule.pattern}\n"
        for rule in as_proplet
        if not any(rule.actions <= mine.actions and covers(mine.pattern, rule.pattern) for mine in own)
    ]
    return "\n" + _lines(f"# {rights.kind}\nuser {rights.id}", "topic", own) + "".join(denied)


def _lines(head: str, word: str, rules: Sequence[Rule]) -> str:
    said = (
        f"{word} {'write' if Action.PUBLISH in rule.actions else 'read'} {rule.pattern}\n" for rule in rules
    )
    return "".join([head, "\n", *said])


def configuration_text(
    store: CredentialStore,
    directory: Path,
    *,
    host: str,
    port: int,
    persistence: Path | None = None,
    autosave_s: int = AUTOSAVE_S,
) -> str:
    """`mosquitto.conf` for Mosquitto 2: one listener, no anonymous clients, our limits.

    `directory` is where the ACL file lies; `persistence`, if given, keeps retained messages over restarts,
    and over kills those that are older than `autosave_s`.
    """
    lines = [
        "# Written by propeller; rewritten at each start.",
        "per_listener_settings false",
        f"listener {port} {host}",
        "protocol mqtt",
        "set_tcp_nodelay true",
        f"max_connections {limits.MOSQUITTO_CONNECTIONS_MAX}",
        "allow_anonymous false",
        "use_username_as_clientid true",
        f"password_file {(store.directory / PASSWORDS).resolve()}",
        f"acl_file {(directory / ACL).resolve()}",
        f"message_size_limit {limits.MQTT_MESSAGE_BYTES_MAX}",
        f"max_queued_messages {limits.MQTT_INBOX_MESSAGES_MAX}",
        # Started by root, Mosquitto would become another user, who may not read the credentials.
        f"user {getpass.getuser()}",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        f"persistence {'true' if persistence else 'false'}",
    ]
    if persistence:
        lines += [
            f"persistence_location {persistence.resolve()}/",
            # Counted in changes, every acknowledgement would be one, and each save walks all clients.
            "autosave_on_changes false",
            f"autosave_interval {autosave_s}",
        ]
    return "\n".join(lines) + "\n"


def write_configuration(
    store: CredentialStore,
    directory: Path,
    *,
    host: str,
    port: int,
    persistence: Path | None = None,
    autosave_s: int = AUTOSAVE_S,
) -> Path:
    """Write `mosquitto.conf` and the ACL file into `directory`, and return the former's path."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if persistence:
        persistence.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_acl(store, directory)
    text = configuration_text(
        store, directory, host=host, port=port, persistence=persistence, autosave_s=autosave_s
    )
    return _write(directory / CONFIGURATION, text)


def write_acl(store: CredentialStore, directory: Path) -> Path:
    """Write the ACL file anew after a change of credentials; a running Mosquitto reads it at SIGHUP."""
    return _write(directory / ACL, acl_text(store))


def _write(path: Path, text: str) -> Path:
    temporary = path.with_name(path.name + ".new")
    temporary.touch(mode=0o600)
    temporary.write_text(text, encoding="utf-8")
    return temporary.replace(path)


class MosquittoProcess:
    """A Mosquitto that lives as long as this process, with the credentials of `store`.

    An async context manager: entering starts it and waits until it listens.
    """

    def __init__(
        self,
        store: CredentialStore,
        directory: Path,
        *,
        port: int,
        host: str = "127.0.0.1",
        persistence: Path | None = None,
        autosave_s: int = AUTOSAVE_S,
        flag: str = "--mqtt-port",
    ) -> None:
        self._store = store
        self._directory = directory
        self._persistence = persistence
        self._autosave_s = autosave_s
        self._flag = flag
        self._process: asyncio.subprocess.Process | None = None
        self.host = host
        self.port = port

    async def start(self) -> None:
        """Start and wait until it listens.

        Raises `PortInUse`, or `EnvironmentError_` if Mosquitto is not installed or ends at once.
        """
        self._check_port()
        configuration = write_configuration(
            self._store,
            self._directory,
            host=self.host,
            port=self.port,
            persistence=self._persistence,
            autosave_s=self._autosave_s,
        )
        # Mosquitto is in sbin, which is not on every user's path.
        path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
        programs = [shutil.which(name, path=path) for name in ("setpriv", "mosquitto")]
        if not all(programs):
            raise EnvironmentError_(
                "no mosquitto or no setpriv here: install the Debian packages mosquitto and util-linux, "
                "or use the embedded broker"
            )
        setpriv, mosquitto = (str(program) for program in programs)
        # The kernel ends it with us, however we end.
        command = (setpriv, "--pdeathsig", "TERM", mosquitto, "-c", str(configuration))
        self._log = (self._directory / "mosquitto.log").open("wb")
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        try:
            await self._ready(self._process)
        except BaseException:
            await self.stop()
            raise

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(_READY_S):
                await self._until_listening(process)
        except TimeoutError:
            raise EnvironmentError_(
                f"mosquitto does not listen on {self.host} port {self.port} within {_READY_S:g} s: "
                f"{self._said() or 'it said nothing'}"
            ) from None

    async def _until_listening(self, process: asyncio.subprocess.Process) -> None:
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection(self.host, self.port)
            except OSError:
                await asyncio.sleep(_POLL_S)
                continue
            writer.close()
            await writer.wait_closed()
            return
        raise self._explain()

    def _check_port(self) -> None:
        """Find a taken port before Mosquitto does: afterwards, whoever answers there is taken for it."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            socket.create_server((self.host, self.port), family=family).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise self._taken() from error
            raise EnvironmentError_(f"cannot listen on {self.host} port {self.port}: {error}") from error

    def _taken(self) -> PortInUse:
        return PortInUse(
            f"port {self.port} on {self.host} is taken by another program: stop that, "
            f"or choose another port with {self._flag}"
        )

    def _explain(self) -> EnvironmentError_:
        said = self._said()
        if "already in use" in said:
            return self._taken()
        return EnvironmentError_(f"mosquitto ended at once: {said or 'it said nothing'}")

    def _said(self) -> str:
        """The end of its log."""
        log = self._directory / "mosquitto.log"
        return log.read_text(encoding="utf-8", errors="replace").strip()[-_SAID_CHARS:]

    def reload(self) -> None:
        """Make the running Mosquitto take the store's present principals; call it after each change."""
        if self._process is None or self._process.returncode is not None:
            raise EnvironmentError_("mosquitto is not running: start it before reloading its credentials")
        write_acl(self._store, self._directory)
        self._process.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        """Stop and wait for the end; again is fine."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        finally:
            self._log.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()
