"""`propeller data …`: real data sets to begin with, split over clients, as files or into a data store."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from propeller.cli.session import Session, commas, session
from propeller.errors import BadInput, EnvironmentError_

app = typer.Typer(help="Real data sets: list them, get one, split one.", no_args_is_help=True)


class Partition(StrEnum):
    """How rows are dealt."""

    IID = "iid"
    DIRICHLET = "dirichlet"
    SHARDS = "shards"
    NATURAL = "natural"


Name = Annotated[str, typer.Argument(metavar="NAME", help="As `propeller data list` shows it.")]
Folder = Annotated[Path | None, typer.Option("--from", help="Your own copy, where none is shipped.")]


@app.command("list")
def list_sets(ctx: typer.Context) -> None:
    """The data sets that can be had."""
    from propeller.cli.tables import rows
    from propeller.roles.ready_data import KINDS

    shown = [
        {
            "name": name,
            "rows": kind.rows,
            "features": kind.features,
            "classes": kind.classes,
            "what": kind.title,
            "source": kind.source,
        }
        for name, kind in KINDS.items()
    ]
    session(ctx).show(shown, table=rows)


@app.command()
def get(
    ctx: typer.Context,
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE.json")],
    folder: Folder = None,
) -> None:
    """Write a whole data set, scaled, as one document."""
    from propeller.cli.tables import rows
    from propeller.roles.ready_data import deal

    made = deal(name, 1, hold_out=0.0, folder=folder)
    _write(file, made.clients[0])
    session(ctx).show(_row(str(file), made.clients[0]), table=lambda row: rows([row]))


@app.command()
def partition(
    ctx: typer.Context,
    name: Name,
    clients: Annotated[int, typer.Option(min=1, help="How many parts, unless --to says.")] = 10,
    by: Annotated[Partition, typer.Option(help="natural: a client for each person.")] = Partition.IID,
    alpha: Annotated[float, typer.Option(help="Of dirichlet: the smaller, the more uneven.")] = 0.5,
    shards: Annotated[int, typer.Option(min=1, help="Of shards: so many for each client.")] = 2,
    hold_out: Annotated[float, typer.Option(help="Share of the rows that nobody trains on.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="What the split follows from.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Directory for the parts.")] = None,
    to: Annotated[str | None, typer.Option(help="PROPLET,…: store the parts in the data store.")] = None,
    folder: Folder = None,
) -> None:
    """Split a data set over clients.

    Some rows are held out, the others dealt to clients: into files or a data store, or both.
    """
    from propeller.cli.tables import rows
    from propeller.roles.ready_data import deal

    proplets = commas(to)
    if out is None and not proplets:
        raise BadInput("say where to: --out DIRECTORY, --to PROPLET,…, or both")
    made = deal(
        name,
        len(proplets) if proplets else clients,
        by=by.value,
        seed=seed,
        hold_out=hold_out,
        alpha=alpha,
        per_client=shards,
        folder=folder,
    )
    if proplets and len(proplets) != len(made.clients):
        raise BadInput(f"{name} has {len(made.clients)} parts by {by}, for {len(proplets)} proplets in --to")
    names = proplets or [f"client-{number:02}" for number in range(1, len(made.clients) + 1)]
    parts = dict(zip(names, made.clients, strict=True))
    if out is not None:
        for client, part in {**parts, "held-out": made.held_out}.items():
            _write(out / client / "train.json" if client != "held-out" else out / "held-out.json", part)
    if proplets:
        _store(session(ctx), parts)
    told = [_row(client, part) for client, part in {**parts, "held-out": made.held_out}.items()]
    session(ctx).show(told, table=rows)


def _store(shared: Session, parts: dict[str, dict[str, Any]]) -> None:
    with shared.client() as client:
        for proplet, part in parts.items():
            client.datasets.put(proplet, part)


def _write(path: Path, document: dict[str, Any]) -> None:
    import json

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document) + "\n", encoding="utf-8")
    except OSError as error:
        raise EnvironmentError_(f"cannot write {path}: {error.strerror or error}") from error


def _row(client: str, document: dict[str, Any]) -> dict[str, Any]:
    """One line about a part: its rows, and how many of each label."""
    labels = [row["y"] for row in document["data"]]
    counts = {str(label): labels.count(label) for label in sorted(set(labels))}
    return {"client": client, "rows": len(labels), "labels": counts}
