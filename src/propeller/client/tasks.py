"""Tasks: defined, run, called and watched. It must not know how they are stored or where they run."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from propeller.client.calls import Role, changes, json_text, part
from propeller.core.task import TERMINAL, TaskState
from propeller.wire.history import EventPage, MetricsPage
from propeller.wire.tasks import (
    InvokeBody,
    ReplicasBody,
    ServiceView,
    TaskBody,
    TaskPage,
    TaskView,
)


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /tasks/{id}/results`: any JSON, usually the guest's stdout as text."""

    results: Any = None


class Invoked(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /tasks/{id}/invoke`."""

    results: str


class Tasks:
    """`client.tasks`."""

    def __init__(self, manager: Role) -> None:
        self._manager = manager

    async def create(self, body: TaskBody) -> TaskView:
        """Store a task; it does not start by itself."""
        return await self._manager.post(TaskView, "/tasks", body)

    async def view(self, task_id: str) -> TaskView:
        """One task with the state of its latest run."""
        return await self._manager.get(TaskView, f"/tasks/{part(task_id)}")

    async def list(
        self,
        *,
        offset: int = 0,
        limit: int = 100,
        metadata: dict[str, Any] | None = None,
        scheduled: bool = False,
    ) -> TaskPage:
        """A page of tasks, newest first; of those whose metadata equal every given key.

        With `scheduled`, only tasks that have a next run by their schedule, soonest first.
        """
        query = {
            "offset": offset,
            "limit": limit,
            "metadata": json_text(metadata) if metadata else None,
            "scheduled": "true" if scheduled else None,
        }
        return await self._manager.get(TaskPage, "/tasks", query)

    async def update(self, task_id: str, changes: TaskBody) -> TaskView:
        """Change the fields that `changes` gives."""
        return await self._manager.put(TaskView, f"/tasks/{part(task_id)}", changes)

    async def upload(self, task_id: str, file: Path) -> TaskView:
        """Give the task a local `.wasm` file as its module."""
        content, content_type = _multipart(file.name, await asyncio.to_thread(file.read_bytes))
        answer = await self._manager.send(
            "PUT", f"/tasks/{part(task_id)}/upload", content=content, content_type=content_type
        )
        return msgspec.json.decode(answer.body, type=TaskView)

    async def delete(self, task_id: str) -> None:
        """Remove the task and its runs."""
        await self._manager.send("DELETE", f"/tasks/{part(task_id)}")

    async def start(self, task_id: str) -> None:
        """Start a new run."""
        await self._manager.send("POST", f"/tasks/{part(task_id)}/start")

    async def stop(self, task_id: str) -> None:
        """End the live run."""
        await self._manager.send("POST", f"/tasks/{part(task_id)}/stop")

    async def scale(self, task_id: str, replicas: int) -> TaskView:
        """Have so many replicas of a service from now on."""
        return await self._manager.post(
            TaskView, f"/tasks/{part(task_id)}/scale", ReplicasBody(replicas=replicas)
        )

    async def undo_rollout(self, task_id: str) -> TaskView:
        """Roll a service's rollout back, or its revision before the present one out."""
        return await self._manager.post(TaskView, f"/tasks/{part(task_id)}/rollout/undo", None)

    async def restart_rollout(self, task_id: str) -> TaskView:
        """Roll a service's definition out again: new replicas, of what its image's tag means now."""
        return await self._manager.post(TaskView, f"/tasks/{part(task_id)}/rollout/restart", None)

    async def watch_rollout(self, task_id: str, *, timeout_s: float = 600.0) -> AsyncIterator[TaskView]:
        """A service now and after each change, until no rollout is under way and all replicas run."""
        async for task in changes(
            lambda: self.view(task_id), settled, what=f"service {task_id}", timeout_s=timeout_s
        ):
            yield task

    async def results(self, task_id: str) -> Any:
        """What the latest run gave: any JSON, None if there is nothing yet."""
        answer = await self._manager.send("GET", f"/tasks/{part(task_id)}/results")
        return msgspec.json.decode(answer.body, type=Results).results if answer.body else None

    async def invoke(
        self, task_id: str, inputs: Sequence[str] = (), *, env: Mapping[str, str] | None = None
    ) -> str:
        """Call a latent task that runs, and return what it answers.

        `inputs` replace the task's own if there are any; `env` goes over its environment.
        """
        body = InvokeBody(inputs=list(inputs) or None, env=dict(env) if env else None)
        given = body if inputs or env else None
        return (await self._manager.post(Invoked, f"/tasks/{part(task_id)}/invoke", given)).results

    async def events(self, task_id: str, *, offset: int = 0, limit: int = 100) -> EventPage:
        """What happened to the task, oldest first."""
        query = {"offset": offset, "limit": limit}
        return await self._manager.get(EventPage, f"/tasks/{part(task_id)}/events", query)

    async def metrics(self, task_id: str, *, offset: int = 0, limit: int = 100) -> MetricsPage:
        """What its guests used, newest first."""
        query = {"offset": offset, "limit": limit}
        return await self._manager.get(MetricsPage, f"/tasks/{part(task_id)}/metrics", query)

    async def logs(
        self, task_id: str, *, follow: bool = False, run: int | None = None, stream: str | None = None
    ) -> AsyncIterator[str]:
        """What its guests printed in the latest run, or in `run` (0: in all), piece by piece.

        `follow` goes on until the run has ended; `stream` is "stdout" or "stderr".
        """
        query = {"follow": "true" if follow else None, "run": run, "stream": stream}
        async for piece in self._manager.text(f"/tasks/{part(task_id)}/logs", query=query):
            yield piece

    async def watch(self, task_id: str, *, timeout_s: float = 600.0) -> AsyncIterator[TaskView]:
        """The task now and after each change, until its latest run has ended; raises as `wait`."""
        async for task in changes(
            lambda: self.view(task_id), ended, what=f"task {task_id}", timeout_s=timeout_s
        ):
            yield task

    async def wait(self, task_id: str, *, timeout_s: float = 600.0) -> TaskView:
        """The task once its latest run has ended; raises `PeerUnavailable` if it has not by then."""
        task = None
        async for seen in self.watch(task_id, timeout_s=timeout_s):
            task = seen
        assert task is not None  # noqa: S101 - it was seen at least once
        return task


def state_of(task: TaskView) -> TaskState:
    """The state as a word."""
    return TaskState(task.state) if isinstance(task.state, int) else TaskState.PENDING


def ended(task: TaskView) -> bool:
    """Whether the latest run is over."""
    return state_of(task) in TERMINAL


def settled(task: TaskView) -> bool:
    """Whether a service has what it wants; what does not run, or is no service, will not change."""
    service = task.service
    if not isinstance(service, ServiceView):
        return True
    return service.phase == "steady" and service.ready == service.wanted


def _multipart(name: str, content: bytes) -> tuple[bytes, str]:
    """One file as a multipart form (RFC 7578), under the part name that the route reads."""
    boundary = uuid4().hex
    shown = name.replace("\\", "_").replace('"', "_")
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{shown}"\r\n'
        "Content-Type: application/wasm\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"
