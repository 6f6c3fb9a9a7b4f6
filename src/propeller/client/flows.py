"""Workflows and jobs: tasks that wait for each other. It must not know how they are carried on."""

from collections.abc import AsyncIterator

from propeller.client.calls import Role, changes, part
from propeller.client.tasks import ended
from propeller.core.task import TaskState
from propeller.wire.flows import JobBody, JobDone, JobPage, JobView, WorkflowBody, WorkflowView

_OVER = frozenset({TaskState.COMPLETED, TaskState.FAILED})
_LIVE = frozenset({TaskState.SCHEDULED, TaskState.RUNNING})


class Workflows:
    """`client.workflows`."""

    def __init__(self, manager: Role) -> None:
        self._manager = manager

    async def create(self, body: WorkflowBody) -> WorkflowView:
        """Store a workflow's tasks, all or none. None starts by itself: start the roots."""
        return await self._manager.post(WorkflowView, "/workflows", body)

    async def view(self, workflow_id: str) -> WorkflowView:
        """A workflow's tasks, in the order in which they were given."""
        return await self._manager.get(WorkflowView, f"/workflows/{part(workflow_id)}")

    async def start(self, workflow_id: str) -> WorkflowView:
        """Start the roots, one after the other; what depends on them follows."""
        found = await self.view(workflow_id)
        for task in found.tasks:
            if not task.depends_on:
                await self._manager.send("POST", f"/tasks/{part(task.id)}/start")
        return found

    async def watch(self, workflow_id: str, *, timeout_s: float = 600.0) -> AsyncIterator[WorkflowView]:
        """The workflow now and after each change, until all of its tasks have ended.

        Raises `PeerUnavailable` (`timeout`) if they have not by then.
        """
        async for found in changes(
            lambda: self.view(workflow_id),
            lambda found: found.state in _OVER and all(map(ended, found.tasks)),
            what=f"workflow {workflow_id}",
            timeout_s=timeout_s,
        ):
            yield found


class Jobs:
    """`client.jobs`."""

    def __init__(self, manager: Role) -> None:
        self._manager = manager

    async def create(self, body: JobBody) -> JobView:
        """Store a job's tasks, all or none; `start` runs them."""
        return await self._manager.post(JobView, "/jobs", body)

    async def view(self, job_id: str) -> JobView:
        """A job's tasks, in the order in which they were given."""
        return await self._manager.get(JobView, f"/jobs/{part(job_id)}")

    async def list(self, *, offset: int = 0, limit: int = 100, status: str | None = None) -> JobPage:
        """A page of jobs, newest first; `status` is "pending", "running", "completed" or "failed"."""
        query = {"offset": offset, "limit": limit, "status": status}
        return await self._manager.get(JobPage, "/jobs", query)

    async def start(self, job_id: str) -> JobDone:
        """Run all of its tasks anew."""
        return await self._manager.post(JobDone, f"/jobs/{part(job_id)}/start")

    async def stop(self, job_id: str) -> JobDone:
        """Stop what runs, and start no more of it."""
        return await self._manager.post(JobDone, f"/jobs/{part(job_id)}/stop")

    async def watch(self, job_id: str, *, timeout_s: float = 600.0) -> AsyncIterator[JobView]:
        """The job now and after each change, until it has completed or failed and nothing of it runs.

        Raises `PeerUnavailable` (`timeout`) if it has not by then.
        """
        async for found in changes(
            lambda: self.view(job_id),
            lambda found: found.state in _OVER and not any(task.state in _LIVE for task in found.tasks),
            what=f"job {job_id}",
            timeout_s=timeout_s,
        ):
            yield found
