"""A federated round with a local `.wasm` file: no registry and no image; each task carries the module itself.

    propeller up --proplets 3 --env-file .propeller.env         # in one terminal
    python examples/fl-demo/run_local_wasm.py my-trainer.wasm   # in another; without a name, our own trainer

The round is opened at the coordinator, which starts nothing by itself; then one task per proplet, made and
started by hand, joins it.
"""

import argparse
import base64
import json
import time
from pathlib import Path

from walk import STATES, TRAINER, Place, ask, finished_round, finished_task, model_text, step


def main() -> None:
    """Open a round, start a task on every proplet, wait, show the model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wasm", type=Path, nargs="?", default=TRAINER)
    parser.add_argument("--env-file", type=Path, default=Path(".propeller.env"))
    told = parser.parse_args()
    place = Place(told.env_file)
    manager, coordinator = place.url("MANAGER", 7070), place.url("COORDINATOR", 8086)
    models, participants = place.url("MODEL_REGISTRY", 8084), place.proplets()

    version = max(ask(f"{models}/models")["versions"])
    step(f"the base model, version {version}")
    print(model_text(ask(f"{models}/models/{version}")))

    round_id = f"local-{int(time.time())}"
    step(f"open round {round_id} for {len(participants)} proplets")
    body = {
        "experiment_id": "fl-demo-local",
        "round_id": round_id,
        "model_ref": f"fl/models/global_model_v{version}",
        "participants": participants,
        "k_of_n": len(participants),
        "timeout_s": 60,
    }
    print(ask(f"{coordinator}/experiments", body)["status"])

    step(f"a task with {told.wasm} ({told.wasm.stat().st_size} bytes) on each")
    env = {
        "ROUND_ID": round_id,
        "MODEL_URI": f"fl/models/global_model_v{version}",
        "HYPERPARAMS": json.dumps({"epochs": 5, "lr": 0.05, "batch_size": 16}),
    }
    file = base64.b64encode(told.wasm.read_bytes()).decode()
    started = [
        start(manager, proplet, {"name": f"fl-{round_id}", "file": file, "env": env})
        for proplet in participants
    ]
    for task_id in started:
        task = finished_task(manager, task_id)
        results = task["results"]
        print(
            f"{task['proplet_id']}  {STATES[task['state']]}  {results['num_samples']} samples  "
            f"loss {results['metrics']['loss']:.4f}"
        )

    step("the new model")
    made = finished_round(coordinator, round_id)["model_version"]
    print(f"version {made}: {model_text(ask(f'{models}/models/{made}'))}")


def start(manager: str, proplet: str, body: dict) -> str:
    """Create a task for one proplet and start it; its id."""
    task = ask(f"{manager}/tasks", body | {"proplet_id": proplet})
    ask(f"{manager}/tasks/{task['id']}/start", method="POST")
    return str(task["id"])


if __name__ == "__main__":
    main()
