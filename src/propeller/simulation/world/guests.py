"""Guests of a world: programs in Python behind `ports.Runtime`, chosen by the module's bytes.

They take virtual time and are as deterministic as a sandbox: a trainer's update follows from its model, data
and seed alone. Nothing here is Wasm; the ABI's environment is the same.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Any

from propeller.errors import NotFound, PeerUnavailable
from propeller.fl.split import Part
from propeller.limits import GUEST_WALL_S_MAX
from propeller.ports import GuestDone, GuestFailed, GuestJob, ImageModule
from propeller.proplet.data import Row, as_document

MAGIC = b"\0asm\1\0\0\0"
"""Every module begins with it, so that the manager's check holds in a world too."""

TRAINER = MAGIC + b"trainer"
ECHO = MAGIC + b"echo"
TRAP = MAGIC + b"trap"
LOOP = MAGIC + b"loop"
FLAKY = MAGIC + b"flaky"
SERVICE = MAGIC + b"service"
NO_MODULE = MAGIC + b"no module"
"""No program: what cannot even be loaded."""
TRAINER_IMAGE = "registry:5000/trainer:latest"
_FLAKY = 0.6
"""Chance that the flaky guest fails."""
_SERVICE_S_MAX = 40.0
ECHO_IMAGE = "registry:5000/echo:latest"


class VirtualRuntime:
    """Runs the guests above; `random` draws how long each run takes, up to `slow_s_max` virtual seconds."""

    def __init__(self, random: Random, *, slow_s_max: float = 3.0) -> None:
        self._random = random
        self._slow_s_max = slow_s_max

    async def run(self, job: GuestJob) -> GuestDone | GuestFailed:
        """See `ports.Runtime`."""
        program = _PROGRAMS.get(job.module)
        if program is None:
            return GuestFailed(kind="invalid_module", message="no such guest in this world")
        if job.load_only:
            return GuestDone(stdout="", stderr="")
        try:
            async with asyncio.timeout(None if job.endless else job.limits.wall_s):
                await asyncio.sleep(self._random.uniform(0.0, self._slow_s_max))
                return await program(job, self._random)
        except TimeoutError:
            return GuestFailed(kind="timeout", message=f"over {job.limits.wall_s:g} s")

    def keep_warm(self, workers: int) -> None:
        """See `ports.Runtime`; these workers are never cold."""

    async def close(self) -> None:
        """See `ports.Runtime`."""


def rows_of(number: int) -> list[Row]:
    """The data set of the device of that number: each has its own, of another size."""
    return [Row([at / 7.0, (at * number) % 5 / 5.0, at % 3 / 3.0], at % 2) for at in range(4 + number)]


class VirtualData:
    """The rows that a device of a world keeps itself: `proplet.data.OwnData`."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def document(self, proplet_id: str, part: Part | None = None) -> bytes:
        """See `OwnData`."""
        return as_document(proplet_id, self._rows, part)


class VirtualImages:
    """`ports.Images` and `ports.ImageTags` of one registry; a tag may be moved, and the registry be away."""

    def __init__(self) -> None:
        self.tags = {TRAINER_IMAGE: TRAINER, ECHO_IMAGE: ECHO}
        self.away = False
        self._pinned: dict[str, bytes] = {}

    async def pin(self, reference: str) -> str:
        """See `ports.ImageTags`."""
        if self.away:
            raise PeerUnavailable("registry registry:5000 cannot be reached")
        if reference not in self.tags:
            raise NotFound(f"image {reference} is not there")
        digest = f"sha256:{hashlib.sha256(self.tags[reference]).hexdigest()}"
        self._pinned[digest] = self.tags[reference]
        return digest

    async def fetch(self, reference: str) -> ImageModule:
        """See `ports.Images`."""
        _, _, named = reference.partition("@")
        digest = named or await self.pin(reference)
        return ImageModule(
            reference=reference,
            manifest_digest=digest,
            digest=digest.removeprefix("sha256:"),
            content=self._pinned[digest],
        )


async def _train(job: GuestJob, _random: Random) -> GuestDone | GuestFailed:
    env = job.env
    if not env.get("MODEL_DATA") or not env.get("DATASET_DATA"):
        return GuestFailed(kind="exit", message="no model or no data: a trainer never makes them up")
    model, dataset = json.loads(env["MODEL_DATA"]), json.loads(env["DATASET_DATA"])
    rows = dataset["data"]
    if not rows:
        return GuestFailed(kind="exit", message="no rows")
    evaluates = env.get("FL_MODE") == "evaluate"
    update, loss = ({}, _loss(model, rows)) if evaluates else _step(model, dataset, env)
    said = {
        "round_id": env["ROUND_ID"],
        "proplet_id": env["PROPLET_ID"],
        "base_model_uri": env["MODEL_URI"],
        "num_samples": len(rows),
        "metrics": {"loss": loss},
        **({} if evaluates else {"update": update}),
    }
    return GuestDone(stdout=json.dumps(said), stderr="")


def _step(
    model: Mapping[str, Any], dataset: Mapping[str, Any], env: Mapping[str, str]
) -> tuple[dict[str, Any], float]:
    """One pass of least squares in an order drawn from the seed: data, order and seed all show."""
    w, b = list(model["w"]), float(model["b"])
    rows = list(dataset["data"])
    Random(int(env.get("SEED", "0"))).shuffle(rows)  # noqa: S311 - it must replay
    loss = 0.0
    for row in rows:
        error = b + sum(wi * xi for wi, xi in zip(w, row["x"], strict=True)) - row["y"]
        w = [wi - 0.01 * error * xi for wi, xi in zip(w, row["x"], strict=True)]
        b -= 0.01 * error
        loss += error * error / len(rows)
    return {"w": w, "b": b}, loss


def _loss(model: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> float:
    errors = [
        model["b"] + sum(wi * xi for wi, xi in zip(model["w"], row["x"], strict=True)) - row["y"]
        for row in rows
    ]
    return float(sum(error * error for error in errors) / len(rows))


async def _echo(job: GuestJob, _random: Random) -> GuestDone | GuestFailed:
    said = f"hello from {job.env.get('PROPLET_ID', '')}{''.join(f' {text}' for text in job.inputs)}"
    if job.on_output is not None:
        job.on_output("stdout", said.encode(), 0)
    return GuestDone(stdout=said, stderr="")


async def _trap(_job: GuestJob, _random: Random) -> GuestDone | GuestFailed:
    return GuestFailed(kind="trap", message="unreachable executed")


async def _flaky(job: GuestJob, random: Random) -> GuestDone | GuestFailed:
    """Fails more often than not."""
    if random.random() < _FLAKY:
        return GuestFailed(kind=random.choice(("trap", "exit")), message="it fails now and then")
    return await _echo(job, random)


async def _serve(_job: GuestJob, random: Random) -> GuestDone | GuestFailed:
    """Works for a while, and ends one way or the other."""
    await asyncio.sleep(random.uniform(0.0, _SERVICE_S_MAX))
    if random.random() < _FLAKY:
        return GuestFailed(kind="trap", message="it fails now and then")
    return GuestDone(stdout="", stderr="")


async def _loop(_job: GuestJob, _random: Random) -> GuestDone | GuestFailed:
    await asyncio.sleep(GUEST_WALL_S_MAX)
    return GuestFailed(kind="timeout", message="outlived every limit")


_PROGRAMS: Mapping[bytes, Callable[[GuestJob, Random], Awaitable[GuestDone | GuestFailed]]] = {
    TRAINER: _train,
    ECHO: _echo,
    TRAP: _trap,
    LOOP: _loop,
    FLAKY: _flaky,
    SERVICE: _serve,
}
