"""Measures the real path: from updates that are stored to a model version that is stored.

A system of its own (`propeller up` without proplets) gets a base model and a round, then every update over
HTTP, as a proplet sends large ones. The clock runs from the answer to the last update to the round's
completion: the coordinator closes the set, the aggregator maps the files and folds them, the registry hashes
the new version while it writes it, and puts it on disk for good.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import numpy as np

from propeller.fl.tensor_files import layout_of
from propeller.roles.demo_system import own_system
from propeller.roles.layout import DataDir, Running

FILE = {"content-type": "application/vnd.safetensors"}
PIECE = 1 << 20
POLL_S = 0.005
WAIT_S = 300.0


async def service_s(elements: int, updates: int, rounds: int) -> tuple[list[float], int]:
    """Seconds of each round, and the highest extra memory of the services in bytes, model included."""
    with tempfile.TemporaryDirectory(prefix="propeller-bench-") as folder:
        data = DataDir(Path(folder))
        async with own_system(data, 0, seed=0) as running, aiohttp.ClientSession() as http:
            await _post(http, f"{running.urls['model-registry']}/models?name=bench", elements, 0)
            taken, extra = [], 0
            for number in range(rounds):
                seconds, bytes_ = await _round(http, running, number, elements, updates)
                taken.append(seconds)
                extra = max(extra, bytes_)
            return taken, extra


async def _round(
    http: aiohttp.ClientSession, running: Running, number: int, elements: int, updates: int
) -> tuple[float, int]:
    names = [f"p{one}" for one in range(updates)]
    coordinator, round_id = running.urls["coordinator"], f"bench-{number}"
    body = {
        "experiment_id": round_id,
        "round_id": round_id,
        "model_ref": f"fl/models/bench_v{number}",
        "participants": names,
        "k_of_n": updates,
        "timeout_s": WAIT_S,
        "task_wasm_image": "none/none:none",
    }
    async with http.post(f"{coordinator}/experiments", json=body) as answer:
        await _good(answer)
    for place, name in enumerate(names):
        said = {"x-round-id": round_id, "x-proplet-id": name, "x-num-samples": str(10 + place)}
        await _post(http, f"{coordinator}/update", elements, place + 1, **said)
    start, before = time.perf_counter(), anonymous_bytes(running.pid)
    highest = before
    while True:
        async with http.get(f"{coordinator}/rounds/{round_id}/complete") as answer:
            state = (await _good(answer))["state"]
        if state in {"completed", "failed"}:
            break
        highest = max(highest, anonymous_bytes(running.pid))
        await asyncio.sleep(POLL_S)
    if state != "completed":
        raise RuntimeError(f"round {round_id} {state}")
    return time.perf_counter() - start, highest - before


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is no mapped file: the updates' own pages are the disk's cache."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


async def _post(http: aiohttp.ClientSession, url: str, elements: int, seed: int, **said: str) -> None:
    like = {"w": np.zeros(elements, np.float32)}
    layout = layout_of(like)
    headers = {**FILE, **said, "content-length": str(layout.bytes)}

    async def content() -> AsyncIterator[bytes]:
        yield layout.header
        noise = np.random.default_rng(seed).normal(1.0, 0.1, PIECE // 4).astype(np.float32).tobytes()
        for start in range(0, 4 * elements, PIECE):
            yield noise[: min(PIECE, 4 * elements - start)]

    async with http.post(url, data=content(), headers=headers) as answer:
        await _good(answer)


async def _good(answer: aiohttp.ClientResponse) -> dict:
    if answer.status >= 300:  # noqa: PLR2004 - HTTP's own classes
        raise RuntimeError(f"{answer.url} answered {answer.status}: {await answer.text()}")
    return await answer.json()
