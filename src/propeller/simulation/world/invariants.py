"""What must hold after every simulated day, whatever went wrong in it; else it raises `Broken`."""

from collections.abc import Mapping
from itertools import pairwise

import msgspec
import numpy as np

from propeller.core.flow import due
from propeller.core.run import Run, RunState
from propeller.core.task import Task
from propeller.fl.tensors import from_safetensors
from propeller.manager.flowstate import load
from propeller.simulation.world.day import Day
from propeller.simulation.world.errands import SPECIAL
from propeller.simulation.world.training import check_training
from propeller.simulation.world.witness import present, require
from propeller.simulation.world.world import COORDINATOR, World

_DONE, _FAILED = RunState.COMPLETED, RunState.FAILED
_STOPPED, _SKIPPED = RunState.INTERRUPTED, RunState.SKIPPED
_ENDS: Mapping[str, frozenset[RunState]] = {
    "echo": frozenset({_DONE}),
    "trap": frozenset({_FAILED}),
    "loop": frozenset({_FAILED}),
    "stopped": frozenset({_STOPPED, _FAILED}),
    "manual": frozenset({_DONE}),
    "flaky": frozenset({_DONE, _FAILED}),
    "movable": frozenset({_DONE, _FAILED}),
    "special": frozenset({_DONE, _FAILED}),
    "flow": frozenset({_DONE, _FAILED, _SKIPPED, _STOPPED}),
    "scheduled": frozenset({_DONE, _FAILED}),
    "broadcast": frozenset({_DONE, _FAILED, _STOPPED}),
    "daemon": frozenset({_STOPPED}),
    "service": frozenset({_STOPPED}),
    "latent": frozenset({_STOPPED, _FAILED}),
}
"""How each kind of task may end. Only what cannot fail must complete: a loss can end what may be lost."""


def check_runs(world: World) -> None:
    """A run has ended and has no live attempt."""
    for run, _ in world.manager_store.runs.values():
        require(not run.live, "every run ends", run)
        require(not any(attempt.live for attempt in run.attempts), "no attempt outlives its run", run)


def check_accepted(world: World, accepted: Mapping[str, str]) -> None:
    """Every accepted task is there and ended as its kind must."""
    for task_id, kind in accepted.items():
        require(task_id in world.manager_store.tasks_by_id, "no accepted task is lost", task_id)
        runs = [run for key, (run, _) in world.manager_store.runs.items() if key[0] == task_id]
        require(bool(runs) or kind in {"scheduled", "flow"}, "what was started has a run", task_id)
        for run in runs:  # a client that got no answer may have started it twice
            check_end(world, run, kind)


def check_end(world: World, run: Run, kind: str) -> None:
    """How each kind of task may end, and that its result came from the proplet that owned it."""
    lawful = _ENDS[kind] | ({_FAILED} if kind == "manual" and run.number > 1 else set())
    require(run.state in lawful, f"a task of kind {kind} ends as it must", run)
    if kind == "trap":
        require(run.failure == "trap", "a failure names its cause", run)
    task = world.manager_store.tasks_by_id[run.task_id]
    if task.broadcast:
        check_broadcast(world, run, task)
    elif run.state is _DONE and not task.federated:
        check_result(world, run, task)
    if kind == "special":
        places = {attempt.proplet_id for attempt in run.attempts}
        require(places <= {SPECIAL}, "constraints hold for every attempt", run)


def check_result(world: World, run: Run, task: Task) -> None:
    """The stored result is what the proplet of the attempt that succeeded says."""
    said = msgspec.json.decode(world.manager_store.results[run.key])
    owner = run.attempt.proplet_id if run.attempt else ""
    expected = " ".join((f"hello from {owner}", *task.inputs))
    require(said == expected, "a result is its owner's", (said, run))


def check_broadcast(world: World, run: Run, task: Task) -> None:
    """Every member of the run has ended and is in the results; it completed if and only if they all did."""
    members = {
        one.proplet_id: world.manager_store.runs[one.id, run.number][0]
        for one in world.manager_store.tasks_by_id.values()
        if one.part_of == task.id and (one.id, run.number) in world.manager_store.runs
    }
    said = msgspec.json.decode(world.manager_store.results_joined(run.key) or b"{}")
    require(set(said) == set(members), "a broadcast has a result of each member", (said, members))
    for proplet_id, member in members.items():
        if member.state is _DONE:
            require(said[proplet_id] == f"hello from {proplet_id}", "a result is its owner's", (said, member))
    done = all(member.state is _DONE for member in members.values())
    stopped = run.state is _STOPPED
    require(stopped or done == (run.state is _DONE), "a broadcast ends as its members did", (run, members))


async def check_flows(world: World) -> None:
    """Nothing of a flow is due any more, and each task ended as its parents and its condition say."""
    for flow_id in world.manager_store.flows:
        state = present(await load(world.manager_store, flow_id), "no flow is lost", flow_id)
        require(due(state.flow, state.graph, state.seen).nothing, "nothing of a flow is left undone", flow_id)
        for name, record in state.records.items():
            if record.run is not None and record.run.state is not _SKIPPED and not state.flow.job:
                check_condition(world, record.task, record.run, name)


def check_condition(world: World, task: Task, run: Run, name: str) -> None:
    """What ran in a workflow was to: its parents completed, or one failed if that is what it is for."""
    states = [
        world.manager_store.runs[parent, number][0].state
        for parent, number in run.answers.items()
        if parent and (parent, number) in world.manager_store.runs
    ]
    if task.run_if == "failure":
        require(_FAILED in states, "a task for a failure runs after one", (name, states))
    else:
        require(
            all(state is _DONE for state in states), "a task runs once its parents completed", (name, states)
        )


def check_schedules(world: World, accepted: Mapping[str, str]) -> None:
    """No occurrence of a schedule starts twice: its runs began in different minutes of the wall clock."""
    for task_id in (name for name, kind in accepted.items() if kind == "scheduled"):
        runs = [run for key, (run, _) in sorted(world.manager_store.runs.items()) if key[0] == task_id]
        minutes = [int(run.created_at_s // 60) for run in runs if run.cause == "schedule"]
        require(all(a != b for a, b in pairwise(sorted(minutes))), "an occurrence starts once", minutes)


async def check_rounds(world: World) -> None:
    """Each (round, participant) counts at most once, every model is finite, and the lineage is unbroken."""
    answer = await world.calm_http.request("GET", f"{COORDINATOR}/rounds")
    for shown in msgspec.json.decode(answer.body)["rounds"]:
        found = await world.coordinator_store.round(shown["round_id"])
        record = present(found, "no round is lost", shown)
        updates = await world.coordinator_store.updates(shown["round_id"])
        participants = [update.accepted.participant for update in updates]
        once = len(participants) == len(set(participants)) == record.num_updates
        require(once, "a participant counts once in a round", (record, participants))
        ours = set(participants) <= {*record.participants, *record.spec.carried}
        require(ours, "only participants count", (record, participants))
        kept = not any(word in record.reason for word in ("missing_model", "deleted", "has no version"))
        require(kept, "nothing that a round needs is deleted", record)
        if record.version is not None:
            model = await world.models.find("global_model", record.version)
            version = present(model, "no model is lost", record)
            whole = (
                version.round_id == shown["round_id"]
                and version.parent == record.spec.base.version
                and version.sha256 == record.model_hash
            )
            require(whole, "the lineage of models is whole", (record, version))
    for number in await world.models.versions("global_model"):
        await check_finite(world, number)


async def check_finite(world: World, version: int) -> None:
    """A stored model holds finite numbers only."""
    tensors = from_safetensors(await world.models.content("global_model", version), "the model")
    for name in tensors:
        require(bool(np.isfinite(tensors[name]).all()), "models are finite", (version, name))


def check_calls(day: Day) -> None:
    """A call of a latent task was answered with its own inputs."""
    for asked, said in day.called:
        require(said.endswith(f" {asked}"), "an answer belongs to its call", (asked, said))


async def check_all(world: World, day: Day) -> None:
    """Everything above, and what was seen on the way."""
    if world.witness.broken is not None:
        raise world.witness.broken
    check_runs(world)
    check_accepted(world, day.accepted)
    check_schedules(world, day.accepted)
    check_calls(day)
    await check_flows(world)
    await check_rounds(world)
    await check_training(world)
