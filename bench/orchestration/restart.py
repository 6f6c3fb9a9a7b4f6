"""How long a manager with many stored tasks takes to be back: from exec until it is healthy and has answered.

The tasks are written by the manager's own store: all but a thousand have a run that completed, with its
result; the thousand wait for a proplet. Each restart follows a SIGKILL. Answered means: the first page of the
list with the right total, and one old task with its result.
"""

import time
from dataclasses import replace

import report
from system import System, begin, stopping

from propeller.clock import SystemClock
from propeller.core.events import SaveRun, SaveTask
from propeller.core.run import Attempt, AttemptState, Run, RunState
from propeller.core.task import Task
from propeller.ports import Instant
from propeller.storage.manager_store import ROLE, SqlManagerStore
from propeller.storage.sqlite import Database
from propeller.stores.manager import ManagerChange

WAITING = 1000
_CHUNK = 1000


async def fill(system: System, count: int) -> None:
    """Store so many tasks."""
    directory = system.home / "manager"
    directory.mkdir(mode=0o700)
    database = await Database.open(directory / "manager.db", role=ROLE, base=system.topics.base)
    clock = SystemClock()
    store = SqlManagerStore(database, clock)
    waiting = min(WAITING, count // 2)
    try:
        for first in range(0, count, _CHUNK):
            changes: list[ManagerChange] = []
            for number in range(first, min(first + _CHUNK, count)):
                changes += _task(number, clock.now(), waits=number >= count - waiting)
            await store.commit(changes)
    finally:
        await database.close()


def _task(number: int, now: Instant, *, waits: bool) -> list[ManagerChange]:
    task = Task(
        id=f"task-{number:06}",
        name="answer",
        created_at_s=now.wall_s - 1000 + number / 1000,
        updated_at_s=now.wall_s,
        file_sha256="0" * 64,
        file_bytes=40,
        metadata={"batch": number % 10},
    )
    run = Run(
        task_id=task.id,
        number=1,
        created_at_s=now.wall_s,
        give_up_mono_s=now.mono_s + 3600,
        deadline_mono_s=now.mono_s + 3600,
        cause="user",
    )
    changes: list[ManagerChange] = [SaveTask(task=task, new=True)]
    if waits:
        return [*changes, SaveRun(run=replace(run, reason="no proplet has registered yet"), cause="user")]
    attempt = Attempt(number=1, proplet_id="gone", lane="directed", state=AttemptState.SUCCEEDED)
    done = replace(run, state=RunState.COMPLETED, attempts=(attempt,), ended_at_s=now.wall_s)
    return [*changes, SaveRun(run=run, cause="user"), SaveRun(run=done, results=b'"42"', cause="finished")]


async def measure(system: System, count: int, times: int) -> list[report.Row]:
    """A row for each restart."""
    async with stopping(system):
        await begin(system)
        return [await _again(system, count) for _ in range(times)]


async def _again(system: System, count: int) -> report.Row:
    manager = system.processes.pop("manager")
    manager.kill()
    manager.wait()
    began_s = time.perf_counter()
    system.start_manager()
    connection = await system.answering()
    healthy_s = time.perf_counter() - began_s
    page = await connection.json("GET", "/tasks?limit=100")
    task = await connection.json("GET", "/tasks/task-000000")
    answered_s = time.perf_counter() - began_s
    connection.close()
    if page["total"] != count or task["results"] != "42":
        raise RuntimeError(f"{page['total']} of {count} tasks are there; the first is {task}")
    size_mb = sum(file.stat().st_size for file in (system.home / "manager").glob("manager.db*")) / 1e6
    return {"tasks": count, "database_mb": size_mb, "healthy_s": healthy_s, "restart_s": answered_s}
