"""The trainers: ours in C to the last digit, and a stranger's in Go, unchanged."""

import json
import math
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from runtime_guests import guest

from propeller.ports import GuestDone, GuestFailed
from propeller.runtime.pool import WorkerPool
from trainer_builds import SHIPPED, build_c, build_stranger, round_environment

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("runtime_trainers")]

SAMPLE = [([0.1, 0.2, 0.3], 1)]
U64 = (1 << 64) - 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(tmp_path_factory) -> AsyncIterator[WorkerPool]:
    """One worker for the whole module."""
    made = WorkerPool(tmp_path_factory.mktemp("trainers") / "compiled", 1, compile_s=180)
    yield made
    await made.close()


async def trained(pool: WorkerPool, environment: dict[str, str], module: Path = SHIPPED) -> dict[str, Any]:
    """The update: exactly one JSON object on standard output, and nothing on standard error."""
    outcome = await pool.run(guest(module, env=environment, name="fl-round-r1"))
    assert isinstance(outcome, GuestDone), outcome
    assert outcome.stderr == ""
    update = json.loads(outcome.stdout)
    assert isinstance(update, dict)
    return update


async def test_the_worked_check(pool):
    """Zero model, lr 0.01, one sample: every number of the published example."""
    update = await trained(
        pool, round_environment([0, 0, 0], SAMPLE, epochs=1, lr=0.01, batch_size=1, unknown=[1])
    )
    assert update["update"] == {"w": [0.0005, 0.001, 0.0015], "b": 0.005}
    assert update["round_id"] == "r1"
    assert update["proplet_id"] == "p1"
    assert update["base_model_uri"] == "fl/models/global_model_v0"
    assert update["num_samples"] == 1
    assert set(update) == {"round_id", "proplet_id", "base_model_uri", "num_samples", "metrics", "update"}


def rows_of(seed: int, count: int, features: int) -> list[tuple[list[float], int]]:
    """Rows that a line separates, mostly."""
    draw = random.Random(seed)  # noqa: S311 - data for a test
    rows = []
    for _ in range(count):
        x = [draw.gauss(0, 1) for _ in range(features)]
        rows.append((x, int(sum(x) + draw.gauss(0, 0.5) > 0)))
    return rows


def shuffled(order: list[int], state: int) -> int:
    """The trainer's shuffle, in place, by SplitMix64; the generator's next state."""

    def below(bound: int) -> int:
        nonlocal state
        while True:
            state = (state + 0x9E3779B97F4A7C15) & U64
            z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & U64
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & U64
            z ^= z >> 31
            if z < U64 - U64 % bound:
                return z % bound

    for i in range(len(order), 1, -1):
        j = below(i)
        order[i - 1], order[j] = order[j], order[i - 1]
    return state


def reference(
    rows: list[tuple[list[float], int]], epochs: int, lr: float, batch: int, seed: int
) -> tuple[np.ndarray, float, float]:
    """The same training in numpy: weights, bias, mean log loss."""
    x, y = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], dtype=float)
    w, b, order, state = np.zeros(x.shape[1]), 0.0, list(range(len(rows))), seed
    for _ in range(epochs):
        state = shuffled(order, state)
        for begin in range(0, len(order), batch):
            take = order[begin : begin + batch]
            error = 1 / (1 + np.exp(-np.clip(x[take] @ w + b, -20, 20))) - y[take]
            w -= lr * (error @ x[take]) / len(take)
            b -= lr * error.mean()
    z = np.clip(x @ w + b, -20, 20)
    return w, float(b), float(np.mean(np.logaddexp(0, z) - y * z))


@pytest.mark.parametrize(("features", "batch"), [(1, 1), (3, 7), (30, 16), (5, 1000)])
async def test_training_agrees_with_numpy(pool, features, batch):
    """Any feature count, any batch size (one sample, a last short batch, more than the data): the same."""
    rows = rows_of(features, 50, features)
    environment = round_environment([0] * features, rows, epochs=5, lr=0.1, batch_size=batch, seed=9)
    update = await trained(pool, environment)
    w, b, loss = reference(rows, 5, 0.1, batch, 9)
    np.testing.assert_allclose(update["update"]["w"], w, rtol=1e-12, atol=1e-14)
    assert math.isclose(update["update"]["b"], b, rel_tol=1e-12)
    assert math.isclose(update["metrics"]["loss"], loss, rel_tol=1e-12)
    assert update["metrics"]["accuracy"] > 0.7
    assert update["num_samples"] == 50


async def test_the_seed_decides_and_nothing_else(pool):
    """SEED goes before the hyperparameter's; the same seed gives the same bytes, another seed others."""
    environment = round_environment([0, 0], rows_of(1, 40, 2), epochs=3, lr=0.5, batch_size=4, seed=7)
    seven = await trained(pool, environment)
    assert await trained(pool, environment) == seven
    assert await trained(pool, {**environment, "SEED": "7"}) == seven
    assert await trained(pool, {**environment, "SEED": str(U64)}) != seven


async def test_a_model_with_weights_is_trained_on_from_there(pool):
    """Training starts from the model that was given: without a gradient the model comes back, bit by bit."""
    w = [0.1, -1 / 3, 1e-300]
    rows = [([0.0, 0.0, 0.0], 1)]
    update = await trained(pool, round_environment(w, rows, epochs=1, lr=1e-9, batch_size=1))
    assert update["update"]["w"] == w


async def test_evaluation_measures_the_model_and_sends_none(pool):
    """FL_MODE=evaluate: loss and accuracy of the model as it was given, and no `update`."""
    rows = rows_of(3, 50, 3)
    environment = round_environment([0, 0, 0], rows, epochs=5, lr=0.1, batch_size=7, seed=9)
    made = await trained(pool, environment)
    model = json.dumps(made["update"])
    measured = await trained(pool, {**environment, "MODEL_DATA": model, "FL_MODE": "evaluate"})
    assert measured["metrics"] == made["metrics"]
    assert (measured["num_samples"], "update" in measured) == (50, False)
    failed = await pool.run(guest(SHIPPED, env={**environment, "FL_MODE": "guess"}))
    assert isinstance(failed, GuestFailed)
    assert "FL_MODE is guess" in failed.stderr


async def test_defaults_are_those_of_the_original(pool):
    """Without hyperparameters: one epoch, lr 0.01; without ids: the published placeholders."""
    environment = round_environment([0, 0, 0], SAMPLE)
    for name in ("HYPERPARAMS", "PROPLET_ID", "MODEL_URI"):
        del environment[name]
    update = await trained(pool, environment)
    assert update["update"]["b"] == 0.005
    assert (update["proplet_id"], update["base_model_uri"]) == ("proplet-unknown", "")


async def test_names_are_escaped(pool):
    """Ids travel as JSON strings, whatever they hold."""
    environment = {**round_environment([0, 0, 0], SAMPLE), "PROPLET_ID": 'a"b\\c\n\x01é'}
    assert (await trained(pool, environment))["proplet_id"] == 'a"b\\c\n\x01é'


DEEP = "[" * 100 + "]" * 100
REFUSED = {
    "no round": ({"ROUND_ID": ""}, "ROUND_ID"),
    "no model": ({"MODEL_DATA": ""}, "no model"),
    "no data": ({"DATASET_DATA": ""}, "no data"),
    "a model that is cut": ({"MODEL_DATA": '{"w":[0,0,0],"b":'}, "malformed"),
    "a model with more behind": ({"MODEL_DATA": '{"w":[0,0,0],"b":0} x'}, "malformed"),
    "a model without w": ({"MODEL_DATA": '{"b":0}'}, "no logistic regression"),
    "a model without b": ({"MODEL_DATA": '{"w":[0,0,0]}'}, "no logistic regression"),
    "a model of text": ({"MODEL_DATA": '{"w":"000","b":0}'}, "malformed"),
    "a model with w twice": ({"MODEL_DATA": '{"w":[1],"w":[0,0],"b":0}'}, "twice"),
    "a model with NaN": ({"MODEL_DATA": '{"w":[NaN,0,0],"b":0}'}, "malformed"),
    "a model with a huge number": ({"MODEL_DATA": '{"w":[1e999,0,0],"b":0}'}, "too large"),
    "a model nested too deeply": ({"MODEL_DATA": '{"w":[0,0,0],"b":0,"z":' + DEEP + "}"}, "dimensions"),
    "a list as model": ({"MODEL_DATA": "[1,2,3]"}, "malformed"),
    "other feature counts": ({"MODEL_DATA": '{"w":[0,0],"b":0}'}, "features"),
    "no rows": ({"DATASET_DATA": '{"data":[],"size":0}'}, "no rows"),
    "no data member": ({"DATASET_DATA": "{}"}, "no rows"),
    "rows missing": ({"DATASET_DATA": '{"data":[{"x":[1,2,3],"y":1}],"size":2}'}, "incomplete"),
    "a row too short": ({"DATASET_DATA": '{"data":[{"x":[1,2],"y":1}]}'}, "features"),
    "no label": ({"DATASET_DATA": '{"data":[{"x":[1,2,3]}]}'}, "label"),
    "a label of 2": ({"DATASET_DATA": '{"data":[{"x":[1,2,3],"y":2}]}'}, "label"),
    "a label of text": ({"DATASET_DATA": '{"data":[{"x":[1,2,3],"y":"1"}]}'}, "malformed"),
    "a comma too many": ({"DATASET_DATA": '{"data":[{"x":[1,2,3],"y":1},]}'}, "malformed"),
    "epochs 0": ({"HYPERPARAMS": '{"epochs":0}'}, "epochs"),
    "epochs 1.5": ({"HYPERPARAMS": '{"epochs":1.5}'}, "whole"),
    "batch 0": ({"HYPERPARAMS": '{"batch_size":0}'}, "batch_size"),
    "lr 0": ({"HYPERPARAMS": '{"lr":0}'}, "lr"),
    "a seed below 0": ({"SEED": "-1"}, "whole"),
    "a seed too large": ({"SEED": str(U64 + 1)}, "whole"),
    "a seed of text": ({"SEED": "seven"}, "SEED"),
    "hyperparameters of text": ({"HYPERPARAMS": '"fast"'}, "HYPERPARAMS"),
    "weights that diverge": (
        {"HYPERPARAMS": '{"lr":1e308}', "DATASET_DATA": '{"data":[{"x":[1e300,0,0],"y":1}]}'},
        "diverged",
    ),
    "a loss that is no number": (
        {
            "MODEL_DATA": '{"w":[1e308,1e308,0],"b":0}',
            "DATASET_DATA": '{"data":[{"x":[1e308,-1e308,0],"y":1}]}',
        },
        "diverged",
    ),
}


@pytest.mark.parametrize(("changed", "said"), REFUSED.values(), ids=REFUSED.keys())
async def test_it_never_trains_on_what_is_not_there(pool, changed, said):
    """Missing, broken or unfitting inputs end with a message and a status, never with an update."""
    environment = {**round_environment([0, 0, 0], SAMPLE), **changed}
    outcome = await pool.run(guest(SHIPPED, env=environment))
    assert isinstance(outcome, GuestFailed), outcome
    assert outcome.kind == "exit"
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("trainer: ")
    assert said in outcome.stderr


async def test_its_reader_agrees_with_pythons(pool):
    """Two hundred data sets, cut and changed at random: accepted only if they are JSON."""
    draw = random.Random(4)  # noqa: S311 - noise for a test
    good = round_environment([0, 0], [([1.5, -2e3], 1), ([0, 0.25], 0)], note='"\\u00e9\\n')["DATASET_DATA"]
    extra = good[:-1] + ', "t": [true, null, {"k": "\\\\ \\u0041"}, -0.5E+2]}'
    for _ in range(200):
        text = list(extra)
        for _ in range(draw.randint(1, 2)):
            text[draw.randrange(len(text))] = draw.choice('{}[]",:.-+eE0123456789truefalsn\\ u')
        broken = "".join(text[: draw.choice([len(text), len(text), draw.randrange(len(text))])])
        environment = {**round_environment([0, 0], []), "DATASET_DATA": broken}
        outcome = await pool.run(guest(SHIPPED, env=environment))
        if isinstance(outcome, GuestDone):
            json.loads(broken)
        else:
            assert outcome.kind == "exit", (broken, outcome)


@pytest.mark.timeout(400)
async def test_the_shipped_trainer_is_what_its_source_builds(tmp_path):
    """The committed module is, byte for byte, what the Makefile makes of the source today."""
    assert build_c("logreg", tmp_path).read_bytes() == SHIPPED.read_bytes()
    assert SHIPPED.stat().st_size < 64 * 1024


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Path:
    """The stranger's module, built once: Go compiles its standard library first."""
    return build_stranger(tmp_path_factory.mktemp("stranger"))


@pytest.mark.timeout(400)
async def test_a_strangers_go_trainer_runs_unchanged(pool, stranger):
    """Megabytes of Go that export `_start` and `run` train by the same ABI, whatever the task's name.

    Defect 4.15 of the original.
    """
    assert stranger.stat().st_size > 1_000_000
    job_environment = round_environment([0, 0, 0], SAMPLE, epochs=2, lr=0.1)
    for name in ("fl-round-x", "_start", "", "fl-manual-7"):
        outcome = await pool.run(guest(stranger, env=job_environment, name=name))
        assert isinstance(outcome, GuestDone), outcome
        update = json.loads(outcome.stdout)
        assert update["num_samples"] == 1
        assert update["update"]["b"] == pytest.approx(0.1 + 0.1 * (1 - 0.1 - 0.1 * 0.14))
    missing = await pool.run(guest(stranger, name="fl-round-x"))
    assert isinstance(missing, GuestFailed)
    assert missing.kind == "exit"
    assert "ROUND_ID is not set" in missing.stderr
