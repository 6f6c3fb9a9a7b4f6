"""The life of one `propeller emulate`: what is asked for, prepared once, run once or as a sweep, told.

Everything here happens before and after runs; a run itself is `emulate`.
"""

import asyncio
import ctypes
import fcntl
import os
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from propeller.emulation import firmware, gateway
from propeller.emulation.boards import Board, Image
from propeller.emulation.consoles import SOCKET, attach
from propeller.emulation.network import BridgeNetwork, Network, UserNetwork, may_bridge
from propeller.errors import BadInput, Conflict, EnvironmentError_
from propeller.roles.emulate import Outcome, Stage, run_once
from propeller.roles.emulate_plot import draw
from propeller.roles.emulate_wishes import Wishes, checked, of_document
from propeller.roles.process import run

DEFAULT_DIRECTORY: Final = Path(".propeller-fleet")
INTERRUPTED: Final = 130
_PR_SET_THP_DISABLE: Final = 41


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What the command line said; `file` names an experiment with or without a sweep."""

    wishes: Wishes
    file: Path | None
    network: str
    firmware: Path | None
    results: Path | None
    plot: Path | None
    as_json: bool
    data_dir: Path | None


def attach_to(data_dir: Path | None, number: int | None) -> None:
    """Connect the terminal to a device's console."""
    if number is None:
        raise BadInput("say which device: propeller emulate console N")
    asyncio.run(attach(data_dir or DEFAULT_DIRECTORY, number))


def run_command(command: Command) -> None:
    """Run everything that is asked for; exits 130 if it was interrupted."""
    runs = _runs(command)
    directory = (command.data_dir or DEFAULT_DIRECTORY).absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _locked(directory)
    _swept(directory)
    show = Console(file=sys.stderr if command.as_json else sys.stdout, highlight=False, soft_wrap=True)
    boards = {one.name: one for wishes in runs for one in wishes.fleet() if one.emulated}
    images = {name: _image(one, directory, command.firmware, show) for name, one in boards.items()}
    network, runs = _network(command, runs)
    # Huge pages would back a small guest's scattered pages with much more memory than it uses.
    ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    stage = Stage(directory=directory, network=network, images=images, show=show)
    outcomes: list[Outcome] = []
    run(lambda: _all(stage, runs, command, outcomes))
    os.close(lock)
    _tell(command, outcomes, runs)


async def _all(stage: Stage, runs: list[Wishes], command: Command, outcomes: list[Outcome]) -> None:
    for number, wishes in enumerate(runs, start=1):
        if len(runs) > 1:
            stage.show.print(f"\nrun {number} of {len(runs)}")
        outcome = await run_once(stage, wishes)
        outcomes.append(outcome)
        if command.results is not None:
            with command.results.open("ab") as file:
                file.write(msgspec.json.encode(outcome) + b"\n")
        stage.show.print(
            f"{outcome.devices_ready} devices, {outcome.rounds} rounds, accuracy {outcome.accuracy:.3f}, "
            f"round {outcome.round_s_p50:.2f} s, {outcome.device_mb:.1f} MB and {outcome.device_cpu_s:.1f} "
            "processor seconds a device"
        )


def _runs(command: Command) -> list[Wishes]:
    if command.file is None:
        return [checked(command.wishes)]
    try:
        document = tomllib.loads(command.file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read {command.file}: {error.strerror or error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{command.file} is not TOML: {error}") from error
    try:
        return of_document(document, command.wishes)
    except BadInput as error:
        raise BadInput(f"{command.file}: {error.message}") from error


def _locked(directory: Path) -> int:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(f"another fleet runs in {directory}; --data-dir names another place") from None
    return descriptor


def _swept(directory: Path) -> None:
    """Remove what a fleet that was killed has left here."""
    for pattern in ("device*.in", "device*.out", SOCKET):
        for stale in directory.glob(pattern):
            stale.unlink()


def _image(board: Board, directory: Path, build: Path | None, show: Console) -> Image:
    if board.gateway:
        show.print(f"making the image of {board.name} …")
        return gateway.build(board, _cache())
    if build is not None:
        return firmware.built(board, build)
    show.print(f"building the firmware for {board.name} …")
    return firmware.build(board, directory / "firmware" / board.name, os.environ)


def _cache() -> Path:
    """Where what all fleets of this user share is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "propeller"


def _network(command: Command, runs: list[Wishes]) -> tuple[Network, list[Wishes]]:
    """The network for all runs, and the runs with the means by which they will lose packets."""
    if command.network not in {"auto", "bridge", "user"}:
        raise BadInput(f"--network {command.network!r} is none of auto, bridge, user")
    wanted = command.network if command.network != "auto" else "bridge" if may_bridge() else "user"
    if wanted == "user":
        if any(one.slow for one in runs):
            raise BadInput(
                "loss, delay and bandwidth need a network of our own: run as root, with --network bridge"
            )
        return UserNetwork(), runs
    network = BridgeNetwork.enter(max(one.devices for one in runs))
    return network, [replace(one, loss_by=network.loses_by(one.loss)) for one in runs]


def _tell(command: Command, outcomes: list[Outcome], runs: list[Wishes]) -> None:
    if len(outcomes) < len(runs):
        sys.exit(INTERRUPTED)
    if command.plot is not None:
        draw(outcomes, command.plot)
    if command.as_json:
        last = outcomes[0] if len(outcomes) == 1 else outcomes
        sys.stdout.write(msgspec.json.encode(last).decode() + "\n")
    if not all(one.devices_ready and one.rounds for one in outcomes):
        raise EnvironmentError_("not every run finished a round; the consoles of the devices say why")
