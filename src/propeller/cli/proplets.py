"""`propeller proplets …`: the proplets that the manager knows."""

from enum import StrEnum
from typing import Annotated

import typer

from propeller.cli.session import Limit, Offset, Watch, pairs, session
from propeller.errors import BadInput

app = typer.Typer(help="List proplets, look at them, take them in and out of use.", no_args_is_help=True)

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
    status: Annotated[
        Status | None, typer.Option("--status", help="Only those that are heard, or not.")
    ] = None,
    watch: Watch = False,
) -> None:
    """Proplets, in order of registration."""
    with session(ctx).client() as client:
        session(ctx).repeat(
            lambda: client.proplets.list(offset=offset, limit=limit, status=status), watch=watch
        )


@app.command()
def view(ctx: typer.Context, proplet_id: PropletId) -> None:
    """One proplet."""
    with session(ctx).client() as client:
        session(ctx).show(client.proplets.view(proplet_id))


@app.command()
def delete(ctx: typer.Context, proplet_id: PropletId) -> None:
    """Forget a proplet that has no live task."""
    with session(ctx).client() as client:
        client.proplets.delete(proplet_id)
    session(ctx).done()


@app.command()
def cordon(ctx: typer.Context, proplet_id: PropletId) -> None:
    """Give it no new work; what runs there goes on."""
    with session(ctx).client() as client:
        client.proplets.cordon(proplet_id)
    session(ctx).done()


@app.command()
def drain(ctx: typer.Context, proplet_id: PropletId) -> None:
    """Give it no new work, and move away what can run elsewhere."""
    with session(ctx).client() as client:
        client.proplets.drain(proplet_id)
    session(ctx).done()


@app.command()
def uncordon(ctx: typer.Context, proplet_id: PropletId) -> None:
    """Take it back into use."""
    with session(ctx).client() as client:
        client.proplets.uncordon(proplet_id)
    session(ctx).done()


@app.command()
def label(
    ctx: typer.Context,
    proplet_id: PropletId,
    labels: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE | NAME-]…")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="First take away those that it has.")] = False,
) -> None:
    """Give it labels that tasks can ask for, or take some away.

    `NAME=VALUE` gives one, `NAME-` takes one away.
    """
    given = labels or []
    gone = {item[:-1] for item in given if item.endswith("-") and "=" not in item}
    new = pairs([item for item in given if item[:-1] not in gone], "label") or {}
    if not (given or clear):
        raise BadInput("say which labels: NAME=VALUE, NAME- to take one away, or --clear")
    with session(ctx).client() as client:
        has = {} if clear else client.proplets.view(proplet_id).labels
        wanted = {name: value for name, value in has.items() if name not in gone} | new
        session(ctx).show(client.proplets.label(proplet_id, wanted))


@app.command()
def metrics(ctx: typer.Context, proplet_id: PropletId, offset: Offset = 0, limit: Limit = 10) -> None:
    """What its process and machine used, newest first."""
    with session(ctx).client() as client:
        session(ctx).show(client.proplets.metrics(proplet_id, offset=offset, limit=limit))


@app.command("alive-history")
def alive_history(ctx: typer.Context, proplet_id: PropletId, offset: Offset = 0, limit: Limit = 10) -> None:
    """When it was last heard, oldest first."""
    with session(ctx).client() as client:
        session(ctx).show(client.proplets.history(proplet_id, offset=offset, limit=limit))


@app.command()
def sdf(ctx: typer.Context, proplet_id: PropletId) -> None:
    """What it is, for machines: JSON.

    A document of the Semantic Definition Format.
    """
    with session(ctx).client() as client:
        session(ctx).document(client.proplets.sdf(proplet_id))
