"""The walk of README.md over HTTP, with the trainer as an image from the registry.

propeller up --proplets 3 --env-file .propeller.env      # in one terminal
python examples/fl-demo/run_http.py --rounds 3           # in another
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from walk import STATES, TRAINER, Place, ask, finished_round, finished_task, model_text, step, until

IMAGE = "fl-client-wasm:latest"


def main() -> None:
    """Every step, one after another."""
    told = arguments()
    place = Place(told.env_file)
    manager, coordinator = place.url("MANAGER", 7070), place.url("COORDINATOR", 8086)
    models, registry = place.url("MODEL_REGISTRY", 8084), place.url("REGISTRY", 5000)

    step("who is there")
    for role, port in (("MANAGER", 7070), ("COORDINATOR", 8086), ("AGGREGATOR", 8085), ("DATA_STORE", 8083)):
        url = place.url(role, port)
        print(f"{role.lower():<12} {url}  {ask(f'{url}/health')['status']}")
    for one in ask(f"{manager}/proplets")["proplets"]:
        print(f"proplet      {one['id']}  {one['name']}  {'alive' if one['alive'] else 'offline'}")

    step(f"push {told.trainer.name} to {registry}")
    push(told.trainer, f"{registry.removeprefix('http://')}/{IMAGE}")

    step("the first model")
    ask(f"{models}/models", {"version": 0, "model": {"w": [0, 0, 0], "b": 0}})
    version = max(ask(f"{models}/models")["versions"])
    print(f"version {version}: {model_text(ask(f'{models}/models/{version}'))}")

    for number in range(1, told.rounds + 1):
        round_id = f"walk-{int(time.time())}-{number}"
        step(f"round {round_id} from version {version}")
        version = play(manager, coordinator, place.proplets()[:3], round_id, version)
        print(f"version {version}: {model_text(ask(f'{models}/models/{version}'))}")

    step("one task by hand")
    version = by_hand(manager, coordinator, place.proplets()[0], f"manual-{int(time.time())}", version)
    print(f"version {version}: {model_text(ask(f'{models}/models/{version}'))}")
    print(f"\nDone. More: {models}/models, {coordinator}/rounds, propeller logs coordinator")


def arguments() -> argparse.Namespace:
    """What the script is told."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--env-file", type=Path, default=Path(".propeller.env"))
    parser.add_argument("--trainer", type=Path, default=TRAINER)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def push(trainer: Path, reference: str) -> None:
    """Push the module as an image; `oras push` would do as well."""
    command = [sys.executable, "-m", "propeller", "image", "push", str(trainer), reference]
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="")  # noqa: S603 - ours


def play(manager: str, coordinator: str, participants: list[str], round_id: str, version: int) -> int:
    """One round over the participants; the version that it made."""
    body = {
        "experiment_id": "fl-demo",
        "round_id": round_id,
        "model_ref": f"fl/models/global_model_v{version}",
        "participants": participants,
        "hyperparams": {"epochs": 5, "lr": 0.05, "batch_size": 16},
        "k_of_n": len(participants),
        "timeout_s": 60,
        "task_wasm_image": f"local-registry:5000/{IMAGE}",
    }
    print(ask(f"{manager}/fl/experiments", body)["status"])
    status = finished_round(coordinator, round_id)
    print(f"{status['num_updates']} of {status['k_of_n']} updates")
    tasks = until("the tasks' end", lambda: ended_tasks(manager, f"fl-round-{round_id}-"))
    for task in tasks:
        metrics = (task.get("results") or {}).get("metrics", {})
        print(f"{task['proplet_id']}  {STATES[task['state']]}  loss {metrics.get('loss', float('nan')):.4f}")
    return int(status["model_version"])


def ended_tasks(manager: str, prefix: str) -> list[dict]:
    """The tasks of a round, once all have ended."""
    tasks = [one for one in ask(f"{manager}/tasks")["tasks"] if one["name"].startswith(prefix)]
    return tasks if all(one["state"] >= STATES.index("Completed") for one in tasks) else []


def by_hand(manager: str, coordinator: str, proplet: str, round_id: str, version: int) -> int:
    """A round of one, begun by starting a task, with the published host names; the version that it made."""
    env = {
        "ROUND_ID": round_id,
        "MODEL_URI": f"fl/models/global_model_v{version}",
        "HYPERPARAMS": '{"epochs":5,"lr":0.05,"batch_size":16}',
        "COORDINATOR_URL": "http://coordinator-http:8080",
        "MODEL_REGISTRY_URL": "http://model-registry:8081",
        "DATA_STORE_URL": "http://local-data-store:8083",
    }
    image = f"local-registry:5000/{IMAGE}"
    task = ask(
        f"{manager}/tasks",
        {"name": f"fl-{round_id}", "image_url": image, "proplet_id": proplet, "env": env},
    )
    ask(f"{manager}/tasks/{task['id']}/start", method="POST")
    ended = finished_task(manager, task["id"])
    print(f"{ended['name']}  {STATES[ended['state']]}")
    return int(finished_round(coordinator, round_id)["model_version"])


if __name__ == "__main__":
    main()
