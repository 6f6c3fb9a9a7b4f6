"""`propeller provision …`: identities, without a question."""

import os
from pathlib import Path
from typing import Annotated

import typer

from propeller.cli.session import Output, session

app = typer.Typer(help="Make identities and credentials.", invoke_without_command=True)

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Whose broker lets them in (.propeller, or $PROPELLER_DATA_DIR)."),
]
FileName = Annotated[Path, typer.Option("--file-name", "-f", help="Where the keys are written.")]


@app.callback()
def provision(
    ctx: typer.Context,
    file_name: FileName = Path("config.toml"),
    data_dir: DataDir = None,
    proplets: Annotated[int, typer.Option("--proplets", min=0, help="How many.")] = 1,
    domain: Annotated[str, typer.Option("--domain", help="Otherwise a UUID.")] = "",
    channel: Annotated[str, typer.Option("--channel", help="Otherwise a UUID.")] = "",
    broker: Annotated[str, typer.Option("--broker", help="embedded or mosquitto")] = "embedded",
    host: Annotated[str, typer.Option("--host", help="Address the broker will listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--mqtt-port", min=1, max=65535, help="Port the broker will listen on.")
    ] = 1883,
    advertise: Annotated[str, typer.Option("--advertise", help="Address that proplets use.")] = "localhost",
) -> None:
    """Make a domain, a channel, and credentials for manager, coordinator, operator and proplets.

    Running it again keeps what is there and adds what is missing.
    """
    if ctx.invoked_subcommand is not None:
        return
    from propeller.roles.provisioning import FromNothing, from_nothing

    made = from_nothing(
        FromNothing(
            path=file_name, proplets=proplets, domain=domain, channel=channel, broker=broker, host=host,
            port=port, advertise=advertise,
        ),
        data_dir,
        os.environ,
    )  # fmt: skip
    _show(ctx, made.ids, made.next_steps)


@app.command("add-proplets")
def add_proplets(
    ctx: typer.Context,
    count: Annotated[int, typer.Argument(metavar="N", min=1)],
    file_name: Annotated[
        Path | None, typer.Option("--file-name", "-f", help="Where the keys are written.")
    ] = None,
    data_dir: DataDir = None,
    legacy: Annotated[bool, typer.Option("--legacy", help="For proplets of the original system.")] = False,
) -> None:
    """Make N more proplets for a system that runs, or will.

    Its broker accepts them at once.
    """
    from propeller.roles.provisioning import add

    # The group has both options too, and a user does not know which of the two words they belong to.
    group = ctx.parent.params if ctx.parent is not None else {}
    path = file_name or group.get("file_name") or Path("config.toml")
    made = add(path, count, data_dir or group.get("data_dir"), os.environ, legacy=legacy)
    _show(ctx, made.ids, made.next_steps)


def _show(ctx: typer.Context, ids: dict[str, str], steps: list[str]) -> None:
    if session(ctx).output is Output.JSON:
        session(ctx).show(ids)
        return
    width = max(map(len, ids), default=0)
    for section, principal in ids.items():
        typer.echo(f"{section:<{width}}  {principal}")
    typer.echo("\n".join(["", *steps]))
