"""`propeller tasks …`: definitions, runs and results."""

import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from propeller.cli.session import Limit, Offset, Timeout, Watch, commas, pairs, read_bytes, session
from propeller.cli.taskflags import TaskFlags, with_task_flags

if TYPE_CHECKING:
    from propeller.client import Client

app = typer.Typer(help="Create, start, watch and stop tasks.", no_args_is_help=True)

TaskId = Annotated[str, typer.Argument(metavar="ID")]
Name = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Also the export that is called, where there is one.")
]
NewId = Annotated[str | None, typer.Option("--id", help="The task's id; otherwise a UUID.")]
Run = Annotated[
    int | None, typer.Option("--run", min=0, help="Of this run; 0: of all. Otherwise the latest.")
]


class Stream(StrEnum):
    """What `--stream` takes."""

    STDOUT = "stdout"
    STDERR = "stderr"


@app.command()
@with_task_flags
def create(ctx: typer.Context, flags: TaskFlags, name: Name = None, task_id: NewId = None) -> None:
    """Store a task; `start` runs it."""
    with session(ctx).client() as client:
        session(ctx).show(client.tasks.create(flags.body(name, task_id=task_id)))


@app.command()
@with_task_flags
def run(
    ctx: typer.Context,
    flags: TaskFlags,
    name: Name = None,
    task_id: NewId = None,
    timeout_s: Timeout = 600.0,
) -> None:
    """Create a task, start it, wait for its end and print its results.

    Exits with 1 if it failed.
    """
    with session(ctx).client() as client:
        made = client.tasks.create(flags.body(name, task_id=task_id))
        client.tasks.start(made.id)
        _await_end(ctx, client, made.id, timeout_s)


@app.command()
@with_task_flags
def update(
    ctx: typer.Context,
    flags: TaskFlags,
    task_id: TaskId,
    name: Annotated[
        str | None, typer.Option("--name", help="Also the export that is called, where there is one.")
    ] = None,
) -> None:
    """Change a task; only what is given changes."""
    with session(ctx).client() as client:
        session(ctx).show(client.tasks.update(task_id, flags.body(name)))


@app.command()
def upload(ctx: typer.Context, task_id: TaskId, file: Path) -> None:
    """Give a task a local .wasm file."""
    read_bytes(file)
    with session(ctx).client() as client:
        session(ctx).show(client.tasks.upload(task_id, file))


@app.command()
def view(ctx: typer.Context, task_id: TaskId, watch: Watch = False) -> None:
    """One task, with the state of its latest run."""
    with session(ctx).client() as client:
        session(ctx).view(
            lambda: client.tasks.view(task_id), partial(client.tasks.watch, task_id), watch=watch
        )


@app.command("list")
def list_tasks(
    ctx: typer.Context,
    offset: Offset = 0,
    limit: Limit = 10,
    metadata: Annotated[str | None, typer.Option("--metadata", help="Only with all of k=v,…")] = None,
    watch: Watch = False,
) -> None:
    """Tasks, newest first."""
    wanted = pairs(commas(metadata), "--metadata")
    with session(ctx).client() as client:
        session(ctx).repeat(
            lambda: client.tasks.list(offset=offset, limit=limit, metadata=wanted), watch=watch
        )


@app.command()
def delete(ctx: typer.Context, task_id: TaskId) -> None:
    """Remove a task and its runs."""
    with session(ctx).client() as client:
        client.tasks.delete(task_id)
    session(ctx).done()


@app.command()
def start(
    ctx: typer.Context,
    task_id: TaskId,
    wait: Annotated[bool, typer.Option("--wait", help="Go on as `wait` does.")] = False,
    timeout_s: Timeout = 600.0,
) -> None:
    """Start a new run."""
    with session(ctx).client() as client:
        client.tasks.start(task_id)
        if wait:
            _await_end(ctx, client, task_id, timeout_s)
            return
    session(ctx).done()


@app.command()
def stop(ctx: typer.Context, task_id: TaskId) -> None:
    """End the live run."""
    with session(ctx).client() as client:
        client.tasks.stop(task_id)
    session(ctx).done()


@app.command()
def wait(ctx: typer.Context, task_id: TaskId, timeout_s: Timeout = 600.0) -> None:
    """Wait for the end of the latest run and print its results.

    Exits with 1 if it failed.
    """
    with session(ctx).client() as client:
        _await_end(ctx, client, task_id, timeout_s)


@app.command()
def invoke(
    ctx: typer.Context,
    task_id: TaskId,
    inputs: Annotated[list[str] | None, typer.Argument(help="Instead of the task's own.")] = None,
    env: Annotated[list[str] | None, typer.Option("--env", help="K=V; may be repeated.")] = None,
) -> None:
    """Call a latent task that runs, and print what it answers."""
    with session(ctx).client() as client:
        session(ctx).show(client.tasks.invoke(task_id, inputs or (), env=pairs(env, "--env")))


@app.command()
def results(ctx: typer.Context, task_id: TaskId) -> None:
    """What the latest run gave."""
    with session(ctx).client() as client:
        session(ctx).show(client.tasks.results(task_id))


@app.command()
def logs(
    ctx: typer.Context,
    task_id: TaskId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    run: Run = None,
    stream: Annotated[Stream | None, typer.Option("--stream", help="Only one of the two.")] = None,
) -> None:
    """What its guests printed, standard output and error as they came."""
    with session(ctx).client() as client:
        for piece in client.tasks.logs(task_id, follow=follow, run=run, stream=stream):
            sys.stdout.write(piece)
            sys.stdout.flush()


@app.command()
def events(ctx: typer.Context, task_id: TaskId, offset: Offset = 0, limit: Limit = 100) -> None:
    """What happened to it: every change of its runs, oldest first."""
    with session(ctx).client() as client:
        session(ctx).show(client.tasks.events(task_id, offset=offset, limit=limit))


@app.command()
def metrics(ctx: typer.Context, task_id: TaskId, offset: Offset = 0, limit: Limit = 10) -> None:
    """What its guests used, newest first."""
    with session(ctx).client() as client:
        session(ctx).show(client.tasks.metrics(task_id, offset=offset, limit=limit))


def _await_end(ctx: typer.Context, client: "Client", task_id: str, timeout_s: float) -> None:
    """Print the results of the latest run once it has ended; raises `PeerRefused` if it ended badly."""
    from propeller.client.tasks import state_of
    from propeller.core.task import TaskState
    from propeller.errors import PeerRefused

    task = session(ctx).last(client.tasks.watch(task_id, timeout_s=timeout_s))
    state = state_of(task)
    if state is not TaskState.COMPLETED:
        raise PeerRefused(f"task {task_id} ended as {state.name.lower()}: {task.error or task.reason}")
    session(ctx).show(client.tasks.results(task_id))
