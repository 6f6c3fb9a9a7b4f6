"""The program: its global options, and every noun's commands under one name. It runs none of them itself."""

from typing import Annotated

import typer

from propeller.cli import (
    data,
    datasets,
    demo,
    emulate,
    experiment_numbers,
    experiments,
    fl,
    flows,
    images,
    models,
    proplets,
    provision,
    roles,
    schedules,
    services,
    sim,
    system,
    tasks,
    trainer,
)
from propeller.cli.session import Output, Session

app = typer.Typer(
    name="propeller",
    help="Orchestrate WebAssembly workloads and federated learning.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ASKING = frozenset(
    {"tasks", "proplets", "jobs", "workflows", "schedules", "fl", "models", "datasets", "health", "image"}
    | {"provision", "version", "data", "scale", "rollout", "retention"}
)
"""Nouns that ask or tell: the global options may stand anywhere on their line."""
_GLOBAL = frozenset(
    {
        "-m",
        "--manager-url",
        "--coordinator-url",
        "--aggregator-url",
        "--model-registry-url",
        "--data-store-url",
        "--registry-url",
        "-o",
        "--output",
    }
)


@app.callback()
def program(
    ctx: typer.Context,
    manager_url: Annotated[
        str, typer.Option("--manager-url", "-m", envvar="MANAGER_URL", help="Where the manager answers.")
    ] = "http://localhost:7070",
    coordinator_url: Annotated[
        str, typer.Option(envvar="COORDINATOR_URL", help="Where it answers.")
    ] = "http://localhost:8086",
    aggregator_url: Annotated[
        str, typer.Option(envvar="AGGREGATOR_URL", help="Where it answers.")
    ] = "http://localhost:8085",
    model_registry_url: Annotated[
        str, typer.Option(envvar="MODEL_REGISTRY_URL", help="Where it answers.")
    ] = "http://localhost:8084",
    data_store_url: Annotated[
        str, typer.Option(envvar="DATA_STORE_URL", help="Where it answers.")
    ] = "http://localhost:8083",
    registry_url: Annotated[
        str, typer.Option(envvar="REGISTRY_URL", help="Where the OCI registry answers.")
    ] = "http://localhost:5000",
    output: Annotated[Output, typer.Option("--output", "-o", help="For people or programs.")] = Output.TABLE,
) -> None:
    """Orchestrate WebAssembly workloads and federated learning, from cloud servers to microcontrollers."""
    ctx.obj = Session(
        output=output,
        urls={
            "manager": manager_url,
            "coordinator": coordinator_url,
            "aggregator": aggregator_url,
            "model_registry": model_registry_url,
            "data_store": data_store_url,
            "registry": registry_url,
        },
    )


roles.add_to(app)
experiments.add_to(fl.app)
experiment_numbers.add_to(fl.app)
demo.add_to(app)
emulate.add_to(app)
app.add_typer(tasks.app, name="tasks")
app.add_typer(proplets.app, name="proplets")
app.add_typer(flows.jobs, name="jobs")
app.add_typer(flows.workflows, name="workflows")
app.add_typer(schedules.app, name="schedules")
services.add_to(app)
app.add_typer(fl.app, name="fl")
app.add_typer(images.app, name="image")
app.add_typer(models.app, name="models")
app.add_typer(datasets.app, name="datasets")
app.add_typer(data.app, name="data")
app.add_typer(provision.app, name="provision")
app.add_typer(sim.app, name="sim")
app.add_typer(trainer.app, name="trainer")
system.add_to(app)


def hoisted(arguments: list[str]) -> list[str]:
    """`arguments` with global options that follow an asking noun moved to the front, where they are read."""
    noun = next((index for index, item in enumerate(arguments) if item in ASKING), None)
    if noun is None:
        return arguments
    front, rest = arguments[:noun], []
    later = iter(arguments[noun:])
    for item in later:
        if item == "--":
            rest += [item, *later]
        elif item in _GLOBAL:
            front += [item, *([value] if (value := next(later, None)) is not None else [])]
        elif item.partition("=")[0] in _GLOBAL:
            front.append(item)
        else:
            rest.append(item)
    return front + rest
