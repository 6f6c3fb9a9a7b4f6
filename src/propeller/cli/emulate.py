"""`propeller emulate`: fleets of emulated devices, and the console of each."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from propeller.roles.emulate_wishes import Wishes


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(emulate)


def emulate(
    experiment: Annotated[
        str | None, typer.Argument(help="A TOML file with [experiment] and [sweep]; or: console N.")
    ] = None,
    number: Annotated[int | None, typer.Argument(help="Of the device, after `console`.")] = None,
    devices: Annotated[int | None, typer.Option("--devices", min=1, help="How many.")] = None,
    board: Annotated[
        str | None,
        typer.Option(
            "--board",
            help="qemu_x86, mps2_an385, linux-x86_64, linux-aarch64, plain; or qemu_x86=8,linux-x86_64=2",
        ),
    ] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Of each device, such as 15M.")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="How many.")] = None,
    clients: Annotated[int | None, typer.Option("--clients", help="Per round, drawn anew; 0 is all.")] = None,
    enough: Annotated[
        str | None, typer.Option("--enough", help="Share of updates that closes a round.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Of training on each device in a round.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Rows of one step of training.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Dirichlet split; 0 deals evenly.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="What the split, draws and trainers follow from.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="As `propeller fl strategies` lists them.")
    ] = None,
    interval: Annotated[str | None, typer.Option("--interval", help="Between the starts of rounds.")] = None,
    timeout: Annotated[str | None, typer.Option("--timeout", help="Of a round.")] = None,
    heartbeat: Annotated[str | None, typer.Option("--heartbeat", help="Of the devices.")] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="Packet loss, such as 10%.")] = None,
    delay: Annotated[str | None, typer.Option("--delay", help="One way, such as 50ms.")] = None,
    bandwidth: Annotated[
        str | None, typer.Option("--bandwidth", help="A device's, such as 20kB a second.")
    ] = None,
    churn: Annotated[
        str | None, typer.Option("--churn", help="Share that dies in a round and returns.")
    ] = None,
    cpu_share: Annotated[str | None, typer.Option("--cpu-share", help="Of a core, for each device.")] = None,
    network: Annotated[str, typer.Option("--network", help="auto, bridge or user")] = "auto",
    firmware: Annotated[
        Path | None,
        typer.Option(
            "--firmware", help="Where the firmware is built, or below it by board; else it is built."
        ),
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--results", help="Append a JSON line for each run.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw a PNG of all runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Consoles and logs (.propeller-fleet).")
    ] = None,
) -> None:
    """Train on a fleet of emulated devices.

    Makes services, network, devices and rounds, and leaves nothing behind.
    """
    from propeller.roles import emulate_wishes as wanted
    from propeller.roles.emulate_command import Command, attach_to, run_command

    if experiment == "console":
        attach_to(data_dir, number)
        return
    plain = {
        "devices": devices, "board": board, "rounds": rounds, "clients": clients, "epochs": epochs,
        "batch": batch, "lr": lr, "alpha": alpha, "seed": seed, "strategy": strategy,
    }  # fmt: skip
    read: dict[str, Any] = {
        "memory_mb": memory and wanted.megabytes_of(memory), "enough": enough and wanted.share_of(enough),
        "interval_s": interval and wanted.seconds_of(interval),
        "timeout_s": timeout and wanted.seconds_of(timeout),
        "heartbeat_s": heartbeat and wanted.seconds_of(heartbeat), "loss": loss and wanted.share_of(loss),
        "delay_s": delay and wanted.seconds_of(delay), "bytes_per_s": bandwidth and wanted.rate_of(bandwidth),
        "churn": churn and wanted.share_of(churn), "cpu_share": cpu_share and wanted.share_of(cpu_share),
    }  # fmt: skip
    wishes: Wishes = wanted.Wishes(
        **{name: value for name, value in (plain | read).items() if value is not None}
    )
    run_command(
        Command(
            wishes=wishes,
            file=Path(experiment) if experiment else None,
            network=network,
            firmware=firmware,
            results=results,
            plot=plot,
            as_json=as_json,
            data_dir=data_dir,
        )
    )
