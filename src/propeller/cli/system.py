"""`propeller health`, `logs`, `backup`, `restore` and `version`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from propeller.cli.session import session, working

ROLES = ("manager", "coordinator", "aggregator", "model-registry", "data-store")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(health)
    app.command("logs")(show_logs)
    app.command()(backup)
    app.command()(restore)
    app.command()(version)


def health(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(help=f"One of {', '.join(ROLES)}; or all.")] = "manager",
) -> None:
    """Whether a role works; exits 1 if it does not."""
    from propeller.errors import BadInput

    if role not in {*ROLES, "all"}:
        raise BadInput(f"{role!r} is not one of {', '.join(ROLES)}, all")
    with session(ctx).client() as client:
        if role == "all":
            session(ctx).show({one: client.health(one)["status"] for one in ROLES})
        else:
            session(ctx).show(client.health(role))


def show_logs(
    role: Annotated[str, typer.Argument(help="manager, coordinator, …, broker, up, or proplet1 …")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    round_id: Annotated[str, typer.Option("--round", help="Only lines about this round.")] = "",
    data_dir: Annotated[Path | None, typer.Option("--data-dir")] = None,
) -> None:
    """A role's log, as JSON lines."""
    from propeller.roles.logs import lines

    for line in lines(role, data_dir, os.environ, follow=follow, round_id=round_id):
        typer.echo(line)


def backup(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE.tar", help="A new file; it holds keys: keep it private.")
    ],
    data_dir: Annotated[Path | None, typer.Option("--data-dir")] = None,
) -> None:
    """Copy everything that `up` keeps into one file, while it runs or not."""
    from propeller.roles import backup as work
    from propeller.roles.layout import data_dir as found

    with working(f"Copying to {file}"):
        saved = work.backup(found(data_dir, os.environ), file)
    session(ctx).show(saved)


def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.tar")],
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="A new or empty directory.")] = None,
) -> None:
    """Make a data directory from a backup; `up` then goes on from there."""
    from propeller.roles import backup as work
    from propeller.roles.layout import data_dir as found

    with working(f"Restoring from {file}"):
        saved = work.restore(file, found(data_dir, os.environ))
    session(ctx).show(saved)


def version(ctx: typer.Context) -> None:
    """This release."""
    from propeller import __version__

    session(ctx).show(__version__)
