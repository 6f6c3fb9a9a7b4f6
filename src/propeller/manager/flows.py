"""Workflows and jobs: made, started and stopped here, and carried on by looking at them after every change.

Looking is level-triggered: `core.flow` says from the stored runs what is due, so that a change that was seen
twice does nothing twice, and one that a crash hid is found at the next start. Whoever saves a run of a flow's
task says so to `changed`.
"""

import asyncio
from dataclasses import replace
from functools import partial
from random import Random

from propeller.core.events import SaveTask
from propeller.core.flow import Flow, Step, check_mode, due, shown_state
from propeller.core.ids import check_id, new_id
from propeller.core.task import Task, TaskState
from propeller.errors import BadInput, CallerError, Conflict, NotFound, PropellerError
from propeller.manager.flowstate import FlowState, check_size, graph_of, load, load_record
from propeller.manager.tasks import Tasks
from propeller.manager.turns import Turns, each
from propeller.ports import Clock
from propeller.stores.manager import ManagerStore, SaveFlow, SettleFlow, TaskRecord
from propeller.telemetry.logs import logger
from propeller.wire.flows import JobBody, WorkflowBody
from propeller.wire.tasks import TaskBody

_RETRY_S = 1.0
"""Pause before a flow that could not be looked at is looked at again."""
_REST = 2.0
"""How long looking at flows rests after a look, in times that the look took."""
_TASKS_AT_ONCE = 100
"""Definitions checked before the loop may turn to something else."""
STATUS = {
    "pending": TaskState.PENDING,
    "running": TaskState.RUNNING,
    "completed": TaskState.COMPLETED,
    "failed": TaskState.FAILED,
}
"""What `GET /jobs?status=` can ask for."""


class Flows:
    """The service behind the workflow and job routes. `run` carries flows on until it is cancelled."""

    def __init__(
        self, *, store: ManagerStore, tasks: Tasks, clock: Clock, random: Random, default_mode: str
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._clock = clock
        self._random = random
        self._default_mode = default_mode
        self._changed: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._looking = Turns()

    # --- requests --------------------------------------------------------------------------------------

    async def create_workflow(self, body: WorkflowBody) -> list[TaskRecord]:
        """Store a workflow and all of its tasks, or nothing. None of them is started."""
        bodies = body.tasks or []
        if any(one.job_id for one in bodies):
            raise BadInput("a task of a workflow cannot have a job_id", code="two_flows")
        flow_id = next((one.workflow_id for one in bodies if one.workflow_id), None)
        flow_id = check_id(flow_id, "workflow_id") if flow_id else new_id(self._random)
        tasks = await self._defined(bodies, workflow_id=flow_id)
        return await self._create(self._flow(flow_id, tasks), tasks)

    async def create_job(self, body: JobBody) -> tuple[Flow, list[TaskRecord]]:
        """Store a job and all of its tasks, or nothing. None of them is started."""
        mode = check_mode(body.execution_mode) if body.execution_mode else ""
        bodies = body.tasks or []
        if any(one.workflow_id for one in bodies):
            raise BadInput("a task of a job cannot have a workflow_id", code="two_flows")
        flow_id = next((one.job_id for one in bodies if one.job_id), None)
        flow_id = check_id(flow_id, "job_id") if flow_id else new_id(self._random)
        tasks = await self._defined(bodies, job_id=flow_id)
        flow = replace(self._flow(flow_id, tasks), job=True, name=body.name or "", mode=mode)
        return flow, await self._create(flow, tasks)

    async def workflow(self, workflow_id: str) -> FlowState:
        """One workflow; raises `NotFound`."""
        state = await load(self._store, workflow_id, results=True)
        if state is None or state.flow.job:
            raise NotFound(f"workflow {workflow_id} does not exist", code="unknown_workflow")
        return state

    async def job(self, job_id: str, *, results: bool = True) -> FlowState:
        """One job; raises `NotFound`."""
        state = await load(self._store, job_id, results=results)
        if state is None or not state.flow.job:
            raise NotFound(f"job {job_id} does not exist", code="unknown_job")
        return state

    async def jobs(self, *, offset: int, limit: int, status: str | None) -> tuple[int, list[FlowState]]:
        """A page of jobs, newest first, and how many match; `status` is a key of `STATUS`."""
        if status is None:
            total, page = await self._store.jobs(offset=offset, limit=limit)
            return total, [await load_record(self._store, record) for record in page]
        if status not in STATUS:
            raise BadInput(f"invalid job status {status[:64]!r}: it can be {', '.join(STATUS)}")
        total, _ = await self._store.jobs(offset=0, limit=0)
        _, every = await self._store.jobs(offset=0, limit=total)
        states = [await load_record(self._store, record) for record in every]
        found = [state for state in states if shown_state(state.present()) is STATUS[status]]
        return len(found), found[offset : offset + limit]

    async def start_job(self, job_id: str) -> None:
        """Start a job's next pass; when this returns its first runs are on disk.

        Raises `Conflict` while a task of it runs, `BadInput` if one has nothing to run.
        """
        async with self._tasks.flow_turn(job_id):
            state = await self.job(job_id, results=False)
            live = [name for name, one in state.seen.items() if one.live]
            if live:
                raise Conflict(f"job {job_id} is running: {live[0]} has not ended", code="already_started")
            for record in state.records.values():
                _check_module(record.task)
            mode = state.flow.mode or self._default_mode
            flow = replace(state.flow, starts=state.flow.starts + 1, active=True, mode=mode)
            await self._store.commit([SaveFlow(flow=flow)])
        await self._look_patiently(job_id)

    async def stop_job(self, job_id: str) -> None:
        """Stop what runs of a job, and start nothing more of it until it is started again."""
        async with self._tasks.flow_turn(job_id):
            state = await self.job(job_id, results=False)
            await self._store.commit([SaveFlow(flow=replace(state.flow, active=False))])
        await self._look_patiently(job_id)

    def changed(self, flow_id: str) -> None:
        """Have a flow looked at; cheap, and may be said as often as one likes."""
        self._changed[flow_id] = None
        self._wake.set()

    # --- carrying on -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at every flow that a crash left behind, then at each that changes, until cancelled."""
        for flow_id in await self._store.open_flows():
            self.changed(flow_id)
        clock = asyncio.get_running_loop().time
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._changed:
                flow_id = next(iter(self._changed))
                del self._changed[flow_id]
                began_s = clock()
                await self._look_patiently(flow_id)
                # A look reads the whole flow: those that take long wait for further changes to look at.
                await asyncio.sleep(_REST * (clock() - began_s))

    async def _look_patiently(self, flow_id: str) -> None:
        try:
            async with self._looking.of(flow_id):
                await self._look(flow_id)
        except PropellerError as error:
            logger().warning("flow not carried on yet", flow_id=flow_id, error=error.message)
            asyncio.get_running_loop().call_later(_RETRY_S, self.changed, flow_id)

    async def _look(self, flow_id: str) -> None:
        """Do what is due; skips first, as what starts may answer to them."""
        state = await load(self._store, flow_id)
        if state is None:
            return
        steps = due(state.flow, state.graph, state.seen)
        await each(steps.skip, self._skip)
        await each(steps.start, partial(self._start, state.flow))
        for task_id in steps.stop:
            reason = "the job was stopped" if not state.flow.active else "another task of the job failed"
            await self._tasks.stop(task_id, reason=reason, cause=f"job {flow_id}")
        if steps.nothing:
            await self._store.commit([SettleFlow(flow_id=flow_id, touched=state.touched)])

    async def _start(self, flow: Flow, step: Step) -> None:
        """Start a task; one that cannot be started at all is passed over with the reason."""
        cause = f"job {flow.id}" if flow.job else f"workflow {flow.id}"
        try:
            await self._tasks.start(step.task_id, cause=cause, step=step)
        except Conflict:
            # Somebody else started it first; what that comes to is looked at when it is saved.
            logger().info("flow task was started by another", task_id=step.task_id, flow_id=flow.id)
        except CallerError as error:
            await self._skip(replace(step, reason=error.message))

    async def _skip(self, step: Step) -> None:
        try:
            await self._tasks.skip(step, cause="flow")
        except Conflict:
            logger().info("flow task was started by another", task_id=step.task_id)

    # --- details ---------------------------------------------------------------------------------------

    async def _defined(
        self, bodies: list[TaskBody], *, workflow_id: str = "", job_id: str = ""
    ) -> list[Task]:
        if not bodies:
            raise BadInput("at least one task is required", code="missing_tasks")
        check_size(len(bodies), sum(len(one.depends_on or ()) for one in bodies))
        tasks = []
        for at, one in enumerate(bodies):
            tasks.append(await self._tasks.define(one, workflow_id=workflow_id, job_id=job_id))
            if at % _TASKS_AT_ONCE == 0:
                await asyncio.sleep(0)  # others have a turn
        return tasks

    def _flow(self, flow_id: str, tasks: list[Task]) -> Flow:
        ids = tuple(task.id for task in tasks)
        return Flow(id=flow_id, job=False, task_ids=ids, created_at_s=self._clock.now().wall_s)

    async def _create(self, flow: Flow, tasks: list[Task]) -> list[TaskRecord]:
        graph_of(tasks)
        saves = [SaveTask(task=task, new=True) for task in tasks]
        await self._store.commit([SaveFlow(flow=flow, new=True), *saves])
        for task in tasks:
            self._tasks.announce(task)
        return [TaskRecord(task=task) for task in tasks]


def _check_module(task: Task) -> None:
    if not task.image_url and not task.file_sha256:
        raise BadInput(f"task {task.id} has no module: set image_url or upload a file", code="no_module")
