"""The story of a day, line by line: what went wrong when, and what the roles said about it.

A world tells it of crashes and faults; what the roles log comes by itself, as their logs are streams. It
decides nothing, and worlds without a reader write only what is an error.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from propeller.telemetry.logs import configure, forget

ROLES = ("manager", "coordinator", "aggregator", "model-registry", "registry", "data-store")
"""What bears a name in every world; proplets come on top."""
_HIDDEN = frozenset({"event", "role", "level", "time", "exception", "cause"})
_BUG = "bug:"
"""What a role's line begins with when it reports a mistake of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What happened to whom, and when (virtual seconds); a `fault` is the weather's doing."""

    at_s: float
    who: str
    what: str
    fault: bool = False

    def __str__(self) -> str:
        return f"{self.at_s:9.2f} s  {'⚡' if self.fault else ' '} {self.who:<14} {self.what}"


@dataclass(slots=True)
class Chronicle:
    """Collects lines; `full` keeps what roles say at `info`, else only mistakes of ours are kept."""

    full: bool = False
    lines: list[Line] = field(default_factory=list)
    bugs: list[Line] = field(default_factory=list)
    """Lines in which a role says that it met a mistake of ours."""
    clock: Callable[[], float] = lambda: 0.0
    """Virtual seconds; the world sets it."""

    def fault(self, who: str, what: str) -> None:
        """Note what the weather did."""
        if self.full:
            self.lines.append(Line(at_s=self.clock(), who=who, what=what, fault=True))

    def write(self, text: str, /) -> None:
        """Take one line of a role's log."""
        said = json.loads(text)
        line = Line(at_s=self.clock(), who=str(said.get("role", "")), what=_told(said))
        if str(said["event"]).startswith(_BUG):
            self.bugs.append(line)
        if self.full:
            self.lines.append(line)

    def flush(self) -> None:
        """Nothing waits."""

    @contextmanager
    def listening(self, names: tuple[str, ...]) -> Iterator[None]:
        """Inside, what those roles log comes here."""
        for name in names:
            configure(name, "info" if self.full else "error", self)
        try:
            yield
        finally:
            for name in names:
                forget(name)


def _told(said: dict[str, Any]) -> str:
    """A log line for people: a run's in a form of its own, else the event and what belongs to it."""
    if said["event"] == "run":
        where = (
            f" #{said['attempt']} on {said['proplet_id']} {said['attempt_state']}" if said["attempt"] else ""
        )
        why = f" ({said['reason']})" if said["reason"] else ""
        return f"run {said['task_id']}/{said['run']} {said['state']}{where}{why}"
    hidden = _HIDDEN | ({"task_id"} if "task" in said else set())
    rest = " ".join(f"{name}={value}" for name, value in said.items() if name not in hidden)
    exception = str(said.get("exception", ""))
    last = f"\n{exception}" if exception and said["level"] == "error" else ""
    return f"{said['event']}{': ' if rest else ''}{rest}{last}"
