"""Federated averaging at the size of a real model: ours, numpy, torch and the peers' own functions.

    make bench NAME=aggregation
    make bench NAME=aggregation ARGS="--elements 10000000 --passes 3 --no-peers --no-service"

Ten updates of 10⁸ float32 by default; fewer elements where memory lacks, which is said. The last line is one
JSON object: `fold_s` (medians, arrays in memory), `service_s` (from stored updates to a stored model, over
HTTP and disk), `extra_over_model` (highest extra memory of a fold, the result included, over the model's
size), and for each contender `NAME_s`. `references.py` beside this compares strategies, not speeds.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
# The benches are scripts, no package: what they share lies one level up.
sys.path.insert(0, str(HERE.parent))

from environments import SOURCE, environment, say  # noqa: E402
from service import service_s  # noqa: E402

ELEMENTS = 100_000_000
SPARE_BYTES = 1 << 30


def affordable(updates: int, *, peers: bool) -> int:
    """Elements of a model that this machine has the memory for, at most `ELEMENTS`."""
    free = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    # Flower's messages hold the updates a second time, and the hungriest makes three models on the way.
    arrays = updates * (2 if peers else 1) + 4
    most = max(1, (free - SPARE_BYTES) // (4 * arrays))
    return min(ELEMENTS, most)


def folded(asked: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """What `fold.py` measured."""
    python = environment(HERE) if asked.peers else Path(sys.executable)
    if python is None:
        say("no peers can be installed here; ours and numpy only")
    command = [str(python or sys.executable), str(HERE / "fold.py")]
    for name in ("elements", "updates", "passes", "threads"):
        command += [f"--{name}", str(getattr(asked, name))]
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, dict[str, list[float]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(found: dict[str, dict[str, list[float]]], model_bytes: int) -> list[str]:
    """The contenders, fastest first."""
    lines = [f"{'':16}{'median s':>10}{'fastest':>10}{'slowest':>10}{'extra / model':>15}"]
    for name in sorted(found, key=lambda one: median(found[one]["s"])):
        seconds, extra = found[name]["s"], max(found[name]["bytes"]) / model_bytes
        lines.append(f"{name:16}{median(seconds):10.3f}{min(seconds):10.3f}{max(seconds):10.3f}{extra:15.2f}")
    return lines


def main() -> None:
    """Measure, print the table, and end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--elements", type=int, default=0, help="of a model (10⁸, or what fits)")
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=2, help="of the service")
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--no-service", dest="service", action="store_false")
    asked = parser.parse_args()
    asked.elements = asked.elements or affordable(asked.updates, peers=asked.peers)
    if asked.elements < ELEMENTS:
        say(f"models of {asked.elements} elements, not {ELEMENTS}: asked for, or all that memory allows")
    load_before = os.getloadavg()[0]
    found = folded(asked)
    model_bytes = 4 * asked.elements
    for line in table(found, model_bytes):
        print(line)
    result: dict[str, object] = {
        "fold_s": round(median(found["propeller"]["s"]), 3),
        "extra_over_model": round(max(found["propeller"]["bytes"]) / model_bytes, 3),
        **{f"{name}_s": round(median(one["s"]), 3) for name, one in found.items() if name != "propeller"},
        "elements": asked.elements,
        "updates": asked.updates,
        "threads": asked.threads,
        "load_before": round(load_before, 2),
    }
    if asked.service:
        say("the service: storing updates, then a round …")
        seconds, extra = asyncio.run(service_s(asked.elements, asked.updates, asked.rounds))
        result |= {
            "service_s": round(min(seconds), 3),
            "service_extra_over_model": round(extra / model_bytes, 3),
        }
        print(f"service, stored updates to stored model: {', '.join(f'{one:.2f}' for one in seconds)} s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
