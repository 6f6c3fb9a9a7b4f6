"""`propeller jobs …` and `propeller workflows …`: tasks that belong together."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from propeller.cli.session import Limit, Offset, Timeout, Watch, session
from propeller.cli.taskflags import described, task_bodies
from propeller.errors import BadInput

jobs = typer.Typer(help="Tasks that are started and stopped as one.", no_args_is_help=True)
workflows = typer.Typer(help="Tasks that wait for each other.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="ID")]
WorkflowId = Annotated[str, typer.Argument(metavar="ID")]
Tasks = Annotated[str | None, typer.Option("--tasks", help="The tasks, a JSON array.")]
TasksFile = Annotated[
    Path | None,
    typer.Option("--tasks-file", help="The tasks in a file: a JSON array, or TOML with [[tasks]]."),
]
Definition = Annotated[
    Path | None, typer.Option("--from", "-f", help="A whole description, TOML or JSON, with its tasks.")
]


class Mode(StrEnum):
    """What `--execution-mode` takes."""

    PARALLEL = "parallel"
    SEQUENTIAL = "sequential"
    CONFIGURABLE = "configurable"


class Status(StrEnum):
    """What `--status` takes."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


@jobs.command("create")
def create_job(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Option("--name", help="What it is called.")] = None,
    execution_mode: Annotated[
        Mode | None,
        typer.Option("--execution-mode", help="All at once, one after the other, or by depends_on."),
    ] = None,
    tasks: Tasks = None,
    tasks_file: TasksFile = None,
    definition: Definition = None,
    start: Annotated[bool, typer.Option("--start", help="Start it at once.")] = False,
) -> None:
    """Store a job and all of its tasks, or nothing."""
    from propeller.wire.flows import JobBody

    document = _document(tasks, tasks_file, definition, {"name", "execution_mode", "tasks"})
    body = JobBody(
        name=name or document.get("name"),
        execution_mode=execution_mode or document.get("execution_mode"),
        tasks=task_bodies(document.get("tasks"), str(definition or tasks_file or "--tasks")),
    )
    with session(ctx).client() as client:
        made = client.jobs.create(body)
        if start:
            client.jobs.start(made.job_id)
            made = client.jobs.view(made.job_id)
        session(ctx).show(made)


@jobs.command("list")
def list_jobs(
    ctx: typer.Context,
    offset: Offset = 0,
    limit: Limit = 10,
    status: Annotated[Status | None, typer.Option("--status", help="Only those.")] = None,
    watch: Watch = False,
) -> None:
    """Jobs, newest first."""
    with session(ctx).client() as client:
        session(ctx).repeat(lambda: client.jobs.list(offset=offset, limit=limit, status=status), watch=watch)


@jobs.command("view")
def view_job(ctx: typer.Context, job_id: JobId, watch: Watch = False) -> None:
    """One job with its tasks."""
    with session(ctx).client() as client:
        session(ctx).view(lambda: client.jobs.view(job_id), partial(client.jobs.watch, job_id), watch=watch)


@jobs.command("start")
def start_job(ctx: typer.Context, job_id: JobId) -> None:
    """Run all of its tasks anew."""
    with session(ctx).client() as client:
        client.jobs.start(job_id)
    session(ctx).done()


@jobs.command("stop")
def stop_job(ctx: typer.Context, job_id: JobId) -> None:
    """Stop what runs of it, and start no more."""
    with session(ctx).client() as client:
        client.jobs.stop(job_id)
    session(ctx).done()


@jobs.command("wait")
def wait_for_job(ctx: typer.Context, job_id: JobId, timeout_s: Timeout = 600.0) -> None:
    """Wait for its end and show its tasks; exits 1 if it failed."""
    with session(ctx).client() as client:
        _finish(ctx, session(ctx).last(client.jobs.watch(job_id, timeout_s=timeout_s)), f"job {job_id}")


@workflows.command("create")
def create_workflow(
    ctx: typer.Context,
    tasks: Tasks = None,
    tasks_file: TasksFile = None,
    definition: Definition = None,
    start: Annotated[bool, typer.Option("--start", help="Start what waits for nothing.")] = False,
) -> None:
    """Store a workflow's tasks, all or none."""
    from propeller.wire.flows import WorkflowBody

    document = _document(tasks, tasks_file, definition, {"tasks"})
    body = WorkflowBody(tasks=task_bodies(document.get("tasks"), str(definition or tasks_file or "--tasks")))
    with session(ctx).client() as client:
        made = client.workflows.create(body)
        session(ctx).show(client.workflows.start(made.workflow_id) if start else made)


@workflows.command("view")
def view_workflow(ctx: typer.Context, workflow_id: WorkflowId, watch: Watch = False) -> None:
    """One workflow with its tasks."""
    with session(ctx).client() as client:
        session(ctx).view(
            lambda: client.workflows.view(workflow_id),
            partial(client.workflows.watch, workflow_id),
            watch=watch,
        )


@workflows.command("start")
def start_workflow(ctx: typer.Context, workflow_id: WorkflowId) -> None:
    """Start the tasks that wait for nothing; the others follow."""
    with session(ctx).client() as client:
        client.workflows.start(workflow_id)
    session(ctx).done()


@workflows.command("wait")
def wait_for_workflow(ctx: typer.Context, workflow_id: WorkflowId, timeout_s: Timeout = 600.0) -> None:
    """Wait until all of its tasks have ended and show them.

    Exits with 1 if one failed.
    """
    with session(ctx).client() as client:
        found = session(ctx).last(client.workflows.watch(workflow_id, timeout_s=timeout_s))
    _finish(ctx, found, f"workflow {workflow_id}")


def _finish(ctx: typer.Context, found: Any, what: str) -> None:
    from propeller.core.task import TaskState
    from propeller.errors import PeerRefused

    session(ctx).show(found)
    failed = [task.id for task in found.tasks if task.state in {TaskState.FAILED, TaskState.INTERRUPTED}]
    if found.state != TaskState.COMPLETED:
        raise PeerRefused(f"{what} failed: {', '.join(failed)} did not complete")


def _document(
    tasks: str | None, tasks_file: Path | None, definition: Path | None, known: set[str]
) -> dict[str, Any]:
    """What the options describe, as one document with `tasks`."""
    import json

    if sum(one is not None for one in (tasks, tasks_file, definition)) > 1:
        raise BadInput("use either --tasks or --tasks-file, not both; --from says both and more")
    if tasks is not None:
        try:
            return {"tasks": json.loads(tasks)}
        except ValueError as error:
            raise BadInput(f"--tasks is not JSON: {error}") from error
    if tasks_file is not None:
        return described(tasks_file, bare=True)
    if definition is None:
        raise BadInput("at least one task is required: --tasks, --tasks-file or --from FILE")
    document = described(definition)
    if unknown := set(document) - known:
        raise BadInput(f"{definition}: unknown field {min(unknown)!r}; there are {', '.join(sorted(known))}")
    return document
