"""Measures each contender in interleaved passes: A B C …, A B C …; prints one JSON object.

Run by `run.py` in the bench's environment. The machine's speed drifts from second to second, so that only
what ran in the same pass compares. Extra memory is the highest resident memory of a call over that before it,
with the result, by the kernel's own account (`VmHWM`).
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from contenders import expected, installed

FILL = 1 << 22
CHECKED = slice(0, 100_000)
TOLERANCE = 2e-6
"""Of values around 1, in float32."""


def made_rows(updates: int, elements: int) -> list[np.ndarray]:
    """Updates of random numbers around 1, each other ones; from one buffer, because random ones are slow."""
    noise = np.random.default_rng(0).normal(1.0, 0.1, FILL + updates).astype(np.float32)
    rows = []
    for number in range(updates):
        row = np.empty(elements, np.float32)
        for start in range(0, elements, FILL):
            part = row[start : start + FILL]
            part[:] = noise[number : number + part.size]
        row.flags.writeable = False
        rows.append(row)
    return rows


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def measured(once: Callable[[], np.ndarray], check: Callable[[np.ndarray], None]) -> tuple[float, int]:
    """Seconds, and extra bytes at the highest."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    start = time.perf_counter()
    model = once()
    seconds = time.perf_counter() - start
    extra = _memory("VmHWM") - before
    check(model)
    return seconds, extra


def main() -> None:
    """Every contender that is installed, or those that were named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--elements", type=int, required=True)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    rows = made_rows(asked.updates, asked.elements)
    samples = [100 + 7 * number for number in range(asked.updates)]
    offered = installed()
    names = [name for name in offered if not asked.only or name in asked.only.split(",")]
    ready = {name: offered[name](rows, samples, asked.threads) for name in names}
    wanted = {name: expected(name, rows, samples, CHECKED) for name in names}
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in names}

    def checked(name: str) -> Callable[[np.ndarray], None]:
        def check(model: np.ndarray) -> None:
            error = float(np.abs(np.asarray(model)[CHECKED] - wanted[name]).max())
            if not error < TOLERANCE or np.asarray(model).size != asked.elements:
                sys.exit(f"{name} is wrong by {error:g}: what it takes means nothing")

        return check

    # The first pass brings every code path and the machine's memory to life, and does not count.
    for number in range(asked.passes + 1):
        for name in names:
            one = measured(ready[name], checked(name))
            found[name] += [one] if number else []
        print(f"pass {number} of {asked.passes}", file=sys.stderr, flush=True)
    print(
        json.dumps(
            {name: {"s": [s for s, _ in of], "bytes": [b for _, b in of]} for name, of in found.items()}
        )
    )


if __name__ == "__main__":
    main()
