"""Results on stdout: tables for people, JSON for programs. It must not ask anything of anyone."""

import json
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console, RenderableType

from propeller.cli import tables_of_tasks, tables_of_training  # noqa: F401 - they teach `table` their shapes
from propeller.cli.tables import plain
from propeller.cli.tables import table as table_of

PIPED_COLUMNS = 1_000_000
"""Width when stdout is no terminal: a row is one line for a program that reads a table, however long."""


def show(value: Any, *, as_json: bool, table: Callable[[Any], Any] | None = None) -> None:
    """Print `value`, one JSON document or one table or text; `table` makes the table, where it is given."""
    if as_json:
        sys.stdout.write(json.dumps(plain(value), indent=2, sort_keys=True, ensure_ascii=False))
        sys.stdout.write("\n")
        return
    shown = rendered(value, table)
    if isinstance(shown, str):
        sys.stdout.write(shown if shown.endswith("\n") else f"{shown}\n")
        return
    screen = console()
    if screen.is_terminal:
        screen.print(shown)
        return
    with screen.capture() as captured:
        screen.print(shown)
    # A table fills its columns with blanks, which nobody wants in a file.
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def rendered(value: Any, table: Callable[[Any], Any] | None = None) -> RenderableType:
    """`value` as people see it."""
    shown: RenderableType = (table or table_of)(value)
    return shown


def console(*, stderr: bool = False) -> Console:
    """A console that cuts nothing when nobody looks, and takes brackets in what it shows for brackets."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPED_COLUMNS
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
