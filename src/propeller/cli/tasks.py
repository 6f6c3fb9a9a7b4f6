"""`propeller tasks …`: definitions, runs and results."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from propeller.cli.session import Limit, Offset, commas, json_option, pairs, read_bytes, session

if TYPE_CHECKING:
    from propeller.client import Client
    from propeller.wire.tasks import TaskBody

app = typer.Typer(help="Create, start, watch and stop tasks.", no_args_is_help=True)

TaskId = Annotated[str, typer.Argument(metavar="ID")]
Image = Annotated[str | None, typer.Option("--image-url", help="OCI reference, or URL of a .wasm file.")]
File = Annotated[Path | None, typer.Option("--file", help="A local .wasm file, sent with the task.")]
Args = Annotated[str | None, typer.Option("--cli-args", help="Arguments of the guest, comma list.")]
Inputs = Annotated[str | None, typer.Option("--inputs", help="Inputs of the export, comma list.")]
Env = Annotated[list[str] | None, typer.Option("--env", help="K=V; may be repeated.")]
Proplet = Annotated[str | None, typer.Option("--proplet-id", help="Run on this one.")]
Priority = Annotated[int | None, typer.Option("--priority", min=0, max=100)]
Mode = Annotated[str | None, typer.Option("--mode", help="infer or train")]
Kind = Annotated[str | None, typer.Option("--kind", help="standard or federated")]
Metadata = Annotated[list[str] | None, typer.Option("--metadata", help="K=V; may be repeated.")]
Id = Annotated[str | None, typer.Option("--id", help="The task's id; otherwise a UUID.")]
Wall = Annotated[float | None, typer.Option("--wall-s", help="Seconds until the guest is stopped.")]
Daemon = Annotated[bool, typer.Option("--daemon", help="Runs until it is stopped.")]


@app.command()
def create(
    ctx: typer.Context,
    name: str,
    image_url: Image = None,
    file: File = None,
    cli_args: Args = None,
    inputs: Inputs = None,
    env: Env = None,
    proplet_id: Proplet = None,
    priority: Priority = None,
    mode: Mode = None,
    kind: Kind = None,
    metadata: Metadata = None,
    task_id: Id = None,
    wall_s: Wall = None,
    daemon: Daemon = False,
) -> None:
    """Store a task; `start` runs it."""
    with session(ctx).client() as client:
        body = _body(
            name=name,
            image_url=image_url,
            file=file,
            cli_args=cli_args,
            inputs=inputs,
            env=env,
            proplet_id=proplet_id,
            priority=priority,
            mode=mode,
            kind=kind,
            metadata=metadata,
            id=task_id,
            wall_s=wall_s,
            daemon=daemon,
        )
        session(ctx).show(client.tasks.create(body))


@app.command()
def run(
    ctx: typer.Context,
    name: str,
    image_url: Image = None,
    file: File = None,
    cli_args: Args = None,
    inputs: Inputs = None,
    env: Env = None,
    proplet_id: Proplet = None,
    task_id: Id = None,
    wall_s: Wall = None,
    timeout_s: Annotated[float, typer.Option("--timeout-s", help="Seconds to wait for the end.")] = 600.0,
) -> None:
    """Create a task, start it, wait for its end and print its results; exits 1 if it failed."""
    body = _body(
        name=name,
        image_url=image_url,
        file=file,
        cli_args=cli_args,
        inputs=inputs,
        env=env,
        proplet_id=proplet_id,
        id=task_id,
        wall_s=wall_s,
    )
    with session(ctx).client() as client:
        made = client.tasks.create(body)
        client.tasks.start(made.id)
        _await_end(ctx, client, made.id, timeout_s)


@app.command()
def view(ctx: typer.Context, task_id: TaskId) -> None:
    """One task, with the state of its latest run."""
    with session(ctx).client() as client:
        session(ctx).show(client.tasks.view(task_id))


@app.command("list")
def list_tasks(
    ctx: typer.Context,
    offset: Offset = 0,
    limit: Limit = 10,
    metadata: Annotated[str | None, typer.Option("--metadata", help="Only with all of k=v,…")] = None,
) -> None:
    """Tasks, newest first."""
    with session(ctx).client() as client:
        wanted = pairs(commas(metadata), "--metadata")
        session(ctx).show(client.tasks.list(offset=offset, limit=limit, metadata=wanted))


@app.command()
def update(
    ctx: typer.Context,
    task_id: TaskId,
    name: Annotated[str | None, typer.Option("--name")] = None,
    image_url: Image = None,
    file: File = None,
    cli_args: Args = None,
    inputs: Inputs = None,
    env: Env = None,
    proplet_id: Proplet = None,
    priority: Priority = None,
    metadata: Metadata = None,
) -> None:
    """Change a task; only what is given changes."""
    with session(ctx).client() as client:
        body = _body(
            name=name,
            image_url=image_url,
            file=file,
            cli_args=cli_args,
            inputs=inputs,
            env=env,
            proplet_id=proplet_id,
            priority=priority,
            metadata=metadata,
        )
        session(ctx).show(client.tasks.update(task_id, body))


@app.command()
def upload(ctx: typer.Context, task_id: TaskId, file: Path) -> None:
    """Give a task a local .wasm file."""
    read_bytes(file)
    with session(ctx).client() as client:
        session(ctx).show(client.tasks.upload(task_id, file))


@app.command()
def delete(ctx: typer.Context, task_id: TaskId) -> None:
    """Remove a task and its runs."""
    with session(ctx).client() as client:
        client.tasks.delete(task_id)
    session(ctx).done()


@app.command()
def start(ctx: typer.Context, task_id: TaskId) -> None:
    """Start a new run."""
    with session(ctx).client() as client:
        client.tasks.start(task_id)
    session(ctx).done()


@app.command()
def stop(ctx: typer.Context, task_id: TaskId) -> None:
    """End the live run."""
    with session(ctx).client() as client:
        client.tasks.stop(task_id)
    session(ctx).done()


@app.command()
def wait(
    ctx: typer.Context,
    task_id: TaskId,
    timeout_s: Annotated[float, typer.Option("--timeout-s", help="Seconds to wait for the end.")] = 600.0,
) -> None:
    """Wait for the end of the latest run and print its results; exits 1 if it failed."""
    with session(ctx).client() as client:
        _await_end(ctx, client, task_id, timeout_s)


@app.command()
def results(ctx: typer.Context, task_id: TaskId) -> None:
    """What the latest run gave."""
    with session(ctx).client() as client:
        session(ctx).show(client.tasks.results(task_id))


def _await_end(ctx: typer.Context, client: "Client", task_id: str, timeout_s: float) -> None:
    """Print the results of the latest run once it has ended; raises `PeerRefused` if it ended badly."""
    from propeller.client.tasks import state_of
    from propeller.core.task import TaskState
    from propeller.errors import PeerRefused

    task = client.tasks.wait(task_id, timeout_s=timeout_s)
    state = state_of(task)
    if state is not TaskState.COMPLETED:
        raise PeerRefused(f"task {task_id} ended as {state.name.lower()}: {task.error or task.reason}")
    session(ctx).show(client.tasks.results(task_id))


def _body(
    *,
    file: Path | None,
    cli_args: str | None,
    inputs: str | None,
    env: list[str] | None,
    metadata: list[str] | None = None,
    wall_s: float | None = None,
    daemon: bool = False,
    name: str | None = None,
    **plain: Any,
) -> "TaskBody":
    """The request that the options ask for; options not given stay out of it."""
    import base64

    from propeller.wire.tasks import LimitsBody, TaskBody

    return TaskBody(
        name=name or "",
        file=base64.b64encode(read_bytes(file)).decode() if file else None,
        cli_args=commas(cli_args),
        inputs=list(commas(inputs) or []) if inputs is not None else None,
        env=pairs(env, "--env"),
        metadata=_metadata(metadata),
        limits=LimitsBody(wall_s=wall_s) if wall_s is not None else None,
        daemon=daemon or None,
        **plain,
    )


def _metadata(items: list[str] | None) -> dict[str, Any] | None:
    if items and len(items) == 1 and items[0].startswith("{"):
        return json_option(items[0], "--metadata")
    return pairs(items, "--metadata")
