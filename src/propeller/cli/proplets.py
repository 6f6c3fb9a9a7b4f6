"""`propeller proplets …`: the workers that the manager knows."""

from enum import StrEnum
from typing import Annotated

import typer

from propeller.cli.session import Limit, Offset, session

app = typer.Typer(help="List and look at workers.", no_args_is_help=True)

PropletId = Annotated[str, typer.Argument(metavar="ID")]


class Status(StrEnum):
    """What `--status` takes."""

    ACTIVE = "active"
    INACTIVE = "inactive"


@app.command("list")
def list_proplets(
    ctx: typer.Context,
    offset: Offset = 0,
    limit: Limit = 10,
    status: Annotated[Status | None, typer.Option("--status")] = None,
) -> None:
    """Workers, in order of registration."""
    with session(ctx).client() as client:
        session(ctx).show(client.proplets.list(offset=offset, limit=limit, status=status))


@app.command()
def view(ctx: typer.Context, proplet_id: PropletId) -> None:
    """One worker."""
    with session(ctx).client() as client:
        session(ctx).show(client.proplets.view(proplet_id))


@app.command()
def delete(ctx: typer.Context, proplet_id: PropletId) -> None:
    """Forget a worker that has no live task."""
    with session(ctx).client() as client:
        client.proplets.delete(proplet_id)
    session(ctx).done()


@app.command("alive-history")
def alive_history(ctx: typer.Context, proplet_id: PropletId, offset: Offset = 0, limit: Limit = 10) -> None:
    """When it was last heard, oldest first."""
    with session(ctx).client() as client:
        session(ctx).show(client.proplets.history(proplet_id, offset=offset, limit=limit))
