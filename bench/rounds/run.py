"""The steady federated round: ten real proplet processes, a small model, nothing simulated.

    make bench NAME=rounds
    make bench NAME=rounds ARGS="--rounds 50"
    make bench NAME=rounds ARGS="--peers"

Softmax regression on scikit-learn's digits (650 parameters), ten participants, all of them in every round,
one epoch each, everything over HTTP and MQTT as `propeller up` does it. A round lasts from the start of one
to the start of the next; the first ones, in which modules are fetched and compiled, do not count. Idle memory
is the sum of the proportional set sizes (PSS) of all processes of the system before any
task. `cpu_ms` is the processor time of a round, which a busy machine lengthens less than the round: of the
services, of the proplets' agents and of their sandboxes. The last line is one JSON object: `round_s_p50`,
`idle_mb`; with `--peers` also `flare_round_s_p50` (NVIDIA FLARE's simulator), `flower_round_s_p50` and
`flower_idle_mb` (Flower's deployment: a SuperLink, ten SuperNodes and `flwr run`, over insecure gRPC on
loopback), each with the version, the rounds that counted and what its model reads of the digits that nobody
trained on. Each peer has an environment of its own, made once from `peers/NAME/requirements.txt`.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from datetime import datetime
from importlib import resources
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import contenders
import numpy as np
from processes import cpu_ms, family, memory_mb
from sklearn.datasets import load_digits

from propeller.client import AsyncClient, Endpoints
from propeller.errors import NotFound
from propeller.fl.partition import iid
from propeller.fl.plan import generated_id
from propeller.roles import images
from propeller.roles.demo_system import own_system
from propeller.roles.layout import DataDir, Running
from propeller.roles.web import http_client
from propeller.wire.experiments import ExperimentBody, RoundView
from propeller.wire.models import StoreModel

HERE = Path(__file__).resolve().parent
IMAGE = "bench/mlp:1"
MODEL = "bench-digits"
CLASSES, FEATURES = 10, 64
HELD_OUT = 297
WARM_UP = 3
SETTLE_S = 3.0
POLL_S = 0.2


async def measure(proplets: int, rounds: int, keep: Path | None) -> dict[str, Any]:
    """Rounds, memory and accuracy of a fresh system."""
    with tempfile.TemporaryDirectory(prefix="propeller-bench-") as folder:
        data = DataDir(keep or Path(folder))
        async with own_system(data, proplets, seed=0) as running, AsyncClient(_endpoints(running)) as client:
            await asyncio.sleep(SETTLE_S)
            idle = memory_mb(running.pid)
            processes = len(family(running.pid))
            held_out = await _prepare(client, running)
            views, cpu = await _trained(client, running, rounds)
            last = await client.models.get(views[-1].model_version or 0, name=MODEL)
            busy = memory_mb(running.pid)
    starts = [datetime.fromisoformat(view.started_at).timestamp() for view in views]
    steady = np.diff(starts)[WARM_UP:].tolist()
    return {
        "round_s_p50": round(median(steady), 4),
        "round_s_p90": round(quantiles(steady, n=10)[-1], 4),
        "round_s_min": round(min(steady), 4),
        "cpu_ms": {part: round(ms / len(steady), 1) for part, ms in cpu.items()},
        "idle_mb": round(idle, 1),
        "after_training_mb": round(busy, 1),
        "processes": processes,
        "rounds": len(steady),
        "accuracy": round(accuracy(last, *held_out), 4),
    }


def _endpoints(running: Running) -> Endpoints:
    urls = running.urls
    return Endpoints(
        manager=urls["manager"],
        coordinator=urls["coordinator"],
        aggregator=urls["aggregator"],
        model_registry=urls["model-registry"],
        data_store=urls["data-store"],
    )


async def _prepare(client: AsyncClient, running: Running) -> tuple[np.ndarray, np.ndarray]:
    """Image, data and first model in their places; the rows that nobody trains on are returned."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order] / 16.0, y[order]
    trainer = resources.files("propeller.roles") / "assets" / "mlp.wasm"
    async with http_client() as http:
        await images.push(http, reference(running), trainer.read_bytes(), title="mlp.wasm")
    parts = iid(len(y) - HELD_OUT, len(running.proplets), seed=0)
    for proplet_id, part in zip(running.proplets, parts, strict=True):
        rows = [(x[row + HELD_OUT].tolist(), int(y[row + HELD_OUT])) for row in part]
        await client.datasets.post(proplet_id, rows)
    zero = {"w1": np.zeros((CLASSES, FEATURES)).tolist(), "b1": np.zeros(CLASSES).tolist()}
    await client.models.post(StoreModel(model=zero, name=MODEL))
    return x[:HELD_OUT], y[:HELD_OUT]


def reference(running: Running) -> str:
    """The trainer's image in the system's own registry."""
    return f"{running.urls['registry'].removeprefix('http://')}/{IMAGE}"


async def _trained(
    client: AsyncClient, running: Running, rounds: int
) -> tuple[list[RoundView], dict[str, float]]:
    """All rounds, and the processor time of those after the first ones."""
    body = ExperimentBody(
        experiment_id="bench",
        model_ref=f"fl/models/{MODEL}_v0",
        participants=running.proplets,
        task_wasm_image=reference(running),
        rounds=rounds + WARM_UP + 1,
        hyperparams={"epochs": 1, "lr": 0.5, "batch_size": 16},
        timeout_s=60.0,
    )
    await client.fl.configure(body)
    views = [await _ended(client, generated_id("bench", number + 1)) for number in range(WARM_UP)]
    before = cpu_ms(running.pid)
    for number in range(WARM_UP, body.rounds or 0):
        views.append(await _ended(client, generated_id("bench", number + 1)))  # noqa: PERF401 - a clock runs
    after = cpu_ms(running.pid)
    return views, {part: after[part] - before[part] for part in after}


async def _ended(client: AsyncClient, round_id: str) -> RoundView:
    # Asked rarely, so that asking does not slow down what is measured; the times are the coordinator's own.
    while True:
        try:
            view = await client.fl.round(round_id)
        except NotFound:
            await asyncio.sleep(POLL_S)
            continue
        if view.state == "failed":
            sys.exit(f"round {round_id} failed: {view.reason}")
        if view.state == "completed":
            return view
        await asyncio.sleep(POLL_S)


def accuracy(model: dict[str, Any], x: np.ndarray, y: np.ndarray) -> float:
    """The share of rows whose likeliest class is theirs."""
    scores = x @ np.asarray(model["w1"]).T + np.asarray(model["b1"])
    return float((scores.argmax(axis=1) == y).mean())


def main() -> None:
    """Measure, print, and end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--proplets", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--data-dir", type=Path, default=None, help="keep the system's data here")
    parser.add_argument("--peers", action="store_true", help="NVIDIA FLARE and Flower too, after ours")
    parser.add_argument("--peer-rounds", type=int, default=3, help="rounds of each peer that count")
    asked = parser.parse_args()
    load_before = os.getloadavg()[0]
    result = asyncio.run(measure(asked.proplets, asked.rounds, asked.data_dir))
    result["load_before"] = round(load_before, 2)
    if asked.peers:
        result |= contenders.measure(asked.proplets, asked.peer_rounds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
