"""`propeller models …`: versions in the model registry."""

from pathlib import Path
from typing import Annotated

import typer

from propeller.cli.session import json_option, session

app = typer.Typer(help="List, fetch and store model versions.", no_args_is_help=True)

Name = Annotated[str, typer.Option("--name", help="Which model.")]


@app.command("list")
def list_models(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Option("--name", help="The versions of this model.")] = None,
) -> None:
    """The models there are, or the versions of one."""
    with session(ctx).client() as client:
        session(ctx).show(client.models.versions(name) if name else client.models.list())


@app.command()
def get(
    ctx: typer.Context,
    version: int,
    name: Name = "global_model",
    info: Annotated[bool, typer.Option("--info", help="Where it came from, not its tensors.")] = False,
) -> None:
    """One version, bare."""
    with session(ctx).client() as client:
        found = client.models.info(version, name=name) if info else client.models.get(version, name=name)
        session(ctx).show(found)


@app.command()
def post(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help='JSON such as {"w":[0,0,0],"b":0}')],
    name: Name = "global_model",
    version: Annotated[int | None, typer.Option("--version", help="Otherwise the next one.")] = None,
) -> None:
    """Store a version."""
    from propeller.wire.models import StoreModel

    model = json_option(f"@{file}", "FILE") or {}
    with session(ctx).client() as client:
        session(ctx).show(client.models.post(StoreModel(model=model, name=name, version=version)))
