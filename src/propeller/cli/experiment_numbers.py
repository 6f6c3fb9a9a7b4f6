"""`propeller fl plot` and `export`: an experiment's numbers, taken away for a picture or for other programs.

An experiment may be named by its own id or by that of the federated task that stands for it.
"""

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from propeller.cli.session import session
from propeller.errors import BadInput, NotFound, Unsupported

if TYPE_CHECKING:
    from propeller.client import Client
    from propeller.wire.experiments import MetricRow

_PLAIN = (
    "number",
    "round_id",
    "mode",
    "state",
    "model_version",
    "num_updates",
    "samples",
    "bytes",
    "seconds",
)
"""The columns of an export that are no metrics."""

Id = Annotated[str, typer.Argument(metavar="EXPERIMENT")]
To = Annotated[Path | None, typer.Option("--to", help="Write this file.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(plot)
    app.command()(export)


def named(client: "Client", name: str) -> str:
    """The experiment's id, also if `name` is the federated task's; any other name as it is."""
    try:
        task = client.tasks.view(name)
    except NotFound:
        return name
    return task.experiment_id or name


def plot(
    ctx: typer.Context,
    experiment_id: Id,
    metric: Annotated[str, typer.Option("--metric", help="Otherwise the first that was measured.")] = "",
    to: To = None,
) -> None:
    """Draw a metric over the rounds.

    As bars, or with `--to FILE.png` as a picture.
    """
    from propeller.cli.tables_of_training import Bars

    with session(ctx).client() as client:
        chosen, points = _points(client.fl.metrics(named(client, experiment_id)).rows, metric)
    if to is None:
        session(ctx).show(Bars(metric=chosen, points=points))
        return
    _picture(experiment_id, chosen, points, to)
    session(ctx).show(f"wrote {to}")


def export(
    ctx: typer.Context,
    experiment_id: Id,
    form: Annotated[str, typer.Option("--format", help="json: everything; csv: rounds in numbers.")] = "json",
    to: To = None,
) -> None:
    """All that is known of an experiment, for other programs."""
    if form not in {"json", "csv"}:
        raise BadInput(f"--format is {form!r}; it can be json or csv")
    with session(ctx).client() as client:
        known = named(client, experiment_id)
        text = _csv(client.fl.metrics(known).rows) if form == "csv" else _json(client, known)
    if to is None:
        typer.echo(text, nl=False)
        return
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {to}: {error.strerror or error}") from error
    session(ctx).show(f"wrote {to}")


def _points(rows: list["MetricRow"], metric: str) -> tuple[str, list[tuple[int, float]]]:
    """A metric's name and its values by round: of evaluations where they have it, else of the training."""
    chosen = metric or next((name for row in rows for name in sorted(row.metrics)), "")
    for mode in ("evaluate", "train"):
        measured = (row for row in rows if row.mode == mode and chosen in row.metrics)
        found = [(row.number, row.metrics[chosen]) for row in measured]
        if found:
            return chosen, found
    raise NotFound(f"no round has the metric {chosen!r}" if chosen else "nothing is measured yet")


def _picture(experiment_id: str, metric: str, points: list[tuple[int, float]], to: Path) -> None:
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise Unsupported("pictures need matplotlib: pip install 'propeller[demo]'") from error
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot(xlabel="round", ylabel=metric, title=experiment_id)
    axes.plot([number for number, _ in points], [value for _, value in points], marker=".")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    try:
        figure.savefig(to)
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot write {to}: {getattr(error, 'strerror', None) or error}") from error


def _csv(rows: list["MetricRow"]) -> str:
    names = sorted({name for row in rows for name in row.metrics})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_PLAIN, *names])
    for row in rows:
        values = ["" if (value := getattr(row, name)) is None else value for name in _PLAIN]
        writer.writerow([*values, *(row.metrics.get(name, "") for name in names)])
    return text.getvalue()


def _json(client: "Client", experiment_id: str) -> str:
    import msgspec

    rows = client.fl.metrics(experiment_id).rows
    whole = {
        "experiment": client.fl.experiment(experiment_id),
        "rounds": [client.fl.round(row.round_id) for row in rows],
        "participants": client.fl.participants(experiment_id).participants,
    }
    plain = msgspec.json.decode(msgspec.json.encode(whole))
    plain["experiment"].pop("history", None)
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
