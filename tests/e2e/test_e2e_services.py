"""A day of a service on real processes: scaled, robbed of workers, rolled out well and badly."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from walk_system import ROOT, System, started, until

MODULES = ROOT / "examples" / "modules"
GOOD, BAD = "ticker", "fail"
MOST = 3
"""Replicas wanted at most."""
BRISK = {"surge": 1, "healthy_s": 1, "deadline_s": 60}
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


class Service:
    """Service `web` of a system, as its users see it."""

    def __init__(self, system: System) -> None:
        self.system = system

    def image(self, name: str) -> str:
        """A module of the examples, pushed; its reference."""
        self.system.push(MODULES / f"{name}.wasm", f"{name}:v1")
        return f"localhost:{self.system.ports['registry']}/{name}:v1"

    def view(self) -> dict[str, Any]:
        """The task."""
        return self.system.get("manager", "/tasks/web").body

    def until(self, what: str, holds: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The task once that holds, never with more replicas than wanted and the surge."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.update({"attempts": []} | self.view())
            assert len(seen["attempts"]) <= MOST + BRISK["surge"], seen
            return bool(holds(seen))

        until(what, look, 60.0)
        return seen

    def calm(self, **wanted: Any) -> dict[str, Any]:
        """The task once all replicas run, nothing is rolled out, and its `service` shows these."""

        def holds(task: dict[str, Any]) -> bool:
            shown = task["service"]
            there = shown["ready"] == shown["wanted"] == len(task["attempts"])
            return there and shown["phase"] == "steady" and wanted.items() <= shown.items()

        return self.until(f"calm with {wanted}", holds)


def places(task: dict[str, Any]) -> list[str]:
    """Where the replicas run, sorted."""
    return sorted(one["proplet_id"] for one in task["attempts"])


def test_a_day_of_a_service(tmp_path):
    """Four workers: one falls silent, one dies; the services are killed in the middle of a rollout.

    At every look there are no more replicas than wanted and the surge; a bad image never takes an old
    replica's place; after each hour of the day there are exactly as many as wanted.
    """
    with started(tmp_path / "d", "--heartbeat", "1s", proplets=4) as system:
        web = Service(system)
        images = {name: web.image(name) for name in (GOOD, BAD)}
        system.task(
            id="web", name="web", image_url=images[GOOD], daemon=True, replicas=1, rollout=BRISK,
            disconnect={"lost_after_s": 2},
        )  # fmt: skip
        system.post("manager", "/tasks/web/start")
        web.calm(ready=1)
        system.cli("scale", "web", "3")
        task = web.calm(ready=3)
        assert len(set(places(task))) == 3, "replicas are spread"

        _loses_workers(system, web, task)
        _rolls_out(system, web)
        _rolls_back(system, web, images[BAD])
        _outlives_the_manager(system, web)

        system.cli("scale", "web", "1")
        task = web.calm(ready=1)
        system.cli("tasks", "stop", "web")
        assert system.ended("web")["state"] == 6
        assert system.cli("tasks", "delete", "web").returncode == 0
        assert system.get("manager", "/tasks/web.replica-1").status == 404


def _loses_workers(system: System, web: Service, task: dict[str, Any]) -> None:
    """One is silent: its replica begins on the fourth, and ends where it was. Another dies and comes back."""
    silent, dies, _ = places(task)
    pid = worker(system, silent)
    os.kill(pid, signal.SIGSTOP)
    try:
        web.until("elsewhere", lambda one: one["service"]["ready"] == 3 and silent not in places(one))
    finally:
        os.kill(pid, signal.SIGCONT)
    os.kill(worker(system, dies), signal.SIGKILL)
    web.until("a replica is missed", lambda one: one["service"]["ready"] < 3)
    task = web.calm(ready=3)
    held = {one["id"]: one["task_count"] for one in system.get("manager", "/proplets").body["proplets"]}
    assert held == {name: places(task).count(name) for name in held}


def worker(system: System, proplet_id: str) -> int:
    """The process of that proplet."""
    return system.children()[f"proplet{system.proplets.index(proplet_id) + 1}"]


def _rolls_out(system: System, web: Service) -> None:
    """A good revision comes in by steps: old replicas serve until new ones are healthy."""
    system.cli("tasks", "update", "web", "--env", "GREETING=hello")
    mixed = web.until(
        "both revisions serve", lambda one: len({at["revision"] for at in one["attempts"]}) == 2
    )
    assert mixed["service"]["phase"] == "rolling"
    task = web.calm(outcome="proven", revision=2, updated=3)
    assert {one["revision"] for one in task["attempts"]} == {2}


def _rolls_back(system: System, web: Service, bad: str) -> None:
    """A bad one is refused by itself, and the old replicas were never fewer than wanted."""
    system.cli("tasks", "update", "web", "--image-url", bad)
    fewest = []

    def refused(task: dict[str, Any]) -> bool:
        serving = [one for one in task["attempts"] if one["revision"] == 2 and one["state"] == "running"]
        fewest.append(len(serving))
        return task["service"]["outcome"] == "rolled_back"

    web.until("the bad image is refused", refused)
    task = web.calm(outcome="rolled_back", revision=2, ready=3)
    assert min(fewest) == 3
    assert "ticker" in task["image_url"]
    assert "the guest exited with status 3" in task["service"]["why"]
    status = system.cli("rollout", "status", "web", "--wait", check=False)
    assert (status.returncode, "rolled back" in status.stderr) == (1, True)


def _outlives_the_manager(system: System, web: Service) -> None:
    """All services are killed in mid-rollout; what comes back goes on with it."""
    system.cli("rollout", "restart", "web")
    web.until("it has begun", lambda one: one["service"]["phase"] == "rolling")
    system.check_gone(system.kill())
    system.again()
    task = web.calm(outcome="proven", ready=3)
    assert task["service"]["updated"] == 3
