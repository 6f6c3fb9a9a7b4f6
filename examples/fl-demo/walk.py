"""What the two scripts share: where the system is, and how to speak to it. Standard library only."""

import json
import os
import shlex
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
TRAINER = Path(__file__).parents[2] / "src" / "propeller" / "roles" / "assets" / "logreg.wasm"
"""The built trainer of this repository; its source is in `examples/trainers/logreg`."""
STATES = ("Pending", "Scheduled", "Running", "Completed", "Failed", "Skipped", "Interrupted")
POLL_S = 0.1


class Place:
    """A running system, as the file of `propeller up --env-file` names it, else as the shell does."""

    def __init__(self, env_file: Path) -> None:
        self._env = dict(os.environ)
        if env_file.is_file():
            for line in env_file.read_text().splitlines():
                name, _, value = line.removeprefix("export ").partition("=")
                self._env[name] = "".join(shlex.split(value))

    def url(self, role: str, port: int) -> str:
        """The URL of a role; without a word about it, that of its published port."""
        return self._env.get(f"{role}_URL", f"http://localhost:{port}")

    def proplets(self) -> list[str]:
        """The ids of the proplets that `up` made."""
        names = ["PROPLET_CLIENT_ID"]
        while names[-1] in self._env:
            names.append(f"PROPLET_{len(names) + 1}_CLIENT_ID")
        if len(names) == 1:
            stop("no PROPLET_CLIENT_ID: start `propeller up --env-file .propeller.env`, and run me beside it")
        return [self._env[name] for name in names[:-1]]


def ask(url: str, body: Any = None, method: str = "") -> Any:
    """The decoded answer; a refusal is shown, and ends the script."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method or None)  # noqa: S310 - http by construction
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            stop(f"{request.get_method()} {url} answered {error.code}: {error.read().decode().strip()}")
    except urllib.error.URLError as error:
        stop(f"{url} does not answer ({error.reason}); is `propeller up` running?")


def until(what: str, look: Callable[[], T], timeout_s: float = 90.0) -> T:
    """The first true answer of `look`."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > deadline_s:
            stop(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(POLL_S)
    return found


def finished_task(manager: str, task_id: str) -> dict[str, Any]:
    """The task once it has ended; the script ends here if it did not end well."""

    def look() -> dict[str, Any]:
        task: dict[str, Any] = ask(f"{manager}/tasks/{task_id}")
        return task if task["state"] >= STATES.index("Completed") else {}

    task = until(f"the end of task {task_id}", look)
    if STATES[task["state"]] != "Completed":
        stop(f"task {task['name']} is {STATES[task['state']]}: {task.get('error') or task.get('reason')}")
    return task


def finished_round(coordinator: str, round_id: str) -> dict[str, Any]:
    """The round's status once it is over; the script ends here if it made no model."""

    def look() -> dict[str, Any]:
        status: dict[str, Any] = ask(f"{coordinator}/rounds/{round_id}/complete")
        return status if status["state"] in {"completed", "failed"} else {}

    status = until(f"the end of round {round_id}", look)
    if not status["completed"]:
        stop(f"round {round_id} {status['state']}: {status['reason']}")
    return status


def step(text: str) -> None:
    """Say what comes next."""
    print(f"\n== {text}", flush=True)


def model_text(model: dict[str, Any]) -> str:
    """A small model on one line."""
    return "  ".join(f"{name} {value}" for name, value in sorted(model.items()))


def stop(text: str) -> NoReturn:
    """End the script with a reason."""
    sys.exit(f"error: {text}")
