"""Whether a module is a trainer: run in the real sandbox on a small example, finding by finding.

It judges by the guest ABI alone, and knows no algorithm: the example's model is one that the trainer takes.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from propeller.errors import BadInput, CallerError
from propeller.fl.tensor_files import view
from propeller.fl.tensors import Tensors, cast_like, check_finite, check_like, from_json, to_safetensors
from propeller.fl.update import read_metrics
from propeller.ports import GuestDone, GuestFailed, GuestJob, GuestLimits
from propeller.runtime.pool import WorkerPool

COMPILE_S: Final = 300.0
_ROUND, _PROPLET, _URI = "check-round", "check-proplet", "fl/models/check_v0"
_ROWS: Final = [
    {"x": [0.1 * (i % 5) - 0.2, 0.3 * (i % 3) - 0.3, 0.2 * (i % 4) - 0.3], "y": (i * 7 % 5) % 2}
    for i in range(12)
]
HYPERPARAMS: Final[Mapping[str, Any]] = {"epochs": 2, "lr": 0.1, "batch_size": 4}
DATA: Final[Mapping[str, Any]] = {"data": _ROWS, "size": len(_ROWS)}
MODELS: Final[Mapping[str, Mapping[str, Any]]] = {
    "logistic regression": {"w": [0.0, 0.0, 0.0], "b": 0.0},
    "perceptron": {
        "w1": [[0.1, -0.2, 0.3], [0.2, 0.1, -0.1]],
        "b1": [0.0, 0.0],
        "w2": [[0.3, -0.1], [-0.2, 0.2]],
        "b2": [0.0, 0.0],
    },
}
"""Models of which a trainer takes at least one, if it is asked for nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A model, data, and hyperparameters that the trainer takes."""

    name: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    hyperparams: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. What is not `needed` is worth knowing, and no fault."""

    what: str
    good: bool
    needed: bool = True
    detail: str = ""


async def check(module: bytes, examples: list[Example]) -> list[Finding]:
    """What is found of `module`, by the first of `examples` that it trains on."""
    with tempfile.TemporaryDirectory() as scratch:
        pool = WorkerPool(Path(scratch) / "compiled", 1, compile_s=COMPILE_S)
        try:
            return await _Checks(module, pool, Path(scratch)).run(examples)
        finally:
            await pool.close()


class _Checks:
    """One module under examination."""

    def __init__(self, module: bytes, pool: WorkerPool, scratch: Path) -> None:
        self._module, self._pool, self._scratch = module, pool, scratch
        self._digest = hashlib.sha256(module).hexdigest()
        self._found: list[Finding] = []

    async def run(self, examples: list[Example]) -> list[Finding]:
        failures = []
        for example in examples:
            first = await self._guest(_environment(example))
            if isinstance(first, GuestDone):
                self._note("trains", detail=f"on the {example.name}")
                await self._examine(example, first)
                return self._found
            failures.append(f"{example.name}: {first.kind}: {(first.stderr or first.message).strip()[:300]}")
        self._note("trains", good=False, detail="; ".join(failures))
        return self._found

    async def _examine(self, example: Example, first: GuestDone) -> None:
        base, _ = from_json(example.model, "the model")
        result = _result(first)
        update = self._judge(result, base)
        again = await self._guest(_environment(example))
        same = isinstance(again, GuestDone) and _result(again) == result
        self._note("the same inputs and seed give the same bytes", good=same)
        for name in ("MODEL_DATA", "DATASET_DATA"):
            without = await self._guest({k: v for k, v in _environment(example).items() if k != name})
            self._note(
                f"without {name} it fails, and makes nothing up", good=isinstance(without, GuestFailed)
            )
        await self._evaluates(example)
        await self._files(example, base, update)
        usage = f"{first.wall_s:.3f} s, {first.memory_bytes / 1e6:.1f} MB; module {len(self._module)} bytes"
        self._note("takes", needed=False, detail=usage)

    def _judge(self, result: bytes, base: Tensors) -> Tensors | None:
        try:
            told = json.loads(result)
            if not isinstance(told, dict):
                raise BadInput("it is no object")  # noqa: TRY301 - one way out
        except (ValueError, BadInput) as error:
            self._note("prints one JSON object", good=False, detail=f"{error}: {result[:100]!r}")
            return None
        self._note("prints one JSON object")
        ids = {"round_id": _ROUND, "proplet_id": _PROPLET}
        wrong = [name for name, value in ids.items() if told.get(name) not in {None, "", value}]
        self._note("names its round and proplet, or leaves them out", good=not wrong, detail=", ".join(wrong))
        samples = told.get("num_samples")
        whole = isinstance(samples, (int, float)) and samples > 0 and samples == math.floor(samples)
        self._note("num_samples is a positive whole number", good=whole, detail=repr(samples))
        return self._same_shape(told, base)

    def _same_shape(self, told: dict[str, Any], base: Tensors) -> Tensors | None:
        try:
            update = cast_like(from_json(told.get("update"), "`update`")[0], base, "`update`")
            check_like(update, base, "`update`")
            check_finite(update, "`update`")
            read_metrics(told.get("metrics"), "the update")
        except CallerError as error:
            self._note("the update has the model's tensors, all finite", good=False, detail=error.message)
            return None
        self._note("the update has the model's tensors, all finite")
        self._note("the model moved", good=update != base)
        return update

    async def _evaluates(self, example: Example) -> None:
        """With FL_MODE=evaluate: metrics, and no update."""
        done = await self._guest({**_environment(example), "FL_MODE": "evaluate"})
        good, detail = False, "experiments with it cannot evaluate"
        if isinstance(done, GuestDone):
            try:
                told = json.loads(_result(done))
                good = bool(told.get("metrics")) and not told.get("update")
            except (ValueError, AttributeError):
                good = False
        self._note("evaluates when FL_MODE says so", good=good, needed=False, detail="" if good else detail)

    async def _files(self, example: Example, base: Tensors, update: Tensors | None) -> None:
        """By files, for models that are too large for the environment."""
        folder = self._scratch / "fl"
        (folder / "dataset").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(to_safetensors(base))
        (folder / "dataset" / "data.json").write_text(json.dumps(example.data))
        (folder / "hyperparams.json").write_text(json.dumps(example.hyperparams))
        env = {k: v for k, v in _environment(example).items() if k not in {"MODEL_DATA", "DATASET_DATA"}}
        done = await self._guest(env, folder)
        written = folder / "update.safetensors"
        good, detail = False, "models over 8 MiB are not for it"
        if isinstance(done, GuestDone) and written.is_file():
            try:
                got = cast_like(view(memoryview(written.read_bytes()), "the file"), base, "the file")
                check_like(got, base, "the file")
                good, detail = (
                    update is None or _near(got, update),
                    "the file differs from the update by text",
                )
            except CallerError as error:
                detail = error.message
        self._note("takes and writes files", good=good, needed=False, detail="" if good else detail)

    async def _guest(self, env: Mapping[str, str], files: Path | None = None) -> GuestDone | GuestFailed:
        strings = {"proplet_id": _PROPLET}
        if "MODEL_DATA" in env:
            strings["model_data"] = env["MODEL_DATA"]
        if "DATASET_DATA" in env:
            strings["dataset_data"] = env["DATASET_DATA"]
        job = GuestJob(
            module=self._module,
            digest=self._digest,
            name="fl-round-check",
            env=dict(env),
            host_strings=strings,
            files=files,
            limits=replace(GuestLimits(), wall_s=60.0),
        )
        return await self._pool.run(job)

    def _note(self, what: str, *, good: bool = True, needed: bool = True, detail: str = "") -> None:
        self._found.append(Finding(what=what, good=good, needed=needed, detail=detail))


def _environment(example: Example) -> dict[str, str]:
    return {
        "ROUND_ID": _ROUND,
        "PROPLET_ID": _PROPLET,
        "MODEL_URI": _URI,
        "SEED": "7",
        "HYPERPARAMS": json.dumps(example.hyperparams),
        "MODEL_DATA": json.dumps(example.model),
        "DATASET_DATA": json.dumps(example.data),
    }


def _result(done: GuestDone) -> bytes:
    return done.result if done.result is not None else done.stdout.encode()


def _near(one: Tensors, other: Tensors) -> bool:
    """Equal but for the rounding of float32, in which a trainer may write its file."""
    return all(bool((abs(one[name] - other[name]) <= 1e-6 * (1 + abs(other[name]))).all()) for name in one)
