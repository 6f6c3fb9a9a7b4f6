"""`propeller trainer …`: begin a trainer of one's own, and see whether a module is one."""

from pathlib import Path
from typing import Annotated

import typer

from propeller.cli.session import json_option, session

app = typer.Typer(help="Begin a trainer, and check one.", no_args_is_help=True)


@app.command()
def new(
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    lang: Annotated[str, typer.Option("--lang", "-l", help="c, go, …; an unknown one names them all.")] = "c",
) -> None:
    """Write a project that builds a trainer.

    Run `make` there, then `propeller trainer check trainer.wasm`.
    """
    from propeller.roles.trainer_new import create

    for path in create(lang, directory):
        typer.echo(path)


@app.command()
def check(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.wasm", exists=True, dir_okay=False)],
    model: Annotated[str | None, typer.Option(help="A model that it takes, JSON or @FILE.")] = None,
    data: Annotated[str | None, typer.Option(help="Data that it takes, JSON or @FILE.")] = None,
    hyperparams: Annotated[str | None, typer.Option(help="Hyperparameters, JSON or @FILE.")] = None,
) -> None:
    """Run a trainer on a small example and say how it keeps to the ABI. Exits with 1 unless it does.

    Without --model it is tried on a logistic regression and a small perceptron.
    """
    import asyncio
    from dataclasses import asdict

    from propeller.cli.session import Output
    from propeller.roles.trainer_check import DATA, HYPERPARAMS, MODELS, Example
    from propeller.roles.trainer_check import check as examine

    given = json_option(model, "--model")
    models = {"given model": given} if given is not None else MODELS
    examples = [
        Example(
            name=name,
            model=one,
            data=json_option(data, "--data") or DATA,
            hyperparams=json_option(hyperparams, "--hyperparams") or HYPERPARAMS,
        )
        for name, one in models.items()
    ]
    found = asyncio.run(examine(file.read_bytes(), examples))
    good = all(one.good for one in found if one.needed)
    if session(ctx).output is Output.JSON:
        shown = [asdict(one) for one in found]
        session(ctx).show({"good": good, "findings": shown})
    else:
        for one in found:
            mark = "ok  " if one.good else ("FAIL" if one.needed else "no  ")
            typer.echo(f"{mark}  {one.what}" + (f"  ({one.detail})" if one.detail else ""))
    if not good:
        raise typer.Exit(1)
