"""Your trainer: logistic regression by gradient descent, to begin with.

`componentize-py` runs this file once while it builds and keeps what it made: read the environment in `run`
only, by `get_environment`, for `os.environ` is the builder's. What fails raises, and the task shows the trace.
"""

import json
import math
import random

from wit_world import exports
from wit_world.imports import environment


def probability(w, b, x):
    """How likely the label 1 is."""
    return 1 / (1 + math.exp(-(b + sum(wj * xj for wj, xj in zip(w, x, strict=True)))))


def train(w, b, rows, epochs, lr, seed):
    """Pass over the rows in random orders, with a step for every row."""
    chance = random.Random(seed)
    w = list(w)
    for _ in range(epochs):
        for row in chance.sample(rows, len(rows)):
            error = probability(w, b, row["x"]) - row["y"]
            w = [wj - lr * error * xj for wj, xj in zip(w, row["x"], strict=True)]
            b -= lr * error
    return w, b


def loss(w, b, rows):
    """The mean log loss."""
    likely = [probability(w, b, row["x"]) if row["y"] else 1 - probability(w, b, row["x"]) for row in rows]
    return -sum(math.log(max(p, 1e-300)) for p in likely) / len(rows)


def answer(variables):
    """The update, or with FL_MODE=evaluate the metrics alone."""
    model = json.loads(variables["MODEL_DATA"])
    rows = json.loads(variables["DATASET_DATA"])["data"]
    told = json.loads(variables.get("HYPERPARAMS") or "{}")
    w, b = model["w"], model["b"]
    out = {
        "round_id": variables["ROUND_ID"],
        "proplet_id": variables["PROPLET_ID"],
        "base_model_uri": variables.get("MODEL_URI", ""),
        "num_samples": len(rows),
    }
    if variables.get("FL_MODE") != "evaluate":
        seed = int(variables.get("SEED") or 0)
        w, b = train(w, b, rows, told.get("epochs", 1), told.get("lr", 0.01), seed)
        out["update"] = {"w": w, "b": b}
    return {**out, "metrics": {"loss": loss(w, b, rows)}}


class Run(exports.Run):
    """What the host calls."""

    def run(self) -> None:
        """Print one JSON object."""
        print(json.dumps(answer(dict(environment.get_environment()))))
