"""`propeller health`, `logs`, `retention`, `backup`, `restore` and `version`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from propeller.cli.session import session, working

if TYPE_CHECKING:
    from propeller.client import Client

DOWN = "unreachable"
_DAY_S = 86_400.0
KEEPERS = ("manager", "coordinator", "model-registry", "registry")
"""Roles that delete by a policy."""
ROLES = ("manager", "coordinator", "aggregator", "model-registry", "data-store")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(health)
    app.command("logs")(show_logs)
    app.command()(backup)
    app.command()(restore)
    app.command()(retention)
    app.command()(version)


def health(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(help=f"One of {', '.join(ROLES)}; or all.")] = "manager",
) -> None:
    """Whether a role works; exits 1 if it does not."""
    from propeller.errors import BadInput, PeerUnavailable

    if role not in {*ROLES, "all"}:
        raise BadInput(f"{role!r} is not one of {', '.join(ROLES)}, all")
    with session(ctx).client() as client:
        if role == "all":
            found = {one: _status(client, one) for one in ROLES}
            session(ctx).show(found)
            if down := [one for one in ROLES if found[one] == DOWN]:
                raise PeerUnavailable(f"{', '.join(down)}: no answer; `propeller health ROLE` says why")
        else:
            session(ctx).show(client.health(role))


def retention(
    ctx: typer.Context,
    roles: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(KEEPERS)}; by default all.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    policy: Annotated[bool, typer.Option("--policy", help="Only show what is kept, and how long.")] = False,
) -> None:
    """Delete now what the policy does not keep.

    Each role does so by itself too, every hour.
    """
    from propeller.errors import BadInput

    if unknown := next((role for role in roles or () if role not in KEEPERS), None):
        raise BadInput(f"{unknown!r} is not one of {', '.join(KEEPERS)}")
    from rich.console import Group

    from propeller.cli.tables import facts

    found: dict[str, dict[str, str]] = {}
    with session(ctx).client() as client:
        for role in roles or KEEPERS:
            if policy:
                kinds = client.retention(role).policy
                found[role] = {
                    kind: f"the last {one.keep_last}, and {one.max_age_s / _DAY_S:g} days"
                    for kind, one in kinds.items()
                }
            else:
                gone = client.retention(role).surplus if dry_run else client.sweep(role).deleted
                found[role] = {kind: str(count) for kind, count in gone.items()}
    session(ctx).show(
        found, table=lambda shown: Group(*(facts({"role": role, **kinds}) for role, kinds in shown.items()))
    )


def _status(client: "Client", role: str) -> str:
    from propeller.errors import PeerUnavailable

    try:
        return str(client.health(role)["status"])
    except PeerUnavailable:
        return DOWN


def show_logs(
    role: Annotated[str, typer.Argument(help="manager, coordinator, …, broker, up, or proplet1 …")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    round_id: Annotated[str, typer.Option("--round", help="Only lines about this round.")] = "",
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Of the system (.propeller, or $PROPELLER_DATA_DIR).")
    ] = None,
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
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Of the system (.propeller, or $PROPELLER_DATA_DIR).")
    ] = None,
) -> None:
    """Copy all that `up` keeps into one file, running or not."""
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
    """Make a data directory from a backup, for `up` to go on."""
    from propeller.roles import backup as work
    from propeller.roles.layout import data_dir as found

    with working(f"Restoring from {file}"):
        saved = work.restore(file, found(data_dir, os.environ))
    session(ctx).show(saved)


def version(ctx: typer.Context) -> None:
    """This release."""
    from propeller import __version__

    session(ctx).show(__version__)
