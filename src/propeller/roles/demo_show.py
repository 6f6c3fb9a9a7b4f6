"""What the demo shows: progress as it happens, then a table, a plot in the terminal and one as a file.

It must not ask any service.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from propeller.roles.demo_data import Cohort

PLOT_COLUMNS, PLOT_ROWS = 72, 15
_PNG_DPI = 150
_TICKS = 12
NEXT = (
    "propeller up --proplets 3       the same system, left running",
    "examples/fl-demo/README.md      every step of this by curl",
    "docs/howto/trainers.md          the trainer of your own, in C or another language",
)
"""Where to look next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSeen:
    """One finished round. `bytes` is the size of the updates sent; `loss` the mean over training patients."""

    number: int
    round_id: str
    updates: int
    loss: float | None
    accuracy: float
    bytes: int
    seconds: float
    model: str
    """Content hash of the round's model."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The demo's result, as `--json` prints it. Shares are 0 to 1; `round_s_p50` and `wall_s` seconds."""

    rounds: int
    accuracy: float
    centralised_accuracy: float
    sklearn_accuracy: float
    round_s_p50: float
    wall_s: float
    proplets: int
    updates: int
    update_bytes: int
    models: list[str]


class Progress:
    """A table that grows by a row per round, live on a terminal and plain elsewhere."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console = console
        self._rounds = rounds
        self._table = _table()
        self._live = Live(
            self._table, console=console, refresh_per_second=8, auto_refresh=console.is_terminal
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._console.print(_line(*_HEADS))
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def add(self, seen: RoundSeen) -> None:
        """Show one more round."""
        cells = _cells(seen, self._rounds)
        self._table.add_row(*cells)
        if not self._console.is_terminal:
            self._console.print(_line(*cells))


_HEADS = ("ROUND", "UPDATES", "LOSS", "HELD-OUT", "BYTES", "SECONDS")


def _cells(seen: RoundSeen, rounds: int) -> tuple[str, ...]:
    return (
        f"{seen.number}/{rounds}",
        str(seen.updates),
        "-" if seen.loss is None else f"{seen.loss:.4f}",
        f"{seen.accuracy:.2%}",
        f"{seen.bytes:,}",
        f"{seen.seconds:.2f}",
    )


def _table() -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in _HEADS:
        table.add_column(head, justify="right", min_width=8)
    return table


def _line(*cells: str) -> str:
    return " ".join(f"{cell:>9}" for cell in cells)


def hospitals_table(cohort: Cohort) -> Table:
    """How the patients are spread."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("HOSPITAL", "PATIENTS", "MALIGNANT"):
        table.add_column(head, justify="right")
    for number, one in enumerate(cohort.hospitals, 1):
        table.add_row(f"{number}", f"{len(one)}", f"{one.y.mean():.0%}")
    table.add_row("held out", f"{len(cohort.held_out)}", f"{cohort.held_out.y.mean():.0%}")
    return table


def comparison(outcome: Outcome) -> Table:
    """The result beside its references."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right", style="bold")
    table.add_row("federated: patients stayed where they were", f"{outcome.accuracy:.2%}")
    table.add_row("the same trainer on all patients in one place", f"{outcome.centralised_accuracy:.2%}")
    table.add_row("scikit-learn's LogisticRegression on all patients", f"{outcome.sklearn_accuracy:.2%}")
    table.add_row("a round, median", f"{outcome.round_s_p50:.2f} s")
    table.add_row("updates sent, all rounds", f"{outcome.update_bytes:,} bytes")
    table.add_row("everything", f"{outcome.wall_s:.1f} s")
    return table


def terminal_plot(seen: Sequence[RoundSeen], central: float, *, colour: bool) -> str:
    """Held-out accuracy by round, as text."""
    import plotext  # noqa: PLC0415 - belongs to the `demo` extra

    figure = plotext.figure
    figure.clear()
    # The colours of the terminal itself, which may be dark or light.
    figure.theme("simple")
    numbers = [one.number for one in seen]
    # A signal and not `figure.line`, which leaves the axis as it is and may lie outside.
    figure.draw(figure.signal(numbers, [central * 100] * len(seen), marker="-"))
    figure.draw(figure.signal(numbers, [one.accuracy * 100 for one in seen], marker="o"))
    figure.plot_size(PLOT_COLUMNS, PLOT_ROWS)
    figure.title("held-out accuracy, %: o federated, - central")
    figure.label("round", "x")
    figure.ruler("x").ticks(numbers[:: math.ceil(len(numbers) / _TICKS)])
    return str(figure.build().string(colorless=not colour))


def png_plot(seen: Sequence[RoundSeen], central: float, path: Path) -> None:
    """Held-out accuracy and loss by round, as a PNG at `path`."""
    import matplotlib as mpl  # noqa: PLC0415 - belongs to the `demo` extra, and takes a second

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    figure, left = plt.subplots(figsize=(8, 4.5))
    numbers = [one.number for one in seen]
    left.plot(numbers, [one.accuracy for one in seen], marker="o", label="federated, held-out accuracy")
    left.axhline(central, color="black", linestyle="--", label="central, held-out accuracy")
    left.set_xlabel("round")
    left.set_ylabel("accuracy")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right = left.twinx()
    right.plot(
        numbers,
        [math.nan if one.loss is None else one.loss for one in seen],
        color="tab:red",
        alpha=0.6,
        label="mean training loss",
    )
    right.set_ylabel("loss")
    figure.legend(loc="lower right", bbox_to_anchor=(0.9, 0.35))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_PNG_DPI)
    plt.close(figure)
