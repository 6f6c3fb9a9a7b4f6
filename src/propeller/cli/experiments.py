"""`propeller fl …` on experiments: run one from a file, watch and steer it.

An experiment may be named by its own id or by that of the federated task that stands for it.
"""

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from propeller.cli.experiment_numbers import Id, named
from propeller.cli.session import Limit, Offset, commas, json_option, read_bytes, session
from propeller.errors import BadInput, NotFound, PeerRefused

if TYPE_CHECKING:
    from propeller.client import Client
    from propeller.wire.experiments import ExperimentBody, MetricRow

Timeout = Annotated[float, typer.Option("--timeout-s", help="Seconds to wait for the end.")]


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
        found = client.fl.rounds_of(named(client, experiment_id), offset=offset, limit=limit)
        session(ctx).show(found)


def models(ctx: typer.Context, experiment_id: Id) -> None:
    """The model versions that it made, and what was measured."""
    from propeller.cli.tables_of_training import Records

    with session(ctx).client() as client:
        rows = client.fl.metrics(named(client, experiment_id)).rows
        session(ctx).show(Records(rows=_models(rows)))


def participants(ctx: typer.Context, experiment_id: Id) -> None:
    """Who took part, and what each sent."""
    with session(ctx).client() as client:
        session(ctx).show(client.fl.participants(named(client, experiment_id)))


def pause(ctx: typer.Context, experiment_id: Id) -> None:
    """Let no further round begin.

    The one under way goes on to its end.
    """
    with session(ctx).client() as client:
        client.fl.pause(named(client, experiment_id))
    session(ctx).done()


def resume(ctx: typer.Context, experiment_id: Id) -> None:
    """Go on after a pause."""
    with session(ctx).client() as client:
        client.fl.resume(named(client, experiment_id))
    session(ctx).done()


def stop(ctx: typer.Context, experiment_id: Id) -> None:
    """End it, and the round that is under way."""
    with session(ctx).client() as client:
        client.fl.stop(named(client, experiment_id))
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
        known = named(client, name)
        if _is_experiment(client, known):
            _follow(ctx, client, known, timeout_s)
        else:
            _follow_round(ctx, client, name, timeout_s)


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


def _follow(ctx: typer.Context, client: "Client", experiment_id: str, timeout_s: float) -> None:
    for row in client.fl.follow_experiment(experiment_id, timeout_s=timeout_s):
        session(ctx).show(row)
    found = client.fl.experiment(experiment_id)
    session(ctx).show(found)
    if found.state != "completed":
        raise PeerRefused(f"experiment {experiment_id} {found.state}: {found.reason}", code="not_completed")


def _is_experiment(client: "Client", name: str) -> bool:
    try:
        client.fl.experiment(name)
    except NotFound:
        return False
    return True


def _follow_round(ctx: typer.Context, client: "Client", round_id: str, timeout_s: float) -> None:
    try:
        client.fl.round_status(round_id)
    except NotFound as error:
        raise NotFound(
            f"there is no experiment and no round {round_id!r}; `propeller fl list` shows the experiments, "
            "`propeller fl rounds EXPERIMENT` its rounds",
            code=error.reason,
        ) from error
    for seen in client.fl.follow(round_id, timeout_s=timeout_s):
        session(ctx).show(seen)
        if seen.state == "failed":
            raise PeerRefused(f"round {round_id} failed: {seen.reason}", code="round_failed")


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
