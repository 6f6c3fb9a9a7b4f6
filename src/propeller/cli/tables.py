"""What tables for people are made of: columns, facts, words in cells; `table` knows the looks of values.

`tables_of_tasks` and `tables_of_training` teach `table` the answers of the roles. It prints nothing.
"""

import json
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import msgspec
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from propeller.cli.listing import Listing
from propeller.wire.tasks import ZERO_TIME


@singledispatch
def table(value: object) -> RenderableType:
    """`value` as people see it; here, anything without a shape of its own."""
    if isinstance(value, msgspec.Struct):
        return facts(plain(value))
    if isinstance(value, list):
        return "\n".join(map(text, value))
    if isinstance(value, Mapping):
        return facts({str(name): item for name, item in value.items()})
    return text(value)


def rows(found: Sequence[Mapping[str, Any]]) -> Listing:
    """A list of things that have the same fields."""
    return columns(list(found[0]), [[cell(value) for value in one.values()] for one in found])


def columns(names: Sequence[str], rows: Sequence[Sequence[str | Text]], *, title: str = "") -> Listing:
    """A plain list; a text of several lines is one there, so that a row is a line for `grep`."""
    flat = [[one if isinstance(one, Text) else " ".join(one.splitlines()) for one in row] for row in rows]
    return Listing(names=names, rows=flat, title=title)


def facts(pairs: Mapping[str, object]) -> Table:
    """Names and values, one per line; empty values are left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        if value not in (None, "", [], {}, ()):
            table.add_row(name, value if isinstance(value, Text) else _lines(value).rstrip())
    return table


def _lines(value: object) -> str:
    """An object by lines of name and value, texts by lines, anything else as text."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {text(item).rstrip()}" for name, item in value.items())
    return text(value)


def cell(value: object) -> str:
    """A value in a column."""
    return metrics(value) if isinstance(value, Mapping) else str(value)


def counted(page: Any, shown: int, noun: str) -> str:
    """The title of a page that is a part, empty if it is the whole."""
    return f"{shown} of {page.total} {noun}, from {page.offset}" if shown < page.total else ""


def moment(text: str) -> str:
    """A moment to the second, without the letters between."""
    return "" if text in {"", ZERO_TIME} else text[:19].replace("T", " ")


def metrics(measured: Mapping[str, float]) -> str:
    """Names and numbers on one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(measured.items()))


def plain(value: object) -> Any:
    """`value` as JSON's own types; by way of text, as documents inside documents are `Raw`."""
    return msgspec.json.decode(msgspec.json.encode(value))


def text(value: object) -> str:
    """A text as it is, anything else as JSON on one line."""
    if isinstance(value, str):
        return value
    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False)
