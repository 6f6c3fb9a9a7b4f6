"""What every asking command shares: where the roles answer, how to show, and the options that say so.

It must not know any noun. Heavy imports happen inside, when a command runs.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from propeller.errors import BadInput

if TYPE_CHECKING:
    from propeller.client import Client

T = TypeVar("T")
WATCH_S = 1.0
"""How often a watched list is asked for."""


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The global options of one command line. `urls` are by field of `client.Endpoints`; absent: defaults."""

    output: Output = Output.TABLE
    urls: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def client(self) -> "Iterator[Client]":
        """A client of the roles at `urls`."""
        from propeller.client import Client, Endpoints

        with Client(Endpoints(**self.urls)) as client:
            yield client

    def show(self, value: Any, *, table: Callable[[Any], Any] | None = None) -> None:
        """Print a result on stdout: for people (by `table`, if it is given), or as JSON."""
        from propeller.cli import render

        render.show(value, as_json=self.output is Output.JSON, table=table)

    def document(self, value: Any) -> None:
        """Print what is JSON for people too."""
        from propeller.cli import render

        render.show(value, as_json=True)

    def repeat(
        self, look: Callable[[], T], *, watch: bool = False, table: Callable[[Any], Any] | None = None
    ) -> None:
        """Show what `look` finds; with `watch` again each time that it changes, until Ctrl-C."""
        if watch:
            self.follow(_repeated(look), table=table)
        else:
            self.show(look(), table=table)

    def view(self, look: Callable[[], T], watched: Callable[..., Iterable[T]], *, watch: bool) -> None:
        """Show what `look` finds; with `watch` each state of it that `watched` tells, without end."""
        if watch:
            self.follow(watched(timeout_s=float("inf")))
        else:
            self.show(look())

    def follow(self, items: Iterable[Any], *, table: Callable[[Any], Any] | None = None) -> None:
        """Show each item: on a terminal in the place of the one before, otherwise below it."""
        from propeller.cli import progress

        if self.output is Output.TABLE and progress.is_terminal():
            progress.redrawn(items, table=table)
        else:
            for item in items:
                self.show(item, table=table)

    def last(self, items: Iterable[T]) -> T:
        """The last item of at least one; on a terminal stderr says how it goes meanwhile."""
        from propeller.cli import progress

        return progress.awaited(items)

    def done(self) -> None:
        """Say that a command without a result succeeded."""
        self.show("ok")


def session(ctx: typer.Context) -> Session:
    """The session that the program's callback made."""
    found: Session = ctx.obj
    return found


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal that something takes its time."""
    from propeller.cli import render

    with render.console(stderr=True).status(what):
        yield


def pairs(items: list[str] | None, flag: str) -> dict[str, str] | None:
    """`["K=V", …]` as a dictionary; None if nothing was given. Values may hold commas and equal signs."""
    if not items:
        return None
    made: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise BadInput(f"{flag} {item!r}: write NAME=VALUE")
        made[name] = value
    return made


def commas(text: str | None) -> list[str] | None:
    """A comma list, or a JSON array where items have commas; None if not given."""
    if text is None:
        return None
    if text.lstrip().startswith("["):
        import json

        try:
            return [item if isinstance(item, str) else json.dumps(item) for item in json.loads(text)]
        except ValueError as error:
            raise BadInput(f"{text[:80]!r} is not a JSON array: {error}") from error
    return [item.strip() for item in text.split(",") if item.strip()]


def json_option(text: str | None, flag: str) -> dict[str, Any] | None:
    """A JSON object from the command line, or from the file that `@PATH` names."""
    if text is None:
        return None
    if text.startswith("@"):
        return json_file(Path(text[1:]))
    return _object(text, flag)


def json_file(path: Path) -> dict[str, Any]:
    """The JSON object in a local file; raises `BadInput` that names it."""
    return _object(read_bytes(path), str(path))


def _object(text: str | bytes, where: str) -> dict[str, Any]:
    import json

    def no_number(name: str) -> None:
        raise ValueError(f"{name} is no number there")

    try:
        value = json.loads(text, parse_constant=no_number)
    except ValueError as error:
        raise BadInput(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{where} must be a JSON object")
    return value


def read_bytes(path: Path) -> bytes:
    """A local file; raises `BadInput` that names it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error


def _repeated(look: Callable[[], T]) -> Iterator[T]:
    seen = None
    while True:
        found = look()
        if found != seen:
            yield found
            seen = found
        time.sleep(WATCH_S)


Watch = Annotated[bool, typer.Option("--watch", "-w", help="Go on as things change; Ctrl-C ends it.")]
Timeout = Annotated[float, typer.Option("--timeout-s", min=0, help="Seconds to wait for the end.")]
Offset = Annotated[int, typer.Option("--offset", min=0, help="Skip this many.")]
Limit = Annotated[int, typer.Option("--limit", "-l", min=1, max=100, help="Show at most this many.")]
