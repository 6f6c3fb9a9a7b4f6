"""Starts tasks by their schedules. The only part of the manager whose deadlines are on the wall clock.

What a task's next run is stands in its stored definition, and is moved on after each start. What was missed
while no manager ran is not made up for. Several due at once start by priority, then by age. A run that is
still going when its task is due again is left alone, and the occurrence is passed over.

    clock jumps forward      what is due by then starts once, and the next run is counted from the new time
    clock is set back        by less than three hours: nothing starts twice; by more: the new time counts
"""

import asyncio
from dataclasses import replace

from propeller import limits
from propeller.core.task import Task
from propeller.errors import CallerError, Conflict, NotFound, PropellerError
from propeller.manager.definitions import scheduled
from propeller.manager.tasks import Tasks
from propeller.ports import Clock
from propeller.stores.manager import ManagerStore
from propeller.telemetry.logs import logger

_CAUSE = "schedule"


class Cron:
    """Keeps the times of all scheduled tasks in memory; `run` starts them until it is cancelled."""

    def __init__(self, *, store: ManagerStore, tasks: Tasks, clock: Clock) -> None:
        self._store = store
        self._tasks = tasks
        self._clock = clock
        self._due: dict[str, Task] = {}
        self._wake = asyncio.Event()
        tasks.on_defined.append(self.defined)

    def defined(self, task: Task) -> None:
        """Take note of a task that was created or changed."""
        if task.next_run_s:
            self._due[task.id] = task
        else:
            self._due.pop(task.id, None)
        self._wake.set()

    async def run(self) -> None:
        """Move past what was missed, then start what is due, until cancelled."""
        for task in await self._store.scheduled():
            self._due.setdefault(task.id, task)
        for task in list(self._due.values()):
            if task.next_run_s <= self._clock.now().wall_s:
                await self._guarded(task, start=False, started=await self._was_started(task))
        while True:
            await self._tick()
            await self._pause()

    async def _pause(self) -> None:
        """Until the next is due or a schedule changes, and never for long: the wall clock may jump."""
        soonest = min((task.next_run_s for task in self._due.values()), default=float("inf"))
        left_s = max(0.0, soonest - self._clock.now().wall_s)
        try:
            async with asyncio.timeout(min(left_s, limits.CRON_TICK_S)):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _tick(self) -> None:
        now_s = self._clock.now().wall_s
        due = [task for task in self._due.values() if task.next_run_s <= now_s]
        for task in sorted(due, key=lambda one: (-one.priority, one.created_at_s)):
            await self._guarded(task, start=True)
        for task in list(self._due.values()):
            if task.next_run_s - now_s > limits.CRON_CLOCK_SET_BACK_S:
                expected = scheduled(task, now_s)
                if task.next_run_s - expected.next_run_s > limits.CRON_CLOCK_SET_BACK_S:
                    await self._guarded(task, start=False)

    async def _was_started(self, task: Task) -> bool:
        """Whether the last manager started it and died before it moved the schedule on."""
        run = (await self._store.task(task.id)).run
        return run is not None and run.cause == _CAUSE and run.created_at_s >= task.next_run_s

    async def _guarded(self, task: Task, *, start: bool, started: bool = False) -> None:
        """Start a task, if it is to be, and move its schedule on; if that fails the next tick tries again."""
        try:
            if start:
                await self._start(task)
            await self._move_on(task, started=start or started)
        except NotFound:
            self._due.pop(task.id, None)
        except PropellerError as error:
            logger().warning("schedule not followed yet", task_id=task.id, error=error.message)
            await asyncio.sleep(1.0)

    async def _start(self, task: Task) -> None:
        try:
            await self._tasks.start(task.id, cause=_CAUSE)
        except NotFound as error:
            if error.reason == "unknown_task":
                raise
            logger().warning("scheduled start refused", task_id=task.id, error=error.message)
        except Conflict as error:
            logger().info("scheduled start passed over", task_id=task.id, error=error.message)
        except CallerError as error:
            logger().warning("scheduled start refused", task_id=task.id, error=error.message)

    async def _move_on(self, task: Task, *, started: bool) -> None:
        """Count a recurring task's next run from now, or end the schedule of one that was to run once."""
        now_s = self._clock.now().wall_s

        def moved(stored: Task) -> Task:
            if (stored.schedule, stored.timezone) != (task.schedule, task.timezone):
                return stored  # it was changed meanwhile, and counted then
            if started and not stored.is_recurring:
                return replace(stored, schedule="", next_run_s=0.0)
            return scheduled(stored, now_s)

        await self._tasks.change(task.id, moved)
