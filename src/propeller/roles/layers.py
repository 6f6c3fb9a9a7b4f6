"""One setting from many places: flags, then environment, then `propeller.toml`, then the default.

It knows how a value is found and read, and names the place in every complaint. It must not know any role.
"""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from propeller.errors import BadInput

T = TypeVar("T")

DEFAULT_FILE = Path("propeller.toml")
"""Read from the working directory when no other file is named."""

_DURATION = re.compile(r"(?P<value>\d+(?:\.\d+)?)(?P<unit>ms|s|m|h|d)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, None: 1.0}
_PORT_MAX = 0xFFFF
_TRUE = frozenset({"1", "true", "yes", "on", "t"})
_FALSE = frozenset({"0", "false", "no", "off", "f"})


class Layers:
    """The places where one role's settings are looked for. An empty environment variable counts as absent."""

    def __init__(
        self,
        section: str,
        *,
        flags: Mapping[str, object | None] | None = None,
        env: Mapping[str, str] | None = None,
        file: Mapping[str, Any] | None = None,
    ) -> None:
        """`flags` are keyed as in `propeller.toml`, None if not given; `file` is the whole document."""
        self.section = section
        self._flags = {name: value for name, value in (flags or {}).items() if value is not None}
        self._env = env or {}
        self._file = _table(file or {}, section)

    def text(self, name: str, env: Sequence[str] = (), *, default: str = "") -> str:
        """A string."""
        return self._find(name, env, str, default)

    def path(self, name: str, env: Sequence[str] = ()) -> Path | None:
        """A file or directory, `~` expanded; None if nobody names one."""
        named = self.text(name, env)
        return Path(named).expanduser() if named else None

    def whole(self, name: str, env: Sequence[str] = (), *, default: int) -> int:
        """A whole number."""
        return self._find(name, env, _whole, default)

    def port(self, name: str, env: Sequence[str] = (), *, default: int) -> int:
        """A TCP port; 0 takes any free one."""
        return self._find(name, env, _port, default)

    def seconds(self, name: str, env: Sequence[str] = (), *, default: float) -> float:
        """A duration: a number of seconds, or text such as `250ms`, `30s`, `2m`, `90d`."""
        return self._find(name, env, _seconds, default)

    def switch(self, name: str, env: Sequence[str] = (), *, default: bool) -> bool:
        """A yes or no."""
        return self._find(name, env, _switch, default)

    def listed(self, name: str, env: Sequence[str] = (), *, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Several strings: a TOML array, or text separated by commas."""
        return self._find(name, env, _listed, default)

    def _find(self, name: str, env: Sequence[str], read: Callable[[object], T], default: T) -> T:
        if name in self._flags:
            return _read(read, self._flags[name], f"--{name.replace('_', '-')}")
        for variable in env:
            if self._env.get(variable):
                return _read(read, self._env[variable], variable)
        if name in self._file:
            return _read(read, self._file[name], f"{name} in [{self.section}] of propeller.toml")
        return default


def read_toml(path: Path) -> dict[str, Any]:
    """The document at `path`; raises `BadInput` that names the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not TOML: {error}") from error


def settings_file(path: Path | None) -> dict[str, Any]:
    """The named `propeller.toml`, or the one in the working directory, or an empty document."""
    if path is not None:
        return read_toml(path)
    return read_toml(DEFAULT_FILE) if DEFAULT_FILE.is_file() else {}


def _table(document: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    table = document.get(section, {})
    if not isinstance(table, dict):
        raise BadInput(f"{section} in propeller.toml is not a section; write [{section}]")
    return table


def _read(read: Callable[[object], T], value: object, where: str) -> T:
    try:
        return read(value)
    except ValueError as error:
        raise BadInput(f"{where} is {value!r}: {error}", code="bad_setting") from error


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value.strip()):
        return int(value)
    raise ValueError("not a whole number")


def _port(value: object) -> int:
    port = _whole(value)
    if 0 <= port <= _PORT_MAX:
        return port
    raise ValueError("a port is 0 to 65535")


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("not a duration; write seconds, or a number with ms, s, m, h or d")
    return float(match["value"]) * _UNIT_S[match["unit"]]


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError("not a yes or no; write true or false")


def _listed(value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise ValueError("not a list of strings")
    return tuple(item.strip() for item in items if item.strip())
