"""Tasks of kind federated: handles on experiments. They have no runs, and show how their experiment is.

A start is written down before the coordinator hears of it, with the id of the experiment to be, so that a
start that was cut short is repeated as the same experiment. All other tasks are passed on untouched.
"""

import asyncio
from dataclasses import replace
from typing import Final

import msgspec

from propeller.core.task import Task, TaskState
from propeller.errors import BadInput, CallerError, Conflict, PeerRefused, PropellerError, Unsupported
from propeller.manager.api.views import task_view, with_service
from propeller.manager.coordinator import CoordinatorClient, KnownExperiment
from propeller.manager.tasks import Tasks
from propeller.stores.manager import TaskRecord
from propeller.wire import codec
from propeller.wire.experiments import ExperimentBody, SelectorBody, StrategyBody
from propeller.wire.tasks import FederatedBody, TaskView

_SHOWN: Final = {
    "running": TaskState.RUNNING,
    "paused": TaskState.RUNNING,
    "completed": TaskState.COMPLETED,
    "failed": TaskState.FAILED,
    "stopped": TaskState.INTERRUPTED,
}
_BASE: Final = "fl/models/global_model_v0"


class Handles:
    """What the task routes do with tasks of either kind."""

    def __init__(self, tasks: Tasks, coordinator: CoordinatorClient | None) -> None:
        self._tasks = tasks
        self._coordinator = coordinator

    async def start(self, task_id: str) -> None:
        """Begin a task's run, or its experiment. Raises `Conflict` while one is under way."""
        task = await self._tasks.start(task_id)
        if not task.handle:
            return
        coordinator = self._its_coordinator()
        known = await coordinator.experiment(task.experiment_id) if task.experiment_id else None
        if known is not None and not known.over:
            raise Conflict(f"task {task_id} is running as {task.experiment_id}", code="running")
        before = task
        if known is not None or not task.experiment_id:
            task = _started(task)
        body = codec.encode(experiment_of(task))
        if task is not before:
            await self._numbered(task_id, task)
        try:
            await coordinator.register(body)
        except (CallerError, PeerRefused):
            if task is not before:
                await self._numbered(task_id, before)
            raise

    async def _numbered(self, task_id: str, like: Task) -> None:
        """Keep which experiment the task stands for. One that was refused it stands for no longer."""
        await self._tasks.change(
            task_id, lambda now: replace(now, experiment_id=like.experiment_id, starts=like.starts)
        )

    async def stop(self, task_id: str) -> None:
        """End a task's run, or its experiment; without one there is nothing to do."""
        task = (await self._tasks.view(task_id)).task
        if not task.handle:
            await self._tasks.stop(task_id)
        elif task.experiment_id and await self._its_coordinator().experiment(task.experiment_id):
            await self._its_coordinator().stop(task.experiment_id)

    async def delete(self, task_id: str) -> None:
        """Remove a task. Raises `Conflict` while it runs."""
        task = (await self._tasks.view(task_id)).task
        if task.handle and task.experiment_id:
            known = await self._its_coordinator().experiment(task.experiment_id)
            if known is not None and not known.over:
                raise Conflict(f"task {task_id} is running; stop it first", code="running")
        await self._tasks.delete(task_id)

    async def shown(self, records: list[TaskRecord], *, part: bool = False) -> list[TaskView]:
        """Tasks as routes show them (`part`: in a list), with the state of their experiment or service."""
        return list(await asyncio.gather(*(self._shown(record, part=part) for record in records)))

    async def _shown(self, record: TaskRecord, *, part: bool) -> TaskView:
        view, task = task_view(record, part=part), record.task
        view = with_service(view, self._tasks.service(task.id), part=part)
        if not task.handle or not task.experiment_id:
            return view
        try:
            known = await self._its_coordinator().experiment(task.experiment_id)
        except PropellerError as error:
            return msgspec.structs.replace(view, run=task.starts, reason=f"not known now: {error.message}")
        if known is None:
            return msgspec.structs.replace(view, reason="its start was cut short; start it again")
        return _mirrored(view, task, known)

    def _its_coordinator(self) -> CoordinatorClient:
        if self._coordinator is None:
            raise Unsupported(
                "this manager has no coordinator: start it with a coordinator URL", code="no_coordinator"
            )
        return self._coordinator


def _mirrored(view: TaskView, task: Task, known: KnownExperiment) -> TaskView:
    results = {
        "experiment_id": known.experiment_id,
        "round": known.round,
        "rounds": known.rounds,
        "model_ref": known.model_ref,
        "metrics": known.metrics,
    }
    state = _SHOWN[known.state]
    return msgspec.structs.replace(
        view,
        state=int(state),
        reason="paused" if known.state == "paused" else known.reason,
        error=known.reason if state is TaskState.FAILED else "",
        run=task.starts,
        start_time=known.created_at,
        finish_time=known.ended_at or "",
        results=msgspec.Raw(codec.encode(results)),
    )


def _started(task: Task) -> Task:
    """The task with the id of its next experiment: `job_id` or its own, from the second on with a number."""
    number = task.starts + 1
    named = str(task.fl.get("job_id", "")) or task.id
    return replace(task, experiment_id=named if number == 1 else f"{named}.{number}", starts=number)


def experiment_of(task: Task) -> ExperimentBody:
    """The experiment that a handle asks for. Raises `BadInput`."""
    if not task.image_url:
        raise BadInput(f"task {task.id} has no image: set image_url to the trainer's", code="no_module")
    asked = msgspec.convert(dict(task.fl), FederatedBody)
    least = asked.min_participants or None
    return ExperimentBody(
        experiment_id=task.experiment_id,
        round_id=f"{task.experiment_id}-1",
        model_ref=asked.model_ref or _BASE,
        participants=asked.participants or None,
        hyperparams=_hyperparams(asked),
        timeout_s=asked.round_timeout_sec or None,
        task_wasm_image=task.image_url,
        # Evaluating a model once is all there is to do.
        rounds=1 if task.mode == "infer" else asked.total_rounds,
        strategy=StrategyBody(name=asked.algorithm) if asked.algorithm else None,
        seed=asked.seed or None,
        min_updates=least,
        mode="infer" if task.mode == "infer" else None,
        selector=SelectorBody(clients=max(0, asked.clients_per_round), min_connected=least or 0),
        evaluation=True if asked.evaluation and task.mode != "infer" else None,
        update_format=asked.update_format or None,
    )


def _hyperparams(asked: FederatedBody) -> dict[str, object]:
    """The trainer's: the flags of the original's command line under the names that trainers read."""
    flags = {"epochs": asked.local_epochs, "batch_size": asked.batch_size, "lr": asked.learning_rate}
    return {name: value for name, value in flags.items() if value is not None} | (asked.hyperparams or {})
