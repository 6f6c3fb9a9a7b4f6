"""`propeller demo`: a federated experiment on real patients, from nothing to a plot, beside its references.

Everything goes over the same HTTP and MQTT that any user has; this file only asks and shows.
"""

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any, Final

import msgspec
from rich.console import Console

from propeller.client import AsyncClient
from propeller.errors import NotFound, PeerRefused
from propeller.fl.model_ref import ModelRef
from propeller.fl.plan import generated_id
from propeller.ports import GuestDone, GuestJob
from propeller.roles import demo_data, demo_show, images
from propeller.roles.demo_data import Cohort
from propeller.roles.demo_show import Outcome, Progress, RoundSeen
from propeller.roles.demo_system import endpoints, own_system
from propeller.roles.layout import DataDir, Running
from propeller.roles.process import run
from propeller.roles.web import http_client
from propeller.runtime.pool import WorkerPool
from propeller.wire import codec
from propeller.wire.experiments import ExperimentBody, RoundDetail
from propeller.wire.models import StoreModel

MODEL: Final = "demo-breast-cancer"
EXPERIMENT: Final = "demo"
IMAGE: Final = "demo/logreg:latest"
HYPERPARAMS: Final = {"epochs": 3, "lr": 0.1, "batch_size": 16}
"""Of one round; the central run has as many epochs in all."""
ROUND_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.05
INTERRUPTED: Final = 130
PIPED_COLUMNS: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the demo was asked for."""

    rounds: int = 20
    proplets: int = 3
    as_json: bool = False
    plot: Path | None = None
    data_dir: Path | None = None
    keep: bool = False
    seed: int = 0


def trainer() -> bytes:
    """The Wasm trainer that ships with the package."""
    return (resources.files("propeller.roles") / "assets" / "logreg.wasm").read_bytes()


def run_demo(wishes: Wishes) -> None:
    """Run the demo in a loop of its own; exits 130 if it was interrupted."""
    outcomes: list[Outcome] = []

    async def work() -> None:
        outcomes.append(await demo(wishes))

    run(work)
    if not outcomes:
        sys.exit(INTERRUPTED)
    if wishes.as_json:
        sys.stdout.write(msgspec.json.encode(outcomes[0]).decode() + "\n")


async def demo(wishes: Wishes) -> Outcome:
    """Everything from start to end. Progress goes to stderr if stdout is for a program."""
    started_s = monotonic()
    stream = sys.stderr if wishes.as_json else sys.stdout
    # Where nobody looks, lines are as long as they are.
    console = Console(file=stream, highlight=False, width=None if stream.isatty() else PIPED_COLUMNS)
    async with AsyncExitStack() as stack:
        data = DataDir(_directory(stack, wishes))
        console.print(f"starting a system with {wishes.proplets} proplets …")
        loading = asyncio.create_task(asyncio.to_thread(demo_data.load, wishes.proplets, wishes.seed))
        stack.callback(loading.cancel)
        running = await stack.enter_async_context(own_system(data, wishes.proplets, wishes.seed))
        client = await stack.enter_async_context(AsyncClient(endpoints(running)))
        cohort = await loading
        seen = await _federate(console, client, running, cohort, wishes)
        centralised = await _central(cohort, wishes, data)
        reference = await asyncio.to_thread(demo_data.sklearn_accuracy, cohort)
    outcome = Outcome(
        rounds=len(seen),
        accuracy=seen[-1].accuracy,
        centralised_accuracy=centralised,
        sklearn_accuracy=reference,
        round_s_p50=median(one.seconds for one in seen),
        wall_s=monotonic() - started_s,
        proplets=wishes.proplets,
        updates=sum(one.updates for one in seen),
        update_bytes=sum(one.bytes for one in seen),
        models=[one.model for one in seen],
    )
    _show(console, outcome, seen, wishes)
    return outcome


async def _federate(
    console: Console, client: AsyncClient, running: Running, cohort: Cohort, wishes: Wishes
) -> list[RoundSeen]:
    """The experiment itself, shown as it goes."""
    console.print(demo_show.hospitals_table(cohort))
    body = await _prepare(client, running, cohort, wishes)
    console.print(f"\ntraining {body.model_ref} for {wishes.rounds} rounds by {body.task_wasm_image} …\n")
    configured = await client.fl.configure(body)
    seen = []
    with Progress(console, wishes.rounds) as progress:
        for number in range(1, wishes.rounds + 1):
            detail = await _ended(client, generated_id(configured.experiment_id, number))
            seen.append(await _seen(client, cohort, detail))
            progress.add(seen[-1])
    return seen


def _directory(stack: AsyncExitStack, wishes: Wishes) -> Path:
    if wishes.data_dir is not None:
        return wishes.data_dir
    if wishes.keep:
        return Path(tempfile.mkdtemp(prefix="propeller-demo-"))
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="propeller-demo-")))


async def _prepare(client: AsyncClient, running: Running, cohort: Cohort, wishes: Wishes) -> ExperimentBody:
    """Image, data and first model in their places; returns the experiment to ask for."""
    reference = f"{running.urls['registry'].removeprefix('http://')}/{IMAGE}"
    async with http_client() as http:
        await images.push(http, reference, trainer(), title="logreg.wasm")
    for proplet_id, patients in zip(running.proplets, cohort.hospitals, strict=True):
        await client.datasets.post(proplet_id, patients.rows())
    stored = await client.models.post(StoreModel(model=_zero(cohort), name=MODEL))
    return ExperimentBody(
        experiment_id=f"{EXPERIMENT}{stored.version or ''}",
        model_ref=ModelRef(name=MODEL, version=stored.version).uri,
        participants=running.proplets,
        task_wasm_image=reference,
        rounds=wishes.rounds,
        hyperparams=dict(HYPERPARAMS),
        timeout_s=ROUND_TIMEOUT_S,
        seed=wishes.seed,
    )


async def _ended(client: AsyncClient, round_id: str) -> RoundDetail:
    """The round once its model is stored; raises `PeerRefused` if it failed."""
    while True:
        try:
            detail = await client.fl.round(round_id)
        except NotFound:
            # The coordinator opens each round when the one before has ended.
            detail = None
        if detail is not None and detail.state == "completed":
            return detail
        if detail is not None and detail.state == "failed":
            raise PeerRefused(f"round {round_id} failed: {detail.reason}", code="round_failed")
        await asyncio.sleep(POLL_S)


async def _seen(client: AsyncClient, cohort: Cohort, detail: RoundDetail) -> RoundSeen:
    model = await client.models.get(detail.model_version or 0, name=MODEL)
    return RoundSeen(
        number=detail.number,
        round_id=detail.round_id,
        updates=detail.num_updates,
        loss=detail.metrics.get("loss"),
        accuracy=demo_data.accuracy(model, cohort.held_out),
        bytes=detail.bytes,
        seconds=detail.seconds,
        model=detail.model_hash,
    )


async def _central(cohort: Cohort, wishes: Wishes, data: DataDir) -> float:
    """Accuracy of the same trainer, run once over all training patients for as many epochs in all."""
    rows = [{"x": x, "y": y} for x, y in cohort.training.rows()]
    job = GuestJob(
        module=trainer(),
        digest=sha256(trainer()).hexdigest(),
        env={
            "ROUND_ID": "central",
            "SEED": str(wishes.seed),
            "HYPERPARAMS": _text({**HYPERPARAMS, "epochs": HYPERPARAMS["epochs"] * wishes.rounds}),
            "MODEL_DATA": _text(_zero(cohort)),
            "DATASET_DATA": _text({"data": rows, "size": len(rows)}),
        },
    )
    pool = WorkerPool(data.root / "cache" / "compiled", 1)
    try:
        ended = await pool.run(job)
    finally:
        await pool.close()
    if not isinstance(ended, GuestDone):
        raise PeerRefused(f"the central reference did not train: {ended.kind}: {ended.message}")
    update = codec.decode(dict[str, Any], ended.stdout.encode(), what="the central trainer's output")
    return demo_data.accuracy(update["update"], cohort.held_out)


def _zero(cohort: Cohort) -> dict[str, Any]:
    """The model that knows nothing yet."""
    return {"w": [0.0] * cohort.training.x.shape[1], "b": 0.0}


def _text(value: object) -> str:
    return codec.encode(value).decode()


def _show(console: Console, outcome: Outcome, seen: list[RoundSeen], wishes: Wishes) -> None:
    console.print()
    colour = console.is_terminal
    text = demo_show.terminal_plot(seen, outcome.centralised_accuracy, colour=colour)
    console.file.write(text.rstrip("\n") + "\n\n")
    console.print(demo_show.comparison(outcome))
    console.print()
    if wishes.plot is not None:
        demo_show.png_plot(seen, outcome.centralised_accuracy, wishes.plot)
        console.print(f"plot      {wishes.plot}")
    for line in demo_show.NEXT:
        console.print(line)
    if wishes.data_dir or wishes.keep:
        console.print(f"its data  {wishes.data_dir or 'kept, as asked'}")
