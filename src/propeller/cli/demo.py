"""`propeller demo`: the whole story in one command."""

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How many.")] = 20,
    proplets: Annotated[int, typer.Option("--proplets", min=1, help="Hospitals that share no patients.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw a PNG here.")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Otherwise a temporary one.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Do not remove the temporary directory.")] = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="What the split and the trainers follow from.")
    ] = 0,
) -> None:
    """Start everything, train a real model, compare, and stop.

    A real model is trained over proplets that share no data, and compared with one trained centrally.
    """
    from propeller.roles.demo import Wishes, run_demo

    run_demo(
        Wishes(
            rounds=rounds,
            proplets=proplets,
            as_json=as_json,
            plot=plot,
            data_dir=data_dir,
            keep=keep,
            seed=seed,
        )
    )
