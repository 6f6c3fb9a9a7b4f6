"""`propeller scale` and `propeller rollout …`: how many replicas of a service, and of which revision."""

from typing import Annotated

import typer

from propeller.cli.session import Timeout, session

TaskId = Annotated[str, typer.Argument(metavar="NAME", help="The id of the service.")]

rollouts = typer.Typer(help="Watch a service's rollout, go back, or roll out again.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(scale)
    app.add_typer(rollouts, name="rollout")


def scale(
    ctx: typer.Context, task_id: TaskId, replicas: Annotated[int, typer.Argument(metavar="N", min=0)]
) -> None:
    """Have N replicas of a service from now on."""
    with session(ctx).client() as client:
        session(ctx).show(client.tasks.scale(task_id, replicas))


@rollouts.command()
def status(
    ctx: typer.Context,
    task_id: TaskId,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until all replicas run; exits 1 if it was rolled back.")
    ] = False,
    timeout_s: Timeout = 600.0,
) -> None:
    """How the service is, and how its last rollout went."""
    from propeller.cli.tables_of_tasks import rollout_of
    from propeller.errors import PeerRefused

    with session(ctx).client() as client:
        if wait:
            task = session(ctx).last(client.tasks.watch_rollout(task_id, timeout_s=timeout_s))
        else:
            task = client.tasks.view(task_id)
    session(ctx).show(task, table=rollout_of)
    outcome = getattr(task.service, "outcome", "")
    if wait and outcome == "rolled_back":
        raise PeerRefused(f"the last rollout of {task_id} was rolled back: {task.service.why}")


@rollouts.command()
def undo(ctx: typer.Context, task_id: TaskId) -> None:
    """Roll back to the revision before.

    What is being rolled out is taken back; after a rollout, the revision before is brought in again.
    """
    with session(ctx).client() as client:
        client.tasks.undo_rollout(task_id)
    session(ctx).done()


@rollouts.command()
def restart(ctx: typer.Context, task_id: TaskId) -> None:
    """Roll the same definition out again.

    New replicas take the place of the old, of what the image's tag means now.
    """
    with session(ctx).client() as client:
        client.tasks.restart_rollout(task_id)
    session(ctx).done()
