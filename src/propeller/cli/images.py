"""`propeller image …`: Wasm modules in OCI registries."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from propeller.cli.session import read_bytes, session, working
from propeller.errors import BadInput

if TYPE_CHECKING:
    from propeller.roles.images import Access

WASM_MAGIC = b"\0asm"

app = typer.Typer(help="Push, pull and look at Wasm images.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(help="HOST[:PORT]/NAME[:TAG]", metavar="REFERENCE")]
Insecure = Annotated[
    list[str] | None, typer.Option("--insecure", help="HOST[:PORT] over plain HTTP; loopback always is.")
]
User = Annotated[
    str, typer.Option("--username", envvar="PROPELLER_REGISTRY_USERNAME", help="Of the registry.")
]
Password = Annotated[
    str, typer.Option("--password", envvar="PROPELLER_REGISTRY_PASSWORD", help="Of the registry.")
]
Auth = Annotated[
    Path | None,
    typer.Option(
        "--registry-auth",
        envvar="REGISTRY_AUTH_FILE",
        help="Credentials as in Docker's config.json, which is read by default.",
    ),
]


@app.command()
def push(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.wasm")],
    reference: Reference,
    insecure: Insecure = None,
    username: User = "",
    password: Password = "",
    auth: Auth = None,
) -> None:
    """Store a .wasm file as an image, and print its digest."""
    from propeller.roles.images import push_module

    access = _access(insecure, username, password, auth)
    module = read_bytes(file)
    if not module.startswith(WASM_MAGIC):
        raise BadInput(f"{file} is no Wasm module: it does not begin with 00 61 73 6d")
    with working(f"Pushing {len(module):,} bytes to {reference}"):
        pushed = push_module(reference, module, title=file.name, access=access)
    session(ctx).show(pushed)


@app.command()
def pull(
    ctx: typer.Context,
    reference: Reference,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE.wasm]", help="By default named as the image.")
    ] = None,
    insecure: Insecure = None,
    username: User = "",
    password: Password = "",
    auth: Auth = None,
) -> None:
    """Write an image's module to a file, its digests checked."""
    from propeller.roles.images import pull_module

    access = _access(insecure, username, password, auth)
    with working(f"Pulling {reference}"):
        pulled = pull_module(reference, file, access=access)
    session(ctx).show(pulled)


@app.command("ls")
def ls(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="HOST[:PORT][/NAME]", help="A registry, or one of its repositories.")
    ] = "localhost:5000",
    insecure: Insecure = None,
    username: User = "",
    password: Password = "",
    auth: Auth = None,
) -> None:
    """A registry's repositories, or a repository's tags."""
    from propeller.roles.images import list_images

    session(ctx).show(list_images(name, access=_access(insecure, username, password, auth)))


@app.command()
def inspect(
    ctx: typer.Context,
    reference: Reference,
    insecure: Insecure = None,
    username: User = "",
    password: Password = "",
    auth: Auth = None,
) -> None:
    """An image's digest and manifest."""
    from propeller.roles.images import inspect_image

    session(ctx).show(inspect_image(reference, access=_access(insecure, username, password, auth)))


@app.command("rm")
def rm(
    ctx: typer.Context,
    reference: Reference,
    insecure: Insecure = None,
    username: User = "",
    password: Password = "",
    auth: Auth = None,
) -> None:
    """Delete an image, with all tags that name it."""
    from propeller.roles.images import remove_image

    session(ctx).show(remove_image(reference, access=_access(insecure, username, password, auth)))


def _access(insecure: list[str] | None, username: str, password: str, auth: Path | None) -> "Access":
    from propeller.roles.images import Access

    return Access(
        insecure=tuple(insecure or ()), username=username, password=password, auth=auth or _docker_file()
    )


def _docker_file() -> Path | None:
    """Where Docker keeps credentials, if it does."""
    home = os.environ.get("DOCKER_CONFIG")
    path = (Path(home) if home else Path("~/.docker").expanduser()) / "config.json"
    return path if path.is_file() else None
