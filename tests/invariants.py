"""What must hold after every simulated or end-to-end day, whatever went wrong in it."""

import math

import msgspec

from propeller.core.run import RunState
from propeller.simulation.world.world import COORDINATOR, World


def check_runs(world: World) -> None:
    """A run has ended, has at most one live attempt, and its attempt numbers strictly increase."""
    for run, _ in world.manager_store.runs.values():
        assert not run.live, run
        assert not any(attempt.live for attempt in run.attempts), run
        numbers = [attempt.number for attempt in run.attempts]
        assert numbers == sorted(set(numbers)), run


def check_accepted(world: World, accepted: dict[str, str]) -> None:
    """Every accepted task is there and ended as its kind must."""
    for task_id, kind in accepted.items():
        assert task_id in world.manager_store.tasks_by_id, f"{task_id} is lost"
        runs = [run for key, (run, _) in world.manager_store.runs.items() if key[0] == task_id]
        assert runs, f"{task_id} was started and has no run"
        for run in runs:  # a client that got no answer may have started it twice
            check_end(world, run, kind)


def check_end(world: World, run, kind: str) -> None:
    """How each kind of task may end, and that its result came from the proplet that owned it."""
    lawful = {
        "echo": {RunState.COMPLETED},
        "trap": {RunState.FAILED},
        "loop": {RunState.FAILED},
        "stopped": {RunState.INTERRUPTED, RunState.FAILED},
        "manual": {RunState.COMPLETED, RunState.FAILED} if run.number > 1 else {RunState.COMPLETED},
    }[kind]
    assert run.state in lawful, run
    if kind == "trap":
        assert run.failure == "trap", run
    if kind == "echo":
        said = msgspec.json.decode(world.manager_store.results[run.key])
        assert said == f"hello from {run.attempt.proplet_id}", (said, run)


async def check_rounds(world: World) -> None:
    """Each (round, participant) counts at most once, every model is finite, and the lineage is unbroken."""
    answer = await world.calm_http.request("GET", f"{COORDINATOR}/rounds")
    for shown in msgspec.json.decode(answer.body)["rounds"]:
        record = await world.coordinator_store.round(shown["round_id"])
        updates = await world.coordinator_store.updates(shown["round_id"])
        participants = [update.accepted.participant for update in updates]
        assert len(participants) == len(set(participants)) == record.num_updates
        assert set(participants) <= set(record.participants)
        if record.version is not None:
            version = await world.models.find("global_model", record.version)
            assert version.round_id == shown["round_id"]
            assert version.parent == record.spec.base.version
            assert version.sha256 == record.model_hash
    for number in await world.models.versions("global_model"):
        await check_finite(world, number)


async def check_finite(world: World, version: int) -> None:
    """A stored model holds finite numbers only."""
    from propeller.fl.tensors import from_safetensors  # noqa: PLC0415 - numpy only where it is needed

    tensors = from_safetensors(await world.models.content("global_model", version), "the model")
    for name in tensors:
        assert all(math.isfinite(value) for value in tensors[name].ravel()), (version, name)


async def check_all(world: World, accepted: dict[str, str]) -> None:
    """Everything above."""
    check_runs(world)
    check_accepted(world, accepted)
    await check_rounds(world)
