"""What a person sees while something goes on: a table redrawn in place, a line that says what is waited for.

Only terminals get any of it: programs read the last word alone.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from rich.live import Live

from propeller.cli.render import console, rendered
from propeller.cli.tables_of_tasks import waited_for

T = TypeVar("T")


def is_terminal() -> bool:
    """Whether somebody looks at stdout."""
    return sys.stdout.isatty()


def redrawn(items: Iterable[Any], *, table: Callable[[Any], Any] | None = None) -> None:
    """Show each item in the place of the one before; the last one stays."""
    with Live(console=console(), auto_refresh=False) as live:
        for item in items:
            live.update(rendered(item, table), refresh=True)


def awaited(items: Iterable[T]) -> T:
    """The last of the items, of which there is one; stderr says what each waits for."""
    found: list[T] = []
    if not sys.stderr.isatty():
        found.extend(items)
        return found[-1]
    with console(stderr=True).status("…") as status:
        for item in items:
            found[:] = [item]
            status.update(waited_for(item))
    return found[-1]
