"""How many rounds a federation needs to read digits: 50 virtual clients, a perceptron, the real Wasm trainer.

    make bench NAME=digits
    make bench NAME=digits ARGS="--splits iid --seeds 0"

scikit-learn's digits (1,797 images of 8 by 8), a fifth held out; the rest over 50 clients, dealt evenly
(`iid`) or as two shards of the rows sorted by label (`shards`), so that most clients know two digits. Each
round a fifth of the clients trains for E = 5 epochs with batches of B = 5, and FedAvg folds. A run ends with
the first round whose model reads 93 % of the held-out images, and fails after 25 rounds (`iid`) or 110
(`shards`). The last line is one JSON object: rounds by split and seed, and `passed`; exit status 1 if not.
"""

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from propeller.fl.partition import iid, shards
from propeller.fl.selection import Selection
from propeller.fl.tensors import Tensors
from propeller.runtime.pool import WorkerPool
from propeller.simulation.virtual import Recipe, VirtualFederation

CLIENTS = 50
SHARE = 0.2
HIDDEN = 32
WANTED = 0.93
ROUNDS_MAX = {"iid": 25, "shards": 110}
HYPERPARAMS = {"epochs": 5, "batch_size": 5}
RATES = {"iid": 0.1, "shards": 0.05}


def first_model(seed: int) -> Tensors:
    """Weights as He draws them, from the seed; biases of zero."""
    draw = np.random.default_rng(seed)
    sizes = (64, HIDDEN, 10)
    arrays: dict[str, np.ndarray] = {}
    for number, (inputs, units) in enumerate(itertools.pairwise(sizes), 1):
        arrays[f"w{number}"] = draw.normal(0, (2 / inputs) ** 0.5, (units, inputs)).astype(np.float32)
        arrays[f"b{number}"] = np.zeros(units, np.float32)
    return Tensors(arrays)


def accuracy(model: Tensors, x: np.ndarray, y: np.ndarray) -> float:
    """The share of images whose likeliest digit is theirs."""
    hidden = np.maximum(x @ model["w1"].T + model["b1"], 0)
    return float(((hidden @ model["w2"].T + model["b2"]).argmax(axis=1) == y).mean())


async def rounds_needed(pool: WorkerPool, split: str, seed: int, workers: int) -> tuple[int | None, float]:
    """How many rounds until `WANTED`, None if they are not enough; and the best accuracy seen."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    x, y = (x[order] / 16).astype(np.float32), y[order]
    cut = len(y) // 5
    kept_x, kept_y = x[cut:], y[cut:]
    parts = iid(len(kept_y), CLIENTS, seed=seed) if split == "iid" else shards(kept_y, CLIENTS, seed=seed)
    clients: dict[str, dict[str, Any]] = {
        f"client-{number:02}": {
            "data": [{"x": kept_x[row].tolist(), "y": int(kept_y[row])} for row in part],
            "size": len(part),
        }
        for number, part in enumerate(parts)
    }
    recipe = Recipe(
        module=(resources.files("propeller.roles") / "assets" / "mlp.wasm").read_bytes(),
        hyperparams={**HYPERPARAMS, "lr": RATES[split]},
        selection=Selection(fraction=SHARE),
        seed=seed,
        name=f"digits-{split}",
    )
    federation = VirtualFederation(pool, recipe, clients, first_model(seed), workers=workers)
    best = 0.0
    for number in range(1, ROUNDS_MAX[split] + 1):
        made = await federation.advance()
        best = max(best, accuracy(made.model, x[:cut], y[:cut]))
        if best >= WANTED:
            return number, best
    return None, best


async def measure(splits: list[str], seeds: list[int]) -> dict[str, dict[str, int | None]]:
    """Rounds by split and seed, told as they are known."""
    workers = os.cpu_count() or 1
    found: dict[str, dict[str, int | None]] = {}
    with tempfile.TemporaryDirectory(prefix="propeller-bench-") as folder:
        pool = WorkerPool(Path(folder), workers)
        try:
            for split in splits:
                found[split] = {}
                for seed in seeds:
                    start = time.perf_counter()
                    needed, best = await rounds_needed(pool, split, seed, workers)
                    found[split][str(seed)] = needed
                    told = f"{needed} rounds" if needed else f"not within {ROUNDS_MAX[split]} rounds"
                    print(f"{split:8} seed {seed}: {told}, {best:.1%}, {time.perf_counter() - start:.1f} s")
        finally:
            await pool.close()
    return found


def main() -> None:
    """Run all, and end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--splits", nargs="+", default=list(ROUNDS_MAX), choices=list(ROUNDS_MAX))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    asked = parser.parse_args()
    found = asyncio.run(measure(asked.splits, asked.seeds))
    passed = all(needed is not None for split in found.values() for needed in split.values())
    print(json.dumps({"rounds_to_93": found, "rounds_max": ROUNDS_MAX, "clients": CLIENTS, "passed": passed}))
    sys.exit(not passed)


if __name__ == "__main__":
    main()
