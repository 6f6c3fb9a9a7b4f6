"""What users do with tasks and proplets, checked and stored. The engine decides; this asks and answers.

Requests about one task take turns (a lock per task), so that a run's number is allocated by one of them.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any, Literal

from propeller import limits
from propeller.core import broadcast
from propeller.core import events as e
from propeller.core.flow import Step
from propeller.core.ids import new_ordered_id
from propeller.core.ledger import Now
from propeller.core.proplet import Proplet
from propeller.core.run import RunState
from propeller.core.service import ServiceState
from propeller.core.task import Task, define, touch
from propeller.errors import BadInput, Conflict, NotFound, PeerUnavailable, TooLarge
from propeller.http.server import Offload
from propeller.manager.coordinator import CoordinatorClient
from propeller.manager.definitions import defined, merged
from propeller.manager.flowstate import answers_of, joining, leaving
from propeller.manager.shell import Shell
from propeller.manager.turns import Turns
from propeller.ports import Blobs, Clock
from propeller.stores.manager import (
    DropTask,
    ManagerChange,
    ManagerStore,
    TaskRecord,
)
from propeller.telemetry.logs import logger
from propeller.wire import codec
from propeller.wire.modules import check_module, decode_module, is_long, redacted
from propeller.wire.tasks import TaskBody

_ROUND_CHECK_S = 5.0
"""How long a start by hand waits for the coordinator's word: less than its caller waits for an answer."""


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
        offload: Offload,
    ) -> None:
        self._store = store
        self._offload = offload
        self._shell = shell
        self._blobs = blobs
        self._clock = clock
        self._random = random
        self._coordinator = coordinator
        self.on_defined: list[Callable[[Task], None]] = []
        """Called with every task that was created or changed."""
        self._turns = Turns()

    # --- definitions -----------------------------------------------------------------------------------

    async def create(self, body: TaskBody) -> TaskRecord:
        """Check and store a task; when this returns it is on disk. Raises `Conflict` if its id is taken."""
        task = await self.define(body)
        async with self.flow_turn(task.flow_id):
            joined = await joining(self._store, task)
            await self._store.commit([*joined, e.SaveTask(task=task, new=True)])
        self.announce(task)
        return TaskRecord(task=task)

    async def define(self, body: TaskBody, *, workflow_id: str = "", job_id: str = "") -> Task:
        """The checked task that a body describes, its module in the blob store; it is not stored yet."""
        now_s = self._clock.now().wall_s
        task_id = body.id or new_ordered_id(self._random, now_s)
        task = defined(body, task_id, now_s, workflow_id=workflow_id, job_id=job_id)
        if task.proplet_id:
            self.proplet(task.proplet_id)
        if body.file:
            task = await self._with_module(task, await self._decoded(body.file))
        if not task.image_url and not task.file_sha256:
            logger().info("task without a module yet", task_id=task.id)
        return task

    async def update(self, task_id: str, body: TaskBody) -> TaskRecord:
        """Change what the body names; what it leaves out stays.

        A live run keeps what it was started with, but a service's new definition is rolled out.
        """
        async with self._turns.of(task_id):
            record = await self._store.task(task_id)
            task = merged(_whole(record.task), body, self._clock.now().wall_s)
            if body.proplet_id:
                self.proplet(body.proplet_id)
            if body.file:
                task = await self._with_module(task, await self._decoded(body.file))
            await self._redefine(record.task, task, wanted=body.replicas)
        self.announce(task)
        return replace(record, task=task)

    async def scale(self, task_id: str, replicas: int) -> None:
        """Have so many replicas of a service from now on. Raises `NotFound`, `BadInput`."""
        async with self._turns.of(task_id):
            before = _whole((await self._store.task(task_id)).task)
            if not before.service:
                raise BadInput(f"task {task_id} is no service: give it replicas first", code="no_service")
            task = define(replace(touch(before, self._clock.now().wall_s), replicas=replicas))
            await self._redefine(before, task, wanted=replicas)

    async def roll(self, task_id: str, how: Literal["undo", "restart"]) -> None:
        """Bring a service's revision before back, or new replicas of the same definition in."""
        await self._store.task(task_id)
        await self._shell.submit(e.RolloutRequested(task_id=task_id, how=how, cause="user"))

    def service(self, task_id: str) -> ServiceState | None:
        """A running service as it stands; None for any other task."""
        return self._shell.engine.service(task_id, self._now())

    async def _redefine(self, before: Task, task: Task, *, wanted: int | None = None) -> None:
        """Store a definition; of a service, the engine does, which rolls it out."""
        if task.service:
            await self._shell.submit(e.Redefined(before=before, task=task, wanted=wanted, cause="user"))
        else:
            await self._store.commit([e.SaveTask(task=task)])

    async def change(self, task_id: str, changed: Callable[[Task], Task]) -> None:
        """Store what `changed` makes of a task's definition. Raises `NotFound`."""
        async with self._turns.of(task_id):
            before = (await self._store.task(task_id)).task
            task = changed(before)
            if task != before:
                await self._store.commit([e.SaveTask(task=task)])
        self.announce(task)

    async def upload(self, task_id: str, content: bytes) -> TaskRecord:
        """Give a task its module."""
        if len(content) > limits.TASK_FILE_BYTES_MAX:
            raise TooLarge(f"the module is over the limit of {limits.TASK_FILE_BYTES_MAX} bytes")
        check_module(content)
        async with self._turns.of(task_id):
            record = await self._store.task(task_id)
            task = await self._with_module(touch(_whole(record.task), self._clock.now().wall_s), content)
            await self._redefine(record.task, task)
            return replace(record, task=task)

    async def delete(self, task_id: str) -> None:
        """Remove a task and its runs. Raises `Conflict` while a run is live."""
        async with self._turns.of(task_id):
            task = _whole((await self._store.task(task_id)).task)
            if self._shell.engine.ledger.live(task_id):
                raise Conflict(f"task {task_id} is running; stop it first", code="running")
            async with self.flow_turn(task.flow_id):
                left = await leaving(self._store, task)
                await self._store.commit([*left, DropTask(task_id=task_id)])

    async def withdraw(self, task_ids: Collection[str], also: ManagerChange) -> None:
        """Remove tasks in one transaction with `also`; one that a user started by hand meanwhile stays."""
        async with AsyncExitStack() as turns:
            for task_id in sorted(task_ids):
                await turns.enter_async_context(self._turns.of(task_id))
            live = self._shell.engine.ledger.runs
            drops = [DropTask(task_id=task_id) for task_id in task_ids if task_id not in live]
            await self._store.commit([also, *drops])

    async def view(self, task_id: str, *, results: bool = False) -> TaskRecord:
        """One task, as it is on disk."""
        return self._explained(await self._store.task(task_id, results=results))

    async def page(
        self, offset: int, limit: int, metadata: str | None, *, scheduled: bool = False
    ) -> tuple[int, list[TaskRecord]]:
        """A page of tasks, newest first; `metadata` is a JSON object whose values must all be equal.

        With `scheduled`, of those that have a next run by their schedule, soonest first.
        """
        wanted = None
        if metadata:
            wanted = codec.decode(dict[str, Any], metadata.encode(), what="the metadata filter", strict=True)
        if scheduled:
            if wanted is not None:
                raise BadInput("ask for scheduled tasks or for metadata, not for both")
            due = await self._store.scheduled()
            return len(due), [await self.view(task.id) for task in due[offset : offset + limit]]
        total, records = await self._store.tasks(offset=offset, limit=limit, metadata=wanted)
        return total, [self._explained(record) for record in records]

    # --- runs ------------------------------------------------------------------------------------------

    async def start(self, task_id: str, *, cause: str = "user", step: Step | None = None) -> Task:
        """Begin a run of the task; when this returns it, the run is on disk, waiting or assigned.

        A task that stands for an experiment has no runs: it is returned, and nothing is done.

        With a `step` of its flow, the run is that one or none. Raises `Conflict` if a run is live, the
        task's round is over or a dependency has not ended, `BadInput` if there is nothing to run, `NotFound`
        for an unknown task or proplet.
        """
        async with self._turns.of(task_id):
            record = await self._store.task(task_id)
            task = _whole(record.task)
            if task.handle:
                return task
            if not task.image_url and not task.file_sha256:
                raise BadInput(
                    f"task {task_id} has no module: set image_url or upload a file", code="no_module"
                )
            if task.federated and cause == "user":
                await self._check_round(task)
            number = record.latest_run + 1
            if step is not None and step.run != number:
                raise Conflict(f"task {task_id} has run {record.latest_run} already", code="already_started")
            answers = step.answers if step else await answers_of(self._store, task)
            if task.service:
                await self._serve(task, number, cause)
            elif task.broadcast:
                await self._broadcast(task, number, answers, cause)
            else:
                order = e.StartRequested(task=task, number=number, answers=answers, cause=cause)
                await self._shell.submit(order)
            return task

    async def _serve(self, task: Task, number: int, cause: str) -> None:
        """Start a service's run, which goes on where the last one counted."""
        kept = await self._store.service(task.id)
        before, numbers = (kept.service, kept.numbers) if kept else (None, {})
        await self._shell.submit(
            e.ServiceRequested(task=task, number=number, before=before, numbers=numbers, cause=cause)
        )

    async def _broadcast(self, task: Task, number: int, answers: Mapping[str, int], cause: str) -> None:
        """Start a run on every proplet that is there; raises `PeerUnavailable` if none is."""
        ledger = self._shell.engine.ledger
        members = broadcast.members(ledger, task, self._now())
        if not members:
            raise PeerUnavailable(
                f"no proplet is there that broadcast {task.id} can reach", code="no_proplet"
            )
        if not ledger.live(task.id):
            await self._store.commit([e.SaveTask(task=one) for one in members])
        order = e.BroadcastRequested(task=task, number=number, members=members, answers=answers, cause=cause)
        await self._shell.submit(order)

    async def parts(self, task: Task) -> list[TaskRecord]:
        """The members of a broadcast with their latest runs; none for any other task."""
        return await self._store.parts(task.id) if task.broadcast else []

    async def skip(self, step: Step, *, cause: str) -> None:
        """Record that a flow passes a task over. Raises as `start`."""
        async with self._turns.of(step.task_id):
            record = await self._store.task(step.task_id)
            if step.run != record.latest_run + 1:
                raise Conflict(f"task {step.task_id} has run {record.latest_run}", code="already_started")
            await self._shell.submit(
                e.SkipRequested(
                    task=record.task, number=step.run, answers=step.answers, reason=step.reason, cause=cause
                )
            )

    async def stop(self, task_id: str, *, reason: str = "stopped by user", cause: str = "user") -> None:
        """Ask for the end of the live run; without one there is nothing to do. Raises `NotFound`."""
        await self._store.task(task_id)
        await self._shell.submit(e.StopRequested(task_id=task_id, reason=reason, cause=cause))

    async def contributed(self, round_id: str, participants: Collection[str]) -> None:
        """End the runs of a round whose devices never say so themselves: their update counted, that is all.

        The original's microcontrollers send a round's update to the coordinator and nothing to the manager.
        """
        ledger = self._shell.engine.ledger
        for name in participants:
            proplet = ledger.proplets.get(name)
            if proplet is None or not proplet.embedded:
                continue
            for run in ledger.on(name):
                if ledger.tasks[run.task_id].round_id == round_id:
                    report = e.LegacyReport(
                        task_id=run.task_id, proplet_id=name, error="", results=b"null", cause="round"
                    )
                    await self._shell.submit(report)

    async def _check_round(self, task: Task) -> None:
        """A task for a round, started by hand: the round must not be over, and must name its model."""
        if not task.env.get("MODEL_URI"):
            raise BadInput("a task with ROUND_ID needs MODEL_URI in its env", code="missing_model_uri")
        if self._coordinator is None:
            return
        try:
            known = await self._coordinator.round(task.round_id, timeout_s=_ROUND_CHECK_S)
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

    async def cordon(self, proplet_id: str, *, cordoned: bool, draining: bool = False) -> None:
        """Take a proplet out of use, or back; draining also moves away what can run elsewhere."""
        await self._shell.submit(
            e.Cordoned(proplet_id=proplet_id, cordoned=cordoned, draining=draining, cause="user")
        )

    async def label(self, proplet_id: str, labels: Mapping[str, str]) -> None:
        """Give a proplet these labels instead of those that it had."""
        await self._shell.submit(e.Labelled(proplet_id=proplet_id, labels=labels, cause="user"))

    async def forget(self, proplet_id: str) -> None:
        """Remove a proplet that is offline and idle; raises `Conflict` otherwise."""
        await self._shell.submit(e.Forgotten(proplet_id=proplet_id, cause="user"))

    # --- details ---------------------------------------------------------------------------------------

    async def _decoded(self, file: str) -> bytes:
        if not is_long(file):
            return decode_module(file)
        return await self._offload(decode_module, file)  # type: ignore[no-any-return]

    async def _with_module(self, task: Task, content: bytes) -> Task:
        """The task with that module, whose bytes are in the blob store when this returns."""
        digest = await self._blobs.put(content)
        return replace(task, file_sha256=digest, file_bytes=len(content), file_shown=redacted(content))

    def _explained(self, record: TaskRecord) -> TaskRecord:
        """The record as stored; a waiting run says what it waits for at this moment."""
        if record.run is None or record.run.state is not RunState.WAITING:
            return record
        reason = self._shell.engine.why_waiting(record.run, self._now())
        return replace(record, run=replace(record.run, reason=reason))

    def _now(self) -> Now:
        now = self._clock.now()
        return Now(mono_s=now.mono_s, wall_s=now.wall_s)

    def announce(self, task: Task) -> None:
        """Tell who wants to know that a task was created or changed."""
        for listener in self.on_defined:
            listener(task)

    @asynccontextmanager
    async def flow_turn(self, flow_id: str) -> AsyncIterator[None]:
        """Change a flow's record alone, meanwhile; take it after a task's own turn, never before."""
        if not flow_id:
            yield
            return
        async with self._turns.of(f"flow {flow_id}"):
            yield


def _whole(task: Task) -> Task:
    """The task itself; a part of a broadcast or service can only be looked at and stopped."""
    if task.part_of:
        raise Conflict(f"task {task.id} is part of {task.part_of}; ask for that", code="part")
    return task
