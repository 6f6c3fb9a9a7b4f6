"""Tasks and proplets: the manager's own nouns. It must not know how either is stored or run."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from propeller.client.calls import Role, json_text, part
from propeller.core.task import TERMINAL, TaskState
from propeller.errors import PeerUnavailable
from propeller.wire.tasks import HistoryPage, PropletPage, PropletView, TaskBody, TaskPage, TaskView

POLL_S = 0.1
POLL_S_MAX = 1.0


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /tasks/{id}/results`: any JSON, usually the guest's stdout as text."""

    results: Any = None


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
        self, *, offset: int = 0, limit: int = 100, metadata: dict[str, Any] | None = None
    ) -> TaskPage:
        """A page of tasks; with `metadata`, those whose metadata equal every given key."""
        query = {"offset": offset, "limit": limit, "metadata": json_text(metadata) if metadata else None}
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

    async def results(self, task_id: str) -> Any:
        """What the latest run gave: any JSON, None if there is nothing yet."""
        answer = await self._manager.send("GET", f"/tasks/{part(task_id)}/results")
        return msgspec.json.decode(answer.body, type=Results).results if answer.body else None

    async def wait(self, task_id: str, *, timeout_s: float = 600.0) -> TaskView:
        """The task once its latest run has ended; raises `PeerUnavailable` if it has not by then."""
        pause_s = POLL_S
        try:
            async with asyncio.timeout(timeout_s):
                while not ended(task := await self.view(task_id)):
                    await asyncio.sleep(pause_s)
                    pause_s = min(POLL_S_MAX, pause_s * 1.5)
        except TimeoutError:
            raise PeerUnavailable(
                f"task {task_id} has not ended within {timeout_s:g} s; `propeller tasks view {task_id}` "
                "shows why it waits",
                code="timeout",
            ) from None
        return task


class Proplets:
    """`client.proplets`."""

    def __init__(self, manager: Role) -> None:
        self._manager = manager

    async def list(self, *, offset: int = 0, limit: int = 100, status: str | None = None) -> PropletPage:
        """A page of proplets; `status` is "active" or "inactive"."""
        query = {"offset": offset, "limit": limit, "status": status}
        return await self._manager.get(PropletPage, "/proplets", query)

    async def view(self, proplet_id: str) -> PropletView:
        """One proplet."""
        return await self._manager.get(PropletView, f"/proplets/{part(proplet_id)}")

    async def delete(self, proplet_id: str) -> None:
        """Forget a proplet that has no live task."""
        await self._manager.send("DELETE", f"/proplets/{part(proplet_id)}")

    async def history(self, proplet_id: str, *, offset: int = 0, limit: int = 100) -> HistoryPage:
        """Times of its latest heartbeats, oldest first."""
        return await self._manager.get(
            HistoryPage, f"/proplets/{part(proplet_id)}/alive-history", {"offset": offset, "limit": limit}
        )


def state_of(task: TaskView) -> TaskState:
    """The state as a word."""
    return TaskState(task.state) if isinstance(task.state, int) else TaskState.PENDING


def ended(task: TaskView) -> bool:
    """Whether the latest run is over."""
    return state_of(task) in TERMINAL


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
