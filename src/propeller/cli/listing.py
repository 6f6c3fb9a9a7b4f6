"""A list for people that loses nothing: columns where there is room for them, the others below each row.

It must not know what the columns mean, nor how wide anybody's terminal is before it is shown there.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_GAP = 2
"""Blanks between two columns, and before what stands below a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Rows of as many cells as there are names; each cell is one line.

    Where a terminal is too narrow for all columns, the widest but the first follow each row on lines of
    their own, with their names, unless they are empty: nothing is cut, and what one may want to copy is in
    one piece.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[str | Text]]
    title: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich asks of anything that can be shown."""
        widths = [max(map(_width, column)) for column in zip(self.names, *self.rows, strict=True)]
        widths[0] = min(widths[0], options.max_width)
        beside = _beside(widths, options.max_width)
        below = [at for at in range(len(widths)) if at not in beside]
        if self.title:
            yield Text(self.title, style="italic")
        if not below:
            yield self._table(widths, beside, self.rows, header=True)
            return
        yield self._table(widths, beside, [], header=True)
        for row in self.rows:
            yield self._table(widths, beside, [row], header=False)
            yield from _below([(self.names[at], row[at]) for at in below], options.max_width)

    def _table(
        self,
        widths: Sequence[int],
        beside: Sequence[int],
        rows: Sequence[Sequence[str | Text]],
        *,
        header: bool,
    ) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
        for at in beside:
            table.add_column(self.names[at], overflow="fold", min_width=widths[at])
        for row in rows:
            table.add_row(*(row[at] for at in beside))
        return table


def _width(cell: str | Text) -> int:
    return cell_len(str(cell))


def _beside(widths: Sequence[int], room: int) -> list[int]:
    """The columns that have room side by side: all, or all but the widest; always the first."""
    beside = list(range(len(widths)))
    while len(beside) > 1 and sum(widths[at] + _GAP for at in beside) - _GAP > room:
        beside.remove(max(beside[1:], key=lambda at: (widths[at], at)))
    return beside


def _below(named: Iterable[tuple[str, str | Text]], room: int) -> Iterator[Padding]:
    """What did not fit beside its row: as many on a line as it holds, and longer ones folded."""
    line = Text()
    for name, cell in named:
        if not str(cell):
            continue
        said = Text.assemble((f"{name} ", "bold"), cell)
        if line and cell_len(str(line)) + cell_len(str(said)) + 2 * _GAP > room:
            yield Padding(line, (0, 0, 0, _GAP), expand=False)
            line = Text()
        line = Text.assemble(line, " " * _GAP if line else "", said)
    if line:
        yield Padding(line, (0, 0, 0, _GAP), expand=False)
