"""The perceptron in C: held against numpy, by environment and by files, trained and evaluated."""

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import safetensors.numpy
from runtime_guests import guest
from sklearn.datasets import load_digits
from test_runtime_trainers import shuffled

from propeller.ports import GuestDone, GuestFailed
from propeller.runtime.pool import WorkerPool
from trainer_builds import PERCEPTRON, build_c

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("runtime_trainers")]

Model = dict[str, np.ndarray]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(tmp_path_factory) -> AsyncIterator[WorkerPool]:
    """One worker for the whole module."""
    made = WorkerPool(tmp_path_factory.mktemp("perceptron") / "compiled", 1, compile_s=180)
    yield made
    await made.close()


def perceptron(*sizes: int, seed: int = 1) -> Model:
    """Weights drawn as He would, biases of zero."""
    draw = np.random.default_rng(seed)
    model: Model = {}
    for number, (inputs, units) in enumerate(itertools.pairwise(sizes), 1):
        model[f"w{number}"] = draw.normal(0, (2 / inputs) ** 0.5, (units, inputs)).astype(np.float32)
        model[f"b{number}"] = np.zeros(units, np.float32)
    return model


def rows_of(count: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Points around one centre per class."""
    draw = np.random.default_rng(count + features)
    y = np.arange(count) % classes
    x = draw.normal(0, 1, (classes, features))[y] + draw.normal(0, 0.7, (count, features))
    return x.astype(np.float32), y


def environment(model: Model, x: np.ndarray, y: np.ndarray, **hyperparams: Any) -> dict[str, str]:
    """The environment ABI for one round."""
    rows = [{"x": row.tolist(), "y": int(label)} for row, label in zip(x, y, strict=True)]
    return {
        "ROUND_ID": "r1",
        "PROPLET_ID": "p1",
        "MODEL_URI": "fl/models/digits_v0",
        "MODEL_DATA": json.dumps({name: array.tolist() for name, array in model.items()}),
        "DATASET_DATA": json.dumps({"data": rows, "size": len(rows)}),
        "HYPERPARAMS": json.dumps(hyperparams),
    }


async def answered(pool: WorkerPool, **job: Any) -> dict[str, Any]:
    """The JSON object that the guest prints."""
    outcome = await pool.run(guest(PERCEPTRON, name="fl-round-r1", **job))
    assert isinstance(outcome, GuestDone), outcome
    return json.loads(outcome.stdout)


def reference(
    model: Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    epochs: int,
    batch: int,
    lr: float,
    momentum: float = 0,
    mu: float = 0,
    drift: Model | None = None,
) -> Model:
    """The same training in float64; `drift` is added to each gradient."""
    depth, state = len(model) // 2, 0
    now = {name: array.astype(np.float64) for name, array in model.items()}
    pull = {name: np.zeros_like(array) for name, array in now.items()}
    order = list(range(len(y)))
    for _ in range(epochs):
        state = shuffled(order, state)
        for begin in range(0, len(order), batch):
            take = order[begin : begin + batch]
            outs = [x[take].astype(np.float64)]
            for k in range(1, depth + 1):
                z = outs[-1] @ now[f"w{k}"].T + now[f"b{k}"]
                outs.append(np.maximum(z, 0) if k < depth else z)
            z = outs[-1]
            if z.shape[1] == 1:
                delta = 1 / (1 + np.exp(-z)) - y[take][:, None]
            else:
                delta = np.exp(z - z.max(1, keepdims=True))
                delta = delta / delta.sum(1, keepdims=True) - np.eye(z.shape[1])[y[take]]
            gradients = {}
            for k in range(depth, 0, -1):
                gradients[f"w{k}"] = delta.T @ outs[k - 1] / len(take)
                gradients[f"b{k}"] = delta.mean(0)
                delta = (delta @ now[f"w{k}"]) * (outs[k - 1] > 0)
            for name, gradient in gradients.items():
                more = mu * (now[name] - model[name]) + (0 if drift is None else drift[name])
                pull[name] = momentum * pull[name] + gradient + more
                now[name] -= lr * pull[name]
    return now


@pytest.mark.parametrize(
    ("sizes", "batch", "momentum", "mu"),
    [
        ((64, 10), 16, 0, 0),
        ((5, 1), 7, 0, 0.3),
        ((6, 4, 3), 1000, 0.9, 0),
        ((7, 5, 6, 4), 5, 0.5, 0.1),
        ((3, 8, 1), 1, 0.9, 0.01),
    ],
)
async def test_training_agrees_with_numpy(pool, sizes, batch, momentum, mu):
    """Any layer sizes, one unit or many at the end, momentum and a proximal term: numpy's weights."""
    x, y = rows_of(40, sizes[0], max(2, sizes[-1]))
    model = perceptron(*sizes)
    told = {"epochs": 3, "batch_size": batch, "lr": 0.05, "momentum": momentum, "mu": mu}
    update = await answered(pool, env=environment(model, x, y, **told))
    wanted = reference(model, x, y, epochs=3, batch=batch, lr=0.05, momentum=momentum, mu=mu)
    assert list(update["update"]) == list(model)
    for name, array in wanted.items():
        np.testing.assert_allclose(np.array(update["update"][name]), array, rtol=2e-4, atol=2e-5)
    assert (update["num_samples"], update["round_id"], update["proplet_id"]) == (40, "r1", "p1")


async def test_it_learns_digits_and_evaluates_without_an_update(pool):
    """64-16-10 on a thousand digits; an evaluation has metrics of unseen rows and no update."""
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target
    told = {"epochs": 10, "batch_size": 5, "lr": 0.1}
    update = await answered(pool, env=environment(perceptron(64, 16, 10), x[:1000], y[:1000], **told))
    assert update["metrics"]["accuracy"] > 0.97
    trained = {name: np.array(value, np.float32) for name, value in update["update"].items()}
    asked = {**environment(trained, x[1000:], y[1000:]), "FL_MODE": "evaluate"}
    judged = await answered(pool, env=asked)
    assert judged["metrics"]["accuracy"] > 0.88
    assert judged["num_samples"] == 797
    assert "update" not in judged


async def test_files_in_files_out_give_the_same_bits(pool, tmp_path):
    """With model and data under /fl, the update comes as files, equal to the one by environment."""
    x, y = rows_of(30, 6, 3)
    model = perceptron(6, 4, 3)
    env = environment(model, x, y, epochs=2, lr=0.1)
    printed = await answered(pool, env=env)
    safetensors.numpy.save_file(model, tmp_path / "model.safetensors")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "data.json").write_text(env.pop("DATASET_DATA"))
    (tmp_path / "hyperparams.json").write_text(env.pop("HYPERPARAMS"))
    del env["MODEL_DATA"]
    outcome = await pool.run(guest(PERCEPTRON, env=env, files=tmp_path))
    assert isinstance(outcome, GuestDone), outcome
    assert outcome.stdout == ""
    written = safetensors.numpy.load_file(tmp_path / "update.safetensors")
    assert {name: array.tolist() for name, array in written.items()} == {
        name: np.array(value, np.float32).tolist() for name, value in printed["update"].items()
    }
    told = json.loads((tmp_path / "update.json").read_text())
    assert (told["num_samples"], told["metrics"]) == (30, printed["metrics"])


async def test_scaffolds_variates_agree_with_numpy(pool, tmp_path):
    """Three rounds: steps are corrected by c - ci, and Δci = (x - y) / (K lr) - c; ci is kept between them.

    Algorithm 1, option II, of the paper. The first model has no variates yet.
    """
    x, y = rows_of(40, 6, 3)
    model, own, draw = perceptron(6, 4, 3), None, np.random.default_rng(3)
    told = {"epochs": 2, "batch_size": 16, "lr": 0.05, "scaffold": 1}
    (tmp_path / "dataset").mkdir()
    for number in range(3):
        c = {name: np.zeros_like(array) for name, array in model.items()}
        if number:
            c = {name: draw.normal(0, 0.3, array.shape).astype(np.float32) for name, array in model.items()}
        own = own or {name: np.zeros(array.shape) for name, array in model.items()}
        wanted = reference(
            model, x, y, epochs=2, batch=16, lr=0.05, drift={name: c[name] - own[name] for name in model}
        )
        env = environment(model, x, y, **told)
        beside = {f"scaffold.c/{name}": array for name, array in c.items()} if number else {}
        safetensors.numpy.save_file({**model, **beside}, tmp_path / "model.safetensors")
        (tmp_path / "dataset" / "data.json").write_text(env.pop("DATASET_DATA"))
        del env["MODEL_DATA"]
        outcome = await pool.run(guest(PERCEPTRON, env=env, files=tmp_path))
        assert isinstance(outcome, GuestDone), outcome
        sent = safetensors.numpy.load_file(tmp_path / "update.safetensors")
        assert set(sent) == {*model, *(f"scaffold.c/{name}" for name in model)}
        kept = safetensors.numpy.load_file(tmp_path / "state.safetensors")
        for name, array in wanted.items():
            delta = (model[name] - array) / (2 * 3 * 0.05) - c[name]
            own[name] = own[name] + delta
            np.testing.assert_allclose(sent[name], array, rtol=2e-4, atol=2e-5)
            np.testing.assert_allclose(sent[f"scaffold.c/{name}"], delta, rtol=2e-3, atol=5e-4)
            np.testing.assert_allclose(kept[name], own[name], rtol=2e-3, atol=1e-3)
        model = {name: sent[name] for name in model}


async def test_scaffold_needs_files_and_plain_steps(pool, tmp_path):
    """Nothing can be kept without files; momentum has no variates. A model with variates is evaluated."""
    x, y = rows_of(30, 6, 3)
    model = perceptron(6, 3)
    outcome = await pool.run(guest(PERCEPTRON, env=environment(model, x, y, scaffold=1)))
    assert isinstance(outcome, GuestFailed)
    assert "FL_ABI=files" in outcome.stderr
    safetensors.numpy.save_file(model, tmp_path / "model.safetensors")
    outcome = await pool.run(
        guest(PERCEPTRON, env=environment(model, x, y, scaffold=1, momentum=0.5), files=tmp_path)
    )
    assert isinstance(outcome, GuestFailed)
    assert "momentum" in outcome.stderr
    more = {**model, "scaffold.c/w1": model["w1"], "scaffold.c/b1": model["b1"]}
    env = {**environment(model, x, y), "FL_MODE": "evaluate"}
    plain = await answered(pool, env=env)
    env = {**environment(more, x, y), "FL_MODE": "evaluate"}
    assert (await answered(pool, env=env))["metrics"] == plain["metrics"]


@pytest.mark.timeout(400)
async def test_by_host_functions_the_update_is_the_same(pool, tmp_path):
    """Built with PROPELLER_HOST_FUNCTIONS it asks the host for everything, and puts its update there.

    The bits are those by environment; what the host does not have is missed with the same words.
    """
    module = build_c("mlp", tmp_path, "-DPROPELLER_HOST_FUNCTIONS")
    x, y = rows_of(30, 6, 3)
    env = environment(perceptron(6, 4, 3), x, y, epochs=2, lr=0.1)
    printed = await answered(pool, env=env)
    texts = {
        "proplet_id": env["PROPLET_ID"],
        "model_data": env["MODEL_DATA"],
        "dataset_data": env["DATASET_DATA"],
    }
    small = {name: value for name, value in env.items() if not name.endswith("_DATA")}
    outcome = await pool.run(guest(module, env=small, host_strings=texts))
    assert isinstance(outcome, GuestDone), outcome
    assert outcome.stdout == ""
    assert json.loads(outcome.result) == printed
    judged = await pool.run(guest(module, env={**small, "FL_MODE": "evaluate"}, host_strings=texts))
    assert isinstance(judged, GuestDone), judged
    assert "update" not in json.loads(judged.result)
    for name, said in (("model_data", "MODEL_DATA"), ("dataset_data", "DATASET_DATA")):
        lacking = {one: text for one, text in texts.items() if one != name}
        outcome = await pool.run(guest(module, env=small, host_strings=lacking))
        assert isinstance(outcome, GuestFailed), outcome
        assert (outcome.kind, f"{said} is not set" in outcome.stderr) == ("exit", True)


ONE = '{"data":[{"x":[1,2],"y":1}],"size":1}'
REFUSED = {
    "no round": ({"ROUND_ID": ""}, "ROUND_ID"),
    "no model": ({"MODEL_DATA": ""}, "MODEL_DATA"),
    "no data": ({"DATASET_DATA": ""}, "DATASET_DATA"),
    "a model of nothing": ({"MODEL_DATA": "{}"}, "no tensors"),
    "another model": ({"MODEL_DATA": '{"w":[0,0],"b":0}'}, "no perceptron"),
    "a tensor too many": ({"MODEL_DATA": '{"w1":[[0,0]],"b1":[0],"w3":[1]}'}, "no perceptron"),
    "flat weights": ({"MODEL_DATA": '{"w1":[0,0],"b1":[0,0]}'}, "shapes"),
    "ragged weights": ({"MODEL_DATA": '{"w1":[[0,0],[0]],"b1":[0,0]}'}, "ragged"),
    "lists of unlike depth": ({"MODEL_DATA": '{"w1":[[0,0],0],"b1":[0,0]}'}, "ragged"),
    "layers that do not meet": (
        {"MODEL_DATA": '{"w1":[[0,0]],"b1":[0],"w2":[[0,0]],"b2":[0]}'},
        "takes 2 inputs",
    ),
    "a label of no class": ({"DATASET_DATA": ONE.replace('"y":1', '"y":2')}, "label"),
    "a label in between": ({"DATASET_DATA": ONE.replace('"y":1', '"y":0.5')}, "label"),
    "a row too long": ({"DATASET_DATA": ONE.replace("[1,2]", "[1,2,3]")}, "features"),
    "rows missing": ({"DATASET_DATA": ONE.replace('"size":1', '"size":2')}, "incomplete"),
    "momentum 1": ({"HYPERPARAMS": '{"momentum":1}'}, "momentum"),
    "mu below 0": ({"HYPERPARAMS": '{"mu":-1}'}, "mu"),
    "lr 0": ({"HYPERPARAMS": '{"lr":0}'}, "lr"),
    "epochs 1.5": ({"HYPERPARAMS": '{"epochs":1.5}'}, "epochs"),
    "epochs of text": ({"HYPERPARAMS": '{"epochs":"1"}'}, "malformed"),
    "divergence": ({"HYPERPARAMS": '{"lr":1e8,"epochs":60,"momentum":0.9,"mu":1e8}'}, "diverged"),
}


@pytest.mark.parametrize(("changed", "said"), REFUSED.values(), ids=REFUSED.keys())
async def test_it_never_trains_on_what_is_not_there(pool, changed, said):
    """Missing, broken or unfitting inputs end with a message and a status, never with an update."""
    env = {
        "ROUND_ID": "r1",
        "MODEL_DATA": '{"w1":[[0,0]],"b1":[0]}',
        "DATASET_DATA": ONE,
        "HYPERPARAMS": "{}",
        **changed,
    }
    outcome = await pool.run(guest(PERCEPTRON, env=env))
    assert isinstance(outcome, GuestFailed), outcome
    assert (outcome.kind, outcome.stdout) == ("exit", "")
    assert said in outcome.stderr


@pytest.mark.timeout(400)
async def test_the_shipped_perceptron_is_what_its_source_builds(tmp_path):
    """The committed module is, byte for byte, what the Makefile makes of the source today."""
    assert build_c("mlp", tmp_path).read_bytes() == PERCEPTRON.read_bytes()
    assert PERCEPTRON.stat().st_size < 96 * 1024
