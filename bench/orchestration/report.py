"""Tables for people, percentiles, and nothing that measures."""

from collections.abc import Mapping, Sequence
from statistics import median

import machine

Row = Mapping[str, object]


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the worst, in milliseconds."""
    return {
        "p50_ms": percentile(seconds, 0.5) * 1000,
        "p99_ms": percentile(seconds, 0.99) * 1000,
        "max_ms": max(seconds) * 1000,
    }


def middle(rows: Sequence[Row]) -> dict[str, float]:
    """The median of every number that the rows share."""
    names = [name for name, value in rows[0].items() if isinstance(value, int | float)]
    return {name: median(float(str(row[name])) for row in rows) for name in names}


def table(title: str, rows: Sequence[Row]) -> None:
    """Print the rows under the names of the first one, with the load at this moment."""
    print(f"\n{title}   [load {machine.load()}]", flush=True)
    names = list(rows[0])
    shown = [[_shown(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[at]) for line in shown)) for at, name in enumerate(names)]
    for line in (names, *shown):
        print(
            "  " + "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)), flush=True
        )


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.2f}"  # noqa: PLR2004 - width
    return str(value)
