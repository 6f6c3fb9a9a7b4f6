"""`propeller fl …` on experiments: run one from a file, watch and steer it, take its numbers away.

An experiment may be named by its own id or by that of the federated task that stands for it.
"""

import csv
import io
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from propeller.cli.session import Limit, Offset, commas, json_option, read_bytes, session
from propeller.errors import BadInput, NotFound, PeerRefused, Unsupported

if TYPE_CHECKING:
    from propeller.client import Client
    from propeller.wire.experiments import ExperimentBody, MetricRow

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
Timeout = Annotated[float, typer.Option("--timeout-s", help="Seconds to wait for the end.")]
To = Annotated[Path | None, typer.Option("--to", help="Write this file.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("list")(list_experiments)
    for command in (
        run,
        create,
        status,
        rounds,
        models,
        participants,
        pause,
        resume,
        stop,
        watch,
        plot,
        export,
    ):
        app.command()(command)


def run(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="TOML with the fields of POST /fl/experiments.")],
    follow: Annotated[bool, typer.Option("--watch", help="Print each round; exit 1 if it failed.")] = False,
    who: Annotated[
        str | None, typer.Option("--participants", help="Proplet ids, comma list, instead of the file's.")
    ] = None,
    timeout_s: Timeout = 86_400.0,
) -> None:
    """Begin the experiment that a TOML file describes."""
    import msgspec

    body = experiment_in(read_bytes(file), str(file))
    if who is not None:
        body = msgspec.structs.replace(body, participants=commas(who))
    with session(ctx).client() as client:
        made = client.fl.configure(body)
        if not follow:
            session(ctx).show(made)
            return
        _follow(ctx, client, made.experiment_id, timeout_s)


def create(
    ctx: typer.Context,
    name: str,
    image_url: Annotated[str, typer.Option("--image-url", "-i", help="The trainer's image.")],
    mode: Annotated[str, typer.Option("--mode", help="train, or infer: evaluate the model once.")] = "train",
    model_ref: Annotated[
        str, typer.Option("--model-ref", "-r", help="The model version that it begins from.")
    ] = "fl/models/global_model_v0",
    rounds: Annotated[int, typer.Option("--rounds", "-n", min=1, help="How many.")] = 3,
    clients_per_round: Annotated[
        int, typer.Option("--clients-per-round", "-c", min=0, help="Participants drawn for each round.")
    ] = 2,
    min_clients: Annotated[
        int, typer.Option("--min-clients", "-k", min=0, help="Updates that are enough for a round.")
    ] = 2,
    round_timeout: Annotated[float, typer.Option("--round-timeout", "-t", min=0, help="Seconds.")] = 300.0,
    update_format: Annotated[
        str, typer.Option("--update-format", "-f", help="How updates travel: json-f64, int8-delta, ….")
    ] = "f32-delta",
    local_epochs: Annotated[
        int, typer.Option("--local-epochs", "-e", min=1, help="Of training on each device in a round.")
    ] = 1,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, help="Rows of one step of training.")
    ] = 32,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", min=0, help="What trainers are told as lr.")
    ] = 0.01,
    algorithm: Annotated[str, typer.Option("--algorithm", help="The strategy.")] = "fedavg",
    hyperparams: Annotated[str | None, typer.Option("--hyperparams", help="JSON, or @FILE.")] = None,
    evaluation: Annotated[bool, typer.Option("--evaluation", help="Evaluate each model.")] = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="What draws and trainers' seeds follow from.")
    ] = 0,
    task_id: Annotated[str | None, typer.Option("--id", help="The task's id; otherwise a UUID.")] = None,
) -> None:
    """Store an experiment as a task of kind federated.

    `tasks start` begins it, `fl status` shows it.
    """
    from propeller.wire.tasks import FederatedBody, TaskBody

    if mode not in {"train", "infer"}:
        raise BadInput(f"--mode is {mode!r}; it can be train or infer")
    asked = FederatedBody(
        model_ref=model_ref,
        algorithm=algorithm,
        update_format=update_format,
        total_rounds=rounds,
        clients_per_round=clients_per_round,
        min_participants=min_clients,
        round_timeout_sec=round_timeout,
        hyperparams=json_option(hyperparams, "--hyperparams"),
        local_epochs=local_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        evaluation=evaluation,
    )
    body = TaskBody(name=name, id=task_id, kind="federated", mode=mode, image_url=image_url, fl=asked)
    with session(ctx).client() as client:
        session(ctx).show(client.tasks.create(body))


def status(ctx: typer.Context, experiment_id: Id) -> None:
    """How far an experiment is.

    The id of a federated task that stands for one will do.
    """
    with session(ctx).client() as client:
        try:
            task = client.tasks.view(experiment_id)
        except NotFound:
            session(ctx).show(client.fl.experiment(experiment_id))
            return
        if not task.fl:
            raise BadInput(f"task {experiment_id} stands for no experiment; look at it with `tasks view`")
        session(ctx).show(_handle_view(task))


def list_experiments(ctx: typer.Context, offset: Offset = 0, limit: Limit = 10) -> None:
    """Experiments, newest first."""
    with session(ctx).client() as client:
        session(ctx).show(client.fl.experiments(offset=offset, limit=limit))


def rounds(ctx: typer.Context, experiment_id: Id, offset: Offset = 0, limit: Limit = 100) -> None:
    """Its rounds and evaluations, newest first."""
    with session(ctx).client() as client:
        found = client.fl.rounds_of(_named(client, experiment_id), offset=offset, limit=limit)
        session(ctx).show(found)


def models(ctx: typer.Context, experiment_id: Id) -> None:
    """The model versions that it made, and what was measured."""
    from propeller.cli.tables_of_training import Records

    with session(ctx).client() as client:
        named = _named(client, experiment_id)
        session(ctx).show(Records(rows=_models(client.fl.metrics(named).rows)))


def participants(ctx: typer.Context, experiment_id: Id) -> None:
    """Who took part, and what each sent."""
    with session(ctx).client() as client:
        session(ctx).show(client.fl.participants(_named(client, experiment_id)))


def pause(ctx: typer.Context, experiment_id: Id) -> None:
    """Let no further round begin.

    The one under way goes on to its end.
    """
    with session(ctx).client() as client:
        client.fl.pause(_named(client, experiment_id))
    session(ctx).done()


def resume(ctx: typer.Context, experiment_id: Id) -> None:
    """Go on after a pause."""
    with session(ctx).client() as client:
        client.fl.resume(_named(client, experiment_id))
    session(ctx).done()


def stop(ctx: typer.Context, experiment_id: Id) -> None:
    """End it, and the round that is under way."""
    with session(ctx).client() as client:
        client.fl.stop(_named(client, experiment_id))
    session(ctx).done()


def watch(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT|ROUND")],
    timeout_s: Timeout = 86_400.0,
) -> None:
    """Wait for the end of an experiment or of one round.

    Prints each change, and exits with 1 if it failed.
    """
    with session(ctx).client() as client:
        try:
            _follow(ctx, client, _named(client, name), timeout_s)
        except NotFound:
            for seen in client.fl.follow(name, timeout_s=timeout_s):
                session(ctx).show(seen)
                if seen.state == "failed":
                    raise PeerRefused(f"round {name} failed: {seen.reason}", code="round_failed") from None


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
        chosen, points = _points(client.fl.metrics(_named(client, experiment_id)).rows, metric)
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
        named = _named(client, experiment_id)
        text = _csv(client.fl.metrics(named).rows) if form == "csv" else _json(client, named)
    if to is None:
        typer.echo(text, nl=False)
        return
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {to}: {error.strerror or error}") from error
    session(ctx).show(f"wrote {to}")


# --- the file ---------------------------------------------------------------------------------------------


def experiment_in(content: bytes, where: str) -> "ExperimentBody":
    """The experiment in a TOML file. Raises `BadInput` naming a field that is unknown or of a wrong kind."""
    import msgspec

    from propeller.wire.experiments import ExperimentBody

    try:
        read = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{where} is not TOML: {error}") from error
    known = ExperimentBody.__struct_fields__
    if unknown := next((name for name in read if name not in known), None):
        raise BadInput(f"{where}: no experiment has a field {unknown!r}; there are {', '.join(known)}")
    try:
        return msgspec.convert(read, ExperimentBody)
    except msgspec.ValidationError as error:
        raise BadInput(f"{where}: {error}") from error


# --- what is shown ----------------------------------------------------------------------------------------


def _named(client: "Client", name: str) -> str:
    """The experiment's id, also if `name` is the federated task's; any other name as it is."""
    try:
        task = client.tasks.view(name)
    except NotFound:
        return name
    return task.experiment_id or name


def _follow(ctx: typer.Context, client: "Client", experiment_id: str, timeout_s: float) -> None:
    client.fl.experiment(experiment_id)
    for row in client.fl.follow_experiment(experiment_id, timeout_s=timeout_s):
        session(ctx).show(row)
    found = client.fl.experiment(experiment_id)
    session(ctx).show(found)
    if found.state != "completed":
        raise PeerRefused(f"experiment {experiment_id} {found.state}: {found.reason}", code="not_completed")


def _handle_view(task: Any) -> dict[str, Any]:
    """What the original's `fl status` prints."""
    from propeller.client.tasks import state_of

    shown = {
        "task_id": task.id,
        "name": task.name,
        "state": state_of(task).name.capitalize(),
        "mode": task.mode,
        "job_id": task.experiment_id,
        "total_rounds": task.fl.get("total_rounds"),
        "reason": task.reason,
    }
    results = json.loads(bytes(task.results)) if task.results else {}
    return shown | {"round_id": results.get("round"), "results": results}


def _models(rows: list["MetricRow"]) -> list[dict[str, Any]]:
    measured = {row.number: row.metrics for row in rows if row.mode == "evaluate"}
    return [
        {
            "version": row.model_version,
            "round": row.round_id,
            "trained": row.metrics,
            "evaluated": measured.get(row.number, {}),
        }
        for row in rows
        if row.model_version is not None
    ]


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
    except ImportError as error:
        raise Unsupported("pictures need matplotlib: pip install 'propeller[demo]'") from error
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot(xlabel="round", ylabel=metric, title=experiment_id)
    axes.plot([number for number, _ in points], [value for _, value in points], marker=".")
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
