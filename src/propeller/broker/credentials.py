"""The credentials of one domain and channel: who may connect, as what, proved how. Knows no broker.

A directory, private to its owner, holds `passwords` in Mosquitto's own format (PBKDF2-HMAC-SHA512, so that
Mosquitto reads the same file) and `principals.json` (domain, channel, id → kind). No file holds an API key.
Each file is replaced whole, by rename; changes are serialised over processes by a lock file; readers notice
a replaced file by its stat. Between the two renames of one change a principal lacks either its password or
its kind, and both are needed for anything.
"""

import base64
import binascii
import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from propeller import limits
from propeller.broker.principals import Kind, Rights, rights_of
from propeller.core.ids import check_id
from propeller.errors import BadInput, Conflict, NotFound, StorageBroken
from propeller.wire.topics import Topics

PASSWORDS = "passwords"
PRINCIPALS = "principals.json"
_LOCK = "lock"
_SCHEMA = 1
_ITERATIONS = 101
"""Mosquitto's own count. Keys are 256 random bits: stretching protects chosen passwords, not these."""
_ITERATIONS_MAX = 100_000
"""A larger count in the file would hold the broker's loop for over 50 ms at each connect."""
_SALT_BYTES = 12
_KEY_BYTES = 32

log = logging.getLogger(__name__)

V = TypeVar("V")


class _Book(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`principals.json`."""

    schema: int
    domain: str
    channel: str
    principals: dict[str, Kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hashed:
    """One line of `passwords` after the name."""

    iterations: int
    salt: bytes
    digest: bytes

    @classmethod
    def of(cls, api_key: str) -> "_Hashed":
        salt = secrets.token_bytes(_SALT_BYTES)
        return cls(iterations=_ITERATIONS, salt=salt, digest=_stretch(api_key, salt, _ITERATIONS))

    @classmethod
    def parse(cls, text: str) -> "_Hashed":
        scheme, iterations, salt, digest = text.removeprefix("$").split("$")
        if scheme != "7" or not 0 < int(iterations) <= _ITERATIONS_MAX:
            raise ValueError(text)
        return cls(iterations=int(iterations), salt=_unbase64(salt), digest=_unbase64(digest))

    def __str__(self) -> str:
        return f"$7${self.iterations}${_base64(self.salt)}${_base64(self.digest)}"

    def fits(self, api_key: str) -> bool:
        return hmac.compare_digest(_stretch(api_key, self.salt, self.iterations), self.digest)


def new_api_key() -> str:
    """A fresh API key: 256 random bits, safe in URLs, configuration files and shells."""
    return secrets.token_urlsafe(_KEY_BYTES)


class CredentialStore:
    """The principals of one channel. Safe for several processes; a running broker sees changes at once."""

    def __init__(self, directory: Path) -> None:
        """Open what `create` made. Raises `NotFound`, or `StorageBroken` for files that are not ours."""
        self.directory = directory
        if not (directory / PRINCIPALS).is_file():
            raise NotFound(
                f"{directory} holds no credentials: no {PRINCIPALS}; `propeller provision` makes them"
            )
        self._seen = self._stamp()
        self._load()

    @classmethod
    def create(cls, directory: Path, domain: str, channel: str) -> "CredentialStore":
        """Open the store of this domain and channel, making it if it is not there.

        Raises `BadInput` for unlawful ids and `Conflict` if the directory belongs to another channel.
        """
        check_id(domain, "domain")
        check_id(channel, "channel")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(directory):
            if not (directory / PRINCIPALS).exists():
                _replace(directory / PASSWORDS, b"")
                _write_book(directory, _Book(schema=_SCHEMA, domain=domain, channel=channel, principals={}))
        store = cls(directory)
        if (store.domain, store.channel) != (domain, channel):
            raise Conflict(
                f"{directory} holds the credentials of domain {store.domain!r}, channel {store.channel!r}, "
                f"not of {domain!r}, {channel!r}: name another directory"
            )
        return store

    @property
    def domain(self) -> str:
        """The domain's id."""
        return self._book.domain

    @property
    def channel(self) -> str:
        """The channel's id."""
        return self._book.channel

    @property
    def base(self) -> str:
        """`m/{domain}/c/{channel}`."""
        return Topics(self.domain, self.channel).base

    def add(self, kind: Kind, principal: str, api_key: str | None = None) -> str:
        """Let `principal` in, and return its API key: a new one unless given. A known one gets a new key.

        Raises `BadInput` for an unlawful id or key, `Conflict` if the id already has another kind.
        """
        key = new_api_key() if api_key is None else api_key
        self.add_all(kind, {principal: key})
        return key

    def add_all(self, kind: Kind, keys: Mapping[str, str]) -> None:
        """Let all of `keys` in, an API key for each principal, or none of them. Raises as `add`."""
        for principal, key in keys.items():
            check_id(principal, f"{kind} id")
            _check_key(key)
        with _locked(self.directory):
            self._load()
            for principal in keys:
                if (known := self._book.principals.get(principal, kind)) != kind:
                    raise Conflict(f"{principal!r} is already a {known}: remove it, or take another id")
            hashed = {principal: _Hashed.of(key) for principal, key in keys.items()}
            self._store_passwords({**self._passwords, **hashed})
            self._store_principals({**self._book.principals, **dict.fromkeys(keys, kind)})

    def remove(self, principal: str) -> None:
        """Let `principal` in no longer. Raises `NotFound`."""
        with _locked(self.directory):
            self._load()
            if principal not in self._book.principals:
                raise NotFound(f"no credentials for {principal!r} in {self.directory}")
            self._store_principals(_without(self._book.principals, principal))
            self._store_passwords(_without(self._passwords, principal))

    def verify(self, user: str, password: str) -> bool:
        """Whether `password` is the API key of `user`, as the files say now."""
        hashed = self._passwords.get(user) if self.rights(user) else None
        return hashed is not None and hashed.fits(password)

    def rights(self, principal: str) -> Rights | None:
        """What `principal` may do, as the files say now; None if it may nothing."""
        self.refresh()
        known = self._rights.get(principal)
        kind = self._book.principals.get(principal)
        if known is None and kind is not None and principal in self._passwords:
            known = self._rights[principal] = rights_of(kind, principal, self.base)
        return known

    def mark(self, principal: str) -> bytes | None:
        """Something that changes whenever the principal's API key or kind does; None without credentials."""
        hashed = self._passwords.get(principal) if self.rights(principal) else None
        return hashed.salt + hashed.digest if hashed else None

    def principals(self) -> Mapping[str, Kind]:
        """Every principal and its kind, as the files say now."""
        self.refresh()
        return dict(self._book.principals)

    def refresh(self) -> bool:
        """Read the files again if they were replaced; whether they were.

        Files that cannot be read change nothing: who was in stays in, and the log says why.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self._load()
        except StorageBroken as broken:
            log.error("keeping the credentials read before: %s", broken)  # noqa: TRY400 - the message says it all
            return False
        return True

    def _load(self) -> None:
        self._book = _read_book(self.directory)
        self._passwords = _read_passwords(self.directory / PASSWORDS)
        self._rights: dict[str, Rights] = {}
        """Of those who were asked for: a fleet of ten thousand is not there all at once."""

    def _store_passwords(self, passwords: dict[str, _Hashed]) -> None:
        lines = (f"{name}:{hashed}\n" for name, hashed in sorted(passwords.items()))
        _replace(self.directory / PASSWORDS, "".join(lines).encode())
        self._load()

    def _store_principals(self, principals: dict[str, Kind]) -> None:
        _write_book(self.directory, msgspec.structs.replace(self._book, principals=principals))
        self._load()

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(_stat(self.directory / name) for name in (PASSWORDS, PRINCIPALS))


def _check_key(api_key: str) -> str:
    """An MQTT password that every client and file of ours can carry."""
    if 0 < len(api_key) <= limits.API_KEY_CHARS_MAX and api_key.isascii() and api_key.isprintable():
        return api_key
    raise BadInput(f"an API key is 1 to {limits.API_KEY_CHARS_MAX} printable ASCII characters")


def _read_book(directory: Path) -> _Book:
    path = directory / PRINCIPALS
    try:
        book = msgspec.json.decode(path.read_bytes(), type=_Book)
        Topics(book.domain, book.channel)
        for principal in book.principals:
            check_id(principal, "principal")
    except (OSError, msgspec.MsgspecError, BadInput) as error:
        raise StorageBroken(f"{path} is not a list of principals: {error}") from error
    if book.schema != _SCHEMA:
        raise StorageBroken(f"{path} has schema {book.schema}, this release reads {_SCHEMA}")
    return book


def _write_book(directory: Path, book: _Book) -> None:
    encoded = msgspec.json.encode(book, order="sorted")
    _replace(directory / PRINCIPALS, msgspec.json.format(encoded, indent=1) + b"\n")


def _read_passwords(path: Path) -> dict[str, _Hashed]:
    passwords: dict[str, _Hashed] = {}
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageBroken(f"{path} is not a password file: {error}") from error
    for number, line in enumerate(lines, 1):
        name, _, rest = line.partition(":")
        try:
            passwords[name] = _Hashed.parse(rest)
        except (ValueError, binascii.Error) as error:
            raise StorageBroken(f"{path} line {number} is not `user:$7$iterations$salt$hash`") from error
    return passwords


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the store's lock against every other process; it falls with the descriptor."""
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    """Put `content` at `path`, whole and durably. The caller holds the lock: one temporary name is enough."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_ino, found.st_size)


def _without(mapping: Mapping[str, V], key: str) -> dict[str, V]:
    return {name: value for name, value in mapping.items() if name != key}


def _stretch(api_key: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", api_key.encode(), salt, iterations)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _unbase64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
