"""`propeller models …`: versions in the model registry."""

from pathlib import Path
from typing import Annotated

import typer

from propeller.cli.session import json_file, session

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
def push(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A number, latest or best.")],
    reference: Annotated[
        str, typer.Argument(metavar="[HOST[:PORT]/NAME[:TAG]]", help="By default where all versions go.")
    ] = "",
    name: Name = "global_model",
) -> None:
    """Push a version to an OCI registry, and print its digest."""
    with session(ctx).client() as client:
        session(ctx).show(client.models.push(version, reference, name=name))


@app.command()
def pull(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="HOST[:PORT]/NAME[:TAG][@DIGEST]")],
    name: Annotated[str, typer.Option("--name", help="Of which model; by default as it was pushed.")] = "",
) -> None:
    """Make an OCI registry's artefact a version of a model here."""
    with session(ctx).client() as client:
        session(ctx).show(client.models.pull(reference, name=name))


@app.command("rm")
def rm(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A number.")],
    name: Name = "global_model",
) -> None:
    """Delete a version for ever, unless anything needs it.

    Its number is not given again.
    """
    with session(ctx).client() as client:
        client.models.delete(version, name=name)
        session(ctx).show({"deleted": f"{name}_v{version}"})


@app.command()
def post(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help='JSON such as {"w":[0,0,0],"b":0}')],
    name: Name = "global_model",
    version: Annotated[int | None, typer.Option("--version", help="Otherwise the next one.")] = None,
) -> None:
    """Store a version."""
    from propeller.wire.models import StoreModel

    model = json_file(file)
    with session(ctx).client() as client:
        session(ctx).show(client.models.post(StoreModel(model=model, name=name, version=version)))
