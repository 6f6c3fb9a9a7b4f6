"""`propeller image …`: Wasm modules in OCI registries."""

from pathlib import Path
from typing import Annotated

import typer

from propeller.cli.session import read_bytes, session

app = typer.Typer(help="Push and inspect Wasm images.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(help="HOST[:PORT]/NAME[:TAG]", metavar="REFERENCE")]
Insecure = Annotated[
    list[str] | None, typer.Option("--insecure", help="HOST[:PORT] over plain HTTP; loopback always is.")
]
User = Annotated[str, typer.Option("--username", envvar="PROPELLER_REGISTRY_USERNAME")]
Password = Annotated[str, typer.Option("--password", envvar="PROPELLER_REGISTRY_PASSWORD")]


@app.command()
def push(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.wasm")],
    reference: Reference,
    insecure: Insecure = None,
    username: User = "",
    password: Password = "",
) -> None:
    """Store a .wasm file as an image, and print its digest."""
    from propeller.roles.images import Access, push_module

    access = Access(insecure=tuple(insecure or ()), username=username, password=password)
    session(ctx).show(push_module(reference, read_bytes(file), title=file.name, access=access))


@app.command()
def inspect(
    ctx: typer.Context,
    reference: Reference,
    insecure: Insecure = None,
    username: User = "",
    password: Password = "",
) -> None:
    """An image's digest and manifest."""
    from propeller.roles.images import Access, inspect_image

    access = Access(insecure=tuple(insecure or ()), username=username, password=password)
    session(ctx).show(inspect_image(reference, access=access))
