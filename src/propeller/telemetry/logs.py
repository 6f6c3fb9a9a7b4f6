"""Logs as JSON lines, one stream per role, with the round and the task that a line is about.

Several roles share one process and one loop in `propeller up`, so the role is not a global: it lives in a
context variable that every task inherits, and each line goes to the stream configured for its role. Lines of
libraries that use the standard `logging` (uvicorn, amqtt) take the same way. Secrets never reach a stream.
This module must not know what any role does.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import msgspec
import structlog
from structlog.contextvars import bind_contextvars, bound_contextvars, merge_contextvars

from propeller import limits

Level = Literal["debug", "info", "warning", "error"]
Logger = structlog.typing.FilteringBoundLogger

_LEVELS: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_SECRET_KEY = re.compile(
    r"pass(word|wd|phrase)?$|secret|api_?key|private_?key|client_?key|credential|authorization|cookie|token$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"(?P<scheme>\b(?:Bearer|Basic)\s+)[^\s@\"',]+|(?P<user>://[^/\s:@]*:)[^/\s@\"',]+(?=@)"
)
"""A credential after its scheme, or the password of a URL; a URL's port is followed by no `@` and stays."""
_SPACE = re.compile(r"\s")
MASK = "***"


class Stream(Protocol):
    """Where lines go: an open text file, `sys.stderr`, or a `LogFile`."""

    def write(self, text: str, /) -> object:
        """Take one whole line, newline included."""
        ...

    def flush(self) -> object:
        """Hand what was written to the operating system."""
        ...


class LogFile:
    """A bounded log file: past `bytes_max` it moves to `NAME.1` (replacing that) and starts anew."""

    def __init__(self, path: Path, *, bytes_max: int = limits.LOG_FILE_BYTES_MAX) -> None:
        self._path = path
        self._bytes_max = bytes_max
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")

    def write(self, text: str, /) -> None:
        """Append one line, turning the file over first if it is full."""
        if self._file.tell() > self._bytes_max:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._path.open("a", encoding="utf-8", errors="backslashreplace")
        self._file.write(text)

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Release the descriptor; later lines of this role go to stderr once `forget` was called."""
        self._file.close()


class _Sink:
    """The stream and the least level of one role."""

    def __init__(self, stream: Stream | None, level: int) -> None:
        self.stream = stream
        self.level = level


_sinks: dict[str, _Sink] = {}
_fallback = _Sink(None, _LEVELS["info"])


def configure(role: str, level: Level = "info", stream: Stream | None = None) -> None:
    """Send this role's lines of at least `level` to `stream` (default: stderr, looked up at each line).

    Call once per role; then enter `role_context(role)` in the role's task. Calling again replaces the sink.
    """
    _sinks[role] = _Sink(stream, _LEVELS[level])
    _install()


def forget(role: str) -> None:
    """Undo `configure` for a role that has ended; its stream stays the caller's to close."""
    _sinks.pop(role, None)


def logger() -> Logger:
    """The logger of all rooms: `logger().info("round closed", votes=3)`; ids come from the context."""
    _install()
    return cast("Logger", structlog.get_logger())


def say(event: str, **fields: object) -> None:
    """The line that `logger().info(event, **fields)` writes, three times as fast: for what is said often."""
    entry = merge_contextvars(None, "info", {**fields, "event": event, "level": "info"})
    sink = _sink_of(entry)
    if sink.level <= _LEVELS["info"]:
        _writer.msg(sink, mask_secrets(None, "info", _stamped(None, "info", entry)))


@contextlib.contextmanager
def role_context(role: str) -> Iterator[None]:
    """Inside, and in every task started inside, lines belong to `role`."""
    with bound_contextvars(role=role):
        yield


@contextlib.contextmanager
def about(*, round_id: str | None = None, task_id: str | None = None) -> Iterator[None]:
    """Inside, every line carries the ids given."""
    ids = {"round_id": round_id, "task_id": task_id}
    with bound_contextvars(**{name: value for name, value in ids.items() if value is not None}):
        yield


def bind_role(role: str) -> None:
    """Like `role_context` for the rest of the current task, for servers that start a task per request."""
    bind_contextvars(role=role)


def mask_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace by `***` the value of every key that names a secret, at any depth, and secrets inside text."""
    return {key: _masked(key, value) for key, value in event.items()}


def _masked(key: str, value: Any) -> Any:
    if _is_secret(key):
        return MASK
    if isinstance(value, str):
        if "://" not in value and not _SPACE.search(value):
            return value  # no room for a scheme or a user
        return _SECRET_TEXT.sub(lambda match: f"{match['scheme'] or match['user']}{MASK}", value)
    if isinstance(value, Mapping):
        return {str(name): _masked(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked("", item) for item in value]
    return value


@lru_cache(maxsize=4096)
def _is_secret(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _sink_of(event: Mapping[str, Any]) -> _Sink:
    return _sinks.get(str(event.get("role", "")), _fallback)


def _drop_below_level(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if _LEVELS.get(str(event["level"]), 40) < _sink_of(event).level:
        raise structlog.DropEvent
    return event


def _address(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[_Sink, MutableMapping[str, Any]], dict[str, Any]]:
    return (_sink_of(event), event), {}


_encoder = msgspec.json.Encoder(enc_hook=repr)
"""A line is written per change of a run: the standard encoder would take a tenth of the manager's time."""


class _Writer:
    """The last step: one rendered line to the stream of its role."""

    def msg(self, sink: _Sink, event: MutableMapping[str, Any]) -> None:
        line = _encoder.encode(event).decode() + "\n"
        stream = sink.stream or sys.stderr
        # A closed or full log must never stop the work that it describes.
        with contextlib.suppress(OSError, ValueError):
            stream.write(line)
            stream.flush()

    debug = info = warning = error = critical = exception = log = msg


_writer = _Writer()
_stamped = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")


class _FromStandardLogging(logging.Handler):
    """Carries the lines of libraries over: warnings and worse, as they speak of connections at `info`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one record to structlog under the context of whoever logged it."""
        fields: dict[str, Any] = {"library": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        level = "error" if record.levelno >= logging.ERROR else "warning"
        getattr(structlog.get_logger(), level)(record.getMessage(), **fields)


def _install() -> None:
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            merge_contextvars,
            structlog.processors.add_log_level,
            _drop_below_level,
            _stamped,
            structlog.processors.format_exc_info,
            mask_secrets,
            _address,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS["debug"]),
        logger_factory=lambda *_: _writer,
        cache_logger_on_first_use=False,
    )
    logging.getLogger().addHandler(_FromStandardLogging(logging.WARNING))
