"""`propeller sim run` and `propeller sim replay`: the deterministic world, from a terminal."""

import json
import sys
import time
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Live through whole days of faults, each from a seed.")


@app.command()
def run(
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many.")] = 500,
    first: Annotated[int, typer.Option("--first", min=0, help="The first of them.")] = 0,
    processes: Annotated[
        int, typer.Option("--processes", "-p", min=1, help="Seeds lived through at once.")
    ] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Live through a day of faults for each seed, and check it.

    The whole system runs in one process, with crashes, losses and repetitions.

    Exits with 1 if a promise was broken; `propeller sim replay SEED` tells the story of that seed.
    """
    from propeller.simulation.world.seeds import live_all

    began_s = time.perf_counter()
    broken = []
    spent_s = 0.0
    for done, verdict in enumerate(live_all(range(first, first + seeds), processes=processes), start=1):
        spent_s += verdict.seconds
        if not verdict.kept:
            broken.append(verdict)
            typer.echo(f"\rseed {verdict.seed}  {verdict.invariant}\n{verdict.told}", err=True)
        if sys.stderr.isatty():
            typer.echo(f"\r{done}/{seeds} seeds, {len(broken)} broken ", err=True, nl=False)
    figures = {
        "seeds": seeds,
        "first": first,
        "broken": [{"seed": one.seed, "invariant": one.invariant} for one in broken],
        "seconds": round(time.perf_counter() - began_s, 2),
        "seconds_per_seed": round(spent_s / seeds, 3),
    }
    if as_json:
        typer.echo(json.dumps(figures))
    else:
        _show(figures)
    if broken:
        raise typer.Exit(1)


@app.command()
def replay(
    seed: Annotated[int, typer.Argument(min=0)],
    quiet_network: Annotated[
        bool, typer.Option("--quiet-network", help="Leave out what happened to single messages.")
    ] = False,
) -> None:
    """Live through one seed again and tell its story.

    Faults (⚡), runs, rounds, and what the roles said.

    Times are virtual seconds since the beginning. Exits with 1 if a promise was broken.
    """
    from propeller.simulation.world.chronicle import Chronicle
    from propeller.simulation.world.seeds import live

    chronicle = Chronicle(full=True)
    verdict = live(seed, chronicle)
    for line in chronicle.lines:
        if not (quiet_network and line.who == "network"):
            typer.echo(str(line))
    if verdict.kept:
        typer.echo(f"seed {seed}: every promise was kept ({verdict.seconds:.2f} s)")
        return
    typer.echo(f"seed {seed}: broken: {verdict.invariant}\n{verdict.told}")
    raise typer.Exit(1)


def _show(figures: dict[str, object]) -> None:
    broken = figures["broken"]
    if isinstance(broken, list) and broken:
        typer.echo(f"{'seed':>8}  broken promise")
        for one in broken:
            typer.echo(f"{one['seed']:>8}  {one['invariant']}")
        typer.echo(f"see what happened: propeller sim replay {broken[0]['seed']}")
    kept = int(str(figures["seeds"])) - (len(broken) if isinstance(broken, list) else 0)
    typer.echo(
        f"{kept} of {figures['seeds']} seeds kept every promise; {figures['seconds']} s, "
        f"{figures['seconds_per_seed']} s of one core each"
    )
