"""What users do with tasks and proplets, checked and stored. The engine decides; this asks and answers.

Requests about one task take turns (a lock per task), so that a run's number is allocated by one of them.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from propeller import limits
from propeller.core import events as e
from propeller.core.ids import new_id
from propeller.core.ledger import Now
from propeller.core.proplet import Proplet
from propeller.core.run import RunState
from propeller.core.task import Task, TaskLimits, define, touch
from propeller.errors import BadInput, Conflict, NotFound, PeerUnavailable, TooLarge, Unsupported
from propeller.manager.coordinator import CoordinatorClient
from propeller.manager.shell import Shell
from propeller.ports import Blobs, Clock
from propeller.stores import DropTask, ManagerChange, ManagerStore, SaveTask, TaskRecord
from propeller.telemetry.logs import logger
from propeller.wire import codec
from propeller.wire.tasks import LimitsBody, TaskBody, check_module, decode_module, redacted

_NOT_OFFERED = (
    "daemon",
    "broadcast",
    "latent",
    "encrypted",
    "kbs_resource_path",
    "depends_on",
    "run_if",
    "workflow_id",
    "job_id",
    "schedule",
    "is_recurring",
    "hal_storage_path",
)
"""Fields of the original that this release refuses unless they have their zero value."""
_KINDS = {"", "standard", "federated"}
_MODES = {"", "infer", "train"}
_UPDATED = ("name", "inputs", "priority", "metadata", "env", "image_url", "cli_args", "limits")
"""Fields that `PUT /tasks/{id}` changes where its body has them (the module apart)."""


class Tasks:
    """The service behind the task and proplet routes."""

    def __init__(
        self,
        *,
        store: ManagerStore,
        shell: Shell,
        blobs: Blobs,
        clock: Clock,
        random: Random,
        coordinator: CoordinatorClient | None,
    ) -> None:
        self._store = store
        self._shell = shell
        self._blobs = blobs
        self._clock = clock
        self._random = random
        self._coordinator = coordinator
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # --- definitions -----------------------------------------------------------------------------------

    async def create(self, body: TaskBody) -> TaskRecord:
        """Check and store a task; when this returns it is on disk. Raises `Conflict` if its id is taken."""
        _refuse_not_offered(body)
        now_s = self._clock.now().wall_s
        task = define(_task(body, body.id or new_id(self._random), now_s))
        if task.proplet_id and task.proplet_id not in self._shell.engine.ledger.proplets:
            raise NotFound(f"proplet {task.proplet_id} is not registered", code="unknown_proplet")
        if body.file:
            task = await self._with_module(task, decode_module(body.file))
        if not task.image_url and not task.file_sha256:
            logger().info("task without a module yet", task_id=task.id)
        await self._store.commit([SaveTask(task=task, new=True)])
        return TaskRecord(task=task)

    async def update(self, task_id: str, body: TaskBody) -> TaskRecord:
        """Change what the body names; what it leaves out stays. A live run keeps what it was started with."""
        _refuse_not_offered(body)
        async with self._turn(task_id):
            record = await self._store.task(task_id)
            task = define(_merged(record.task, body, self._clock.now().wall_s))
            if body.file:
                task = await self._with_module(task, decode_module(body.file))
            await self._store.commit([SaveTask(task=task)])
            return replace(record, task=task)

    async def upload(self, task_id: str, content: bytes) -> TaskRecord:
        """Give a task its module."""
        if len(content) > limits.TASK_FILE_BYTES_MAX:
            raise TooLarge(f"the module is over the limit of {limits.TASK_FILE_BYTES_MAX} bytes")
        check_module(content)
        async with self._turn(task_id):
            record = await self._store.task(task_id)
            task = await self._with_module(touch(record.task, self._clock.now().wall_s), content)
            await self._store.commit([SaveTask(task=task)])
            return replace(record, task=task)

    async def delete(self, task_id: str) -> None:
        """Remove a task and its runs. Raises `Conflict` while a run is live."""
        async with self._turn(task_id):
            await self._store.task(task_id)
            if task_id in self._shell.engine.ledger.runs:
                raise Conflict(f"task {task_id} is running; stop it first", code="running")
            await self._store.commit([DropTask(task_id=task_id)])

    async def withdraw(self, task_ids: Collection[str], also: ManagerChange) -> None:
        """Remove tasks in one transaction with `also`; one that a user started by hand meanwhile stays."""
        async with AsyncExitStack() as turns:
            for task_id in sorted(task_ids):
                await turns.enter_async_context(self._turn(task_id))
            live = self._shell.engine.ledger.runs
            drops = [DropTask(task_id=task_id) for task_id in task_ids if task_id not in live]
            await self._store.commit([also, *drops])

    async def view(self, task_id: str, *, results: bool = False) -> TaskRecord:
        """One task, as it is on disk."""
        return self._explained(await self._store.task(task_id, results=results))

    async def page(self, offset: int, limit: int, metadata: str | None) -> tuple[int, list[TaskRecord]]:
        """A page of tasks, newest first; `metadata` is a JSON object whose values must all be equal."""
        if not 1 <= limit <= limits.LIST_PAGE_MAX:
            raise BadInput(f"invalid limit size: limit must be 1 to {limits.LIST_PAGE_MAX}, got {limit}")
        wanted = None
        if metadata:
            wanted = codec.decode(dict[str, Any], metadata.encode(), what="the metadata filter")
        total, records = await self._store.tasks(offset=offset, limit=limit, metadata=wanted)
        return total, [self._explained(record) for record in records]

    # --- runs ------------------------------------------------------------------------------------------

    async def start(self, task_id: str, *, cause: str = "user") -> None:
        """Begin a run; when this returns it is on disk, waiting or assigned.

        Raises `Conflict` if a run is live or the task's round is over, `BadInput` if there is nothing to
        run, `NotFound` for an unknown task or proplet.
        """
        async with self._turn(task_id):
            record = await self._store.task(task_id)
            task = record.task
            if not task.image_url and not task.file_sha256:
                raise BadInput(
                    f"task {task_id} has no module: set image_url or upload a file", code="no_module"
                )
            if task.federated and cause == "user":
                await self._check_round(task)
            number = record.latest_run + 1
            await self._shell.submit(e.StartRequested(task=task, number=number, cause=cause))

    async def stop(self, task_id: str, *, reason: str = "stopped by user", cause: str = "user") -> None:
        """Ask for the end of the live run; without one there is nothing to do. Raises `NotFound`."""
        await self._store.task(task_id)
        await self._shell.submit(e.StopRequested(task_id=task_id, reason=reason, cause=cause))

    async def _check_round(self, task: Task) -> None:
        """A task for a round, started by hand: the round must not be over, and must name its model."""
        if not task.env.get("MODEL_URI"):
            raise BadInput("a task with ROUND_ID needs MODEL_URI in its env", code="missing_model_uri")
        if self._coordinator is None:
            return
        try:
            known = await self._coordinator.round(task.round_id)
        except PeerUnavailable as error:
            # The run waits; the coordinator has its say when the attempt is sent.
            logger().warning("round not checked", round_id=task.round_id, error=error.message)
            return
        if known is not None and known.over:
            raise Conflict(f"round {task.round_id} is {known.state}; use a new ROUND_ID", code="round_closed")

    # --- proplets --------------------------------------------------------------------------------------

    def proplets(self) -> list[tuple[Proplet, bool, int]]:
        """Every proplet, in order of registration: (proplet, alive, live attempts)."""
        ledger = self._shell.engine.ledger
        now = self._clock.now().mono_s
        return [
            (proplet, proplet.alive(now), ledger.roster.count(proplet.id))
            for proplet in ledger.proplets.values()
        ]

    def proplet(self, proplet_id: str) -> tuple[Proplet, bool, int]:
        """One proplet, as in `proplets`; raises `NotFound`."""
        ledger = self._shell.engine.ledger
        found = ledger.proplets.get(proplet_id)
        if found is None:
            raise NotFound(f"proplet {proplet_id} is not registered", code="unknown_proplet")
        return found, found.alive(self._clock.now().mono_s), ledger.roster.count(proplet_id)

    async def forget(self, proplet_id: str) -> None:
        """Remove a proplet that is offline and idle; raises `Conflict` otherwise."""
        await self._shell.submit(e.Forgotten(proplet_id=proplet_id, cause="user"))

    # --- details ---------------------------------------------------------------------------------------

    async def _with_module(self, task: Task, content: bytes) -> Task:
        """The task with that module, whose bytes are in the blob store when this returns."""
        digest = await self._blobs.put(content)
        return replace(task, file_sha256=digest, file_bytes=len(content), file_shown=redacted(content))

    def _explained(self, record: TaskRecord) -> TaskRecord:
        """The record as stored; a waiting run says what it waits for at this moment."""
        if record.run is None or record.run.state is not RunState.WAITING:
            return record
        now = self._clock.now()
        reason = self._shell.engine.why_waiting(record.run, Now(mono_s=now.mono_s, wall_s=now.wall_s))
        return replace(record, run=replace(record.run, reason=reason))

    @asynccontextmanager
    async def _turn(self, task_id: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(task_id, asyncio.Lock())
        async with lock:
            yield


def _refuse_not_offered(body: TaskBody) -> None:
    for name in _NOT_OFFERED:
        if getattr(body, name):
            raise Unsupported(f"{name} is not offered by this release; leave it out", code="not_offered")


def _task(body: TaskBody, task_id: str, now_s: float) -> Task:
    _one_of("kind", body.kind or "", _KINDS)
    _one_of("mode", body.mode or "", _MODES)
    env = body.env or {}
    return Task(
        id=task_id,
        name=body.name,
        created_at_s=now_s,
        updated_at_s=now_s,
        kind=body.kind or "standard",
        image_url=body.image_url or "",
        cli_args=tuple(body.cli_args) if body.cli_args is not None else None,
        inputs=body.inputs_text(),
        env=env,
        proplet_id=body.proplet_id or "",
        priority=body.priority or 50,
        mode=body.mode or "",
        metadata=_metadata(body),
        limits=_limits(body.limits),
    )


def _merged(task: Task, body: TaskBody, now_s: float) -> Task:
    changed = _task(body, task.id, now_s)
    given = [name for name in _UPDATED if getattr(body, name) is not None and getattr(body, name) != ""]
    return replace(task, updated_at_s=now_s, **{name: getattr(changed, name) for name in given})


def _one_of(name: str, value: str, allowed: set[str]) -> None:
    if value not in allowed:
        raise BadInput(f"{name} is {value!r}; it can be {', '.join(sorted(filter(None, allowed)))}")


def _metadata(body: TaskBody) -> dict[str, object]:
    metadata: dict[str, object] = body.metadata or {}
    if len(codec.encode(metadata)) > limits.TASK_METADATA_BYTES_MAX:
        raise TooLarge("metadata exceeds 1MB limit")
    return metadata


def _limits(body: LimitsBody | None) -> TaskLimits:
    return TaskLimits(**msgspec.structs.asdict(body)) if body else TaskLimits()
