"""`propeller fl …`: single rounds and updates by hand; `cli.experiments` adds the commands on experiments."""

from pathlib import Path
from typing import Annotated

import typer

from propeller.cli.session import commas, json_option, read_bytes, session

app = typer.Typer(help="Configure and watch federated learning.", no_args_is_help=True)

RoundOption = Annotated[str, typer.Option("--round-id", help="The round.")]
RoundArgument = Annotated[str, typer.Argument(metavar="ROUND")]
PropletOption = Annotated[str | None, typer.Option("--proplet-id", help="The participant.")]


@app.command()
def configure(
    ctx: typer.Context,
    experiment_id: Annotated[str, typer.Option("--experiment-id", help="A name for it.")],
    participants: Annotated[str, typer.Option("--participants", help="Proplet ids, comma list.")],
    task_wasm_image: Annotated[str, typer.Option("--task-wasm-image", help="The trainer's image.")],
    model_ref: Annotated[
        str, typer.Option("--model-ref", help="The model version that it begins from.")
    ] = "fl/models/global_model_v0",
    round_id: Annotated[str | None, typer.Option("--round-id", help="The round.")] = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, help="How many; otherwise one."),
    ] = None,
    hyperparams: Annotated[str | None, typer.Option("--hyperparams", help="JSON, or @FILE.")] = None,
    k_of_n: Annotated[
        int | None, typer.Option("--k-of-n", min=0, help="So many updates close a round; otherwise all.")
    ] = None,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout-s", min=0, help="Seconds until a round ends with what it has.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="What draws and trainers' seeds follow from.")
    ] = None,
) -> None:
    """Begin an experiment of one round, or of `--rounds`."""
    from propeller.wire.experiments import ExperimentBody

    body = ExperimentBody(
        experiment_id=experiment_id,
        round_id=round_id,
        model_ref=model_ref,
        participants=commas(participants) or [],
        task_wasm_image=task_wasm_image,
        rounds=rounds,
        hyperparams=json_option(hyperparams, "--hyperparams"),
        k_of_n=k_of_n,
        timeout_s=timeout_s,
        seed=seed,
    )
    with session(ctx).client() as client:
        session(ctx).show(client.fl.configure(body))


@app.command()
def strategies(ctx: typer.Context) -> None:
    """The strategies of this installation.

    Those of installed packages are among them.
    """
    from propeller.cli.tables import rows
    from propeller.fl.strategies.registry import offered

    shown = [
        {
            "name": name,
            "needs": one.needs,
            "state": ", ".join(one.slots),
            "options": {option: number.default for option, number in one.options.items()},
        }
        for name, one in offered().items()
    ]
    session(ctx).show(shown, table=rows)


@app.command()
def task(ctx: typer.Context, round_id: RoundOption, proplet_id: PropletOption = None) -> None:
    """What a participant of a round is asked to do."""
    with session(ctx).client() as client:
        session(ctx).show(client.fl.task(round_id, proplet_id))


@app.command()
def update(
    ctx: typer.Context,
    round_id: RoundOption,
    proplet_id: Annotated[str, typer.Option("--proplet-id", help="The participant.")],
    num_samples: Annotated[int, typer.Option("--num-samples", help="Rows that it was trained on.")],
    model: Annotated[str, typer.Option("--update", help="JSON, or @FILE.")],
    base_model_uri: Annotated[
        str, typer.Option("--base-model-uri", help="The version it was trained from; otherwise the round's.")
    ] = "",
    metrics: Annotated[str | None, typer.Option("--metrics", help="JSON, or @FILE.")] = None,
) -> None:
    """Submit an update by hand."""
    from propeller.wire.experiments import UpdateBody

    body = UpdateBody(
        round_id=round_id,
        proplet_id=proplet_id,
        num_samples=num_samples,
        update=json_option(model, "--update") or {},
        base_model_uri=base_model_uri,
        metrics=json_option(metrics, "--metrics"),
    )
    with session(ctx).client() as client:
        session(ctx).show(client.fl.update(body))


@app.command("update-cbor")
def update_cbor(ctx: typer.Context, file: Path) -> None:
    """Submit an update that is a file of CBOR."""
    with session(ctx).client() as client:
        session(ctx).show(client.fl.update_cbor(read_bytes(file)))


@app.command("round-status")
def round_status(ctx: typer.Context, round_id: RoundArgument) -> None:
    """How far a round is."""
    with session(ctx).client() as client:
        session(ctx).show(client.fl.round_status(round_id))
