"""`propeller schedules …`: tasks that the clock starts."""

from typing import Annotated

import typer

from propeller.cli.session import Limit, Offset, Watch, session

app = typer.Typer(help="Start tasks by the clock.", no_args_is_help=True)

TaskId = Annotated[str, typer.Argument(metavar="TASK")]


@app.command("list")
def list_schedules(ctx: typer.Context, offset: Offset = 0, limit: Limit = 10, watch: Watch = False) -> None:
    """Tasks with a next run, soonest first."""
    from propeller.cli.tables_of_tasks import schedules

    with session(ctx).client() as client:
        session(ctx).repeat(
            lambda: client.tasks.list(offset=offset, limit=limit, scheduled=True),
            watch=watch,
            table=schedules,
        )


@app.command("set")
def set_schedule(
    ctx: typer.Context,
    task_id: TaskId,
    cron: Annotated[str, typer.Argument(help="Five fields, such as '*/15 6-18 * * mon-fri'.")],
    timezone: Annotated[str | None, typer.Option("--timezone", help="Such as Europe/Berlin (UTC).")] = None,
    once: Annotated[bool, typer.Option("--once", help="The next time only.")] = False,
) -> None:
    """Have a task started whenever the clock fits, or the next time only."""
    from propeller.cli.tables_of_tasks import schedules
    from propeller.wire.tasks import TaskBody, TaskPage

    body = TaskBody(schedule=cron, timezone=timezone, is_recurring=not once)
    with session(ctx).client() as client:
        task = client.tasks.update(task_id, body)
    session(ctx).show(TaskPage(offset=0, limit=1, total=1, tasks=[task]), table=schedules)


@app.command("clear")
def clear_schedule(ctx: typer.Context, task_id: TaskId) -> None:
    """Have it started by nobody but its users."""
    from propeller.wire.tasks import TaskBody

    with session(ctx).client() as client:
        client.tasks.update(task_id, TaskBody(schedule=""))
    session(ctx).done()
