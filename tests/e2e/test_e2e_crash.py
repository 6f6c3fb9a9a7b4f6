"""kill -9 at the worst moment: of everything in the middle of a round, and of one proplet at work."""

import os
import signal
from collections.abc import Iterator

import pytest
from walk_system import System, alive, family, listening, started, until

pytestmark = pytest.mark.e2e

MANY = 1500
HYPERPARAMS = {"epochs": 8_000, "lr": 0.01, "batch_size": MANY}
"""No time at all for a proplet with one row, seconds for one with many. All rows are one batch: their order,
which a round's seed decides, changes no more than the last digits."""
LOOP = "AGFzbQEAAAABBAFgAAADAgEABwoBBl9zdGFydAAACgkBBwADQAwACws="
"""A module that never ends, as base64."""


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> Iterator[System]:
    """A system whose first proplet has one row of data, and whose others have many; a model is there."""
    with started(tmp_path_factory.mktemp("crash") / "data") as running:
        running.push()
        for number, one in enumerate(running.proplets):
            rows = [
                {"x": [k % 10 / 10, k % 7 / 7, number / 3], "y": k % 2} for k in range(MANY if number else 1)
            ]
            assert running.post("data-store", f"/datasets/{one}", {"data": rows}).status == 201
        yield running


def starts(system: System, task_id: str) -> int:
    """How often the second proplet started a guest for the task."""
    return sum(task_id in line and "guest started" in line for line in system.log("proplet2").splitlines())


def updates_of(system: System, round_id: str) -> dict[str, int]:
    """Samples of every accepted update of a round, by participant."""
    detail = system.get("coordinator", f"/rounds/{round_id}").body
    found = [(one["participant"], one["samples"]) for one in detail["updates"]]
    assert len(found) == len(dict(found)), "a participant counts twice"
    return dict(found)


def test_up_is_killed_in_the_middle_of_a_round(system):
    """Started again, the round has every accepted update once, and makes the model it would have made."""
    assert system.begin_round("undisturbed", hyperparams=HYPERPARAMS).status == 200
    assert system.completed("undisturbed", 60)["model_version"] == 1
    undisturbed = system.get("model-registry", "/models/1").body

    assert system.begin_round("killed", hyperparams=HYPERPARAMS).status == 200
    until("one update is in", lambda: system.status("killed")["num_updates"] == 1)
    first = updates_of(system, "killed")
    assert list(first) == [system.proplets[0]]
    ids, had = system.proplets, system.kill()
    assert len(had) >= 3
    system.check_gone(had)

    system.again()
    assert system.proplets == ids, "the same identities as before"
    assert updates_of(system, "killed") == first
    status = system.completed("killed", 60)
    assert (status["state"], status["num_updates"], status["model_version"]) == ("completed", 3, 2)
    assert updates_of(system, "killed") == dict(zip(ids, (1, MANY, MANY), strict=True))
    model = system.get("model-registry", "/models/2").body
    assert [model["b"], *model["w"]] == pytest.approx([undisturbed["b"], *undisturbed["w"]], rel=1e-9)
    tasks = [
        one
        for one in system.get("manager", "/tasks").body["tasks"]
        if one["name"].startswith("fl-round-killed-")
    ]
    assert len(tasks) == 3
    for one in tasks:
        assert system.ended(one["id"])["state"] == 3


def test_a_proplet_is_killed_at_work(system):
    """It comes back by itself, its task runs again, and the round counts it once."""
    assert system.begin_round("one-dies", hyperparams=HYPERPARAMS).status == 200
    until("one update is in", lambda: system.status("one-dies")["num_updates"] == 1)
    victim = system.children()["proplet2"]
    workers = until("the guest runs in a process of its own", lambda: family(victim))
    os.kill(victim, signal.SIGKILL)
    until("its workers ended with it", lambda: not any(map(alive, [victim, *workers])), 5.0)
    until("another proplet2", lambda: system.children().get("proplet2", victim) != victim)
    status = system.completed("one-dies", 60)
    assert (status["state"], status["num_updates"]) == ("completed", 3)
    assert sorted(updates_of(system, "one-dies")) == sorted(system.proplets)


def test_a_plain_task_runs_again_when_its_proplet_is_killed(system):
    """The proplet finds the task among what it had accepted, and runs it; a stop still reaches it at once."""
    task_id = system.task(name="loops", file=LOOP, proplet_id=system.proplets[1], limits={"wall_s": 60})
    assert system.post("manager", f"/tasks/{task_id}/start").status == 200
    system.in_state(task_id, {2})
    victim = system.children()["proplet2"]
    until("the guest runs", lambda: starts(system, task_id) == 1)
    os.kill(victim, signal.SIGKILL)
    until("the guest runs again", lambda: starts(system, task_id) == 2, 30)
    assert system.get("manager", f"/tasks/{task_id}").body["state"] == 2
    assert system.post("manager", f"/tasks/{task_id}/stop").status == 200
    ended = system.ended(task_id, 5)
    assert ended["state"] == 6, ended


def test_ports_are_free_after_the_kill_of_everything(system):
    """What kill -9 leaves: no listener, no process, and a directory from which it starts as before."""
    system.check_gone(system.kill())
    system.again()
    assert all(listening(port) for port in system.ports.values())
    assert len(system.children()) == 3
