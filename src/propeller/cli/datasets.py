"""`propeller datasets …`: what a site's data store keeps."""

from pathlib import Path
from typing import Annotated

import typer

from propeller.cli.session import json_file, session

app = typer.Typer(help="List, fetch and store data sets.", no_args_is_help=True)

PropletId = Annotated[str, typer.Argument(metavar="PROPLET")]


@app.command("list")
def list_datasets(ctx: typer.Context) -> None:
    """The proplets that have a data set."""
    with session(ctx).client() as client:
        session(ctx).show(client.datasets.list())


@app.command()
def get(ctx: typer.Context, proplet_id: PropletId) -> None:
    """A proplet's data set."""
    with session(ctx).client() as client:
        session(ctx).show(client.datasets.get(proplet_id))


@app.command()
def post(
    ctx: typer.Context,
    proplet_id: PropletId,
    file: Annotated[Path, typer.Argument(help='JSON such as {"data":[{"x":[1,2],"y":0}]}')],
) -> None:
    """Store a proplet's data set, replacing what was there."""
    document = json_file(file)
    with session(ctx).client() as client:
        session(ctx).show(client.datasets.put(proplet_id, document))
