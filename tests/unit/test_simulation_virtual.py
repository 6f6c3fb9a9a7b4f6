"""Virtual clients over a trainer in plain Python: what guests are asked, what becomes of their answers."""

import asyncio
import json

import numpy as np
import pytest

from propeller.errors import BadInput, CallerError, PeerRefused
from propeller.fl.launch import trainer_seed
from propeller.fl.selection import Selection
from propeller.fl.tensors import Tensors
from propeller.ports import GuestDone, GuestFailed
from propeller.simulation.virtual import Recipe, VirtualFederation

CLIENTS = {f"c{n}": {"data": [{"x": [1.0], "y": n}] * (n + 1), "size": n + 1} for n in range(5)}


class Adder:
    """Moves every parameter by its data's label; counts how many guests run at once."""

    def __init__(self, **answer):
        self.jobs, self.answer, self.running, self.most = [], answer, 0, 0

    async def run(self, job):
        """The update as a guest would print it, after others had their turn."""
        self.jobs.append(job)
        self.running += 1
        self.most = max(self.most, self.running)
        # The first to come ends last: arrival must not show.
        for _ in range(10 - len(self.jobs)):
            await asyncio.sleep(0)
        self.running -= 1
        data = json.loads(job.env["DATASET_DATA"])
        model = json.loads(job.env["MODEL_DATA"])
        update = {name: (np.array(value) + data["data"][0]["y"]).tolist() for name, value in model.items()}
        printed = {"update": update, "num_samples": data["size"], "metrics": {"loss": 1.0}, **self.answer}
        return GuestDone(stdout=json.dumps(printed), stderr="")

    def keep_warm(self, workers):
        """Nothing is warm here."""

    async def close(self):
        """Nothing is open."""


def federation(runtime, workers=2, **recipe):
    """Five clients, one float32 tensor."""
    made = Recipe(module=b"wasm", **{"seed": 3, **recipe})
    return VirtualFederation(runtime, made, CLIENTS, Tensors({"w": np.zeros(2, "f4")}), workers=workers)


async def test_rounds_train_everyone_and_fold_by_samples():
    """Σ n·y / Σ n = 40/15 a round; two rounds add up; the model keeps its dtype; two guests at a time."""
    runtime = Adder()
    fed = federation(runtime, hyperparams={"lr": 0.5}, strategy="fedprox", options={"mu": 0.1})
    first, second = await fed.advance(), await fed.advance()
    assert first.participants == tuple(CLIENTS)
    assert (first.samples, first.metrics) == (15, {"loss": 1.0})
    assert np.array_equal(first.model["w"], np.full(2, 40 / 15, "f4"))
    assert np.allclose(second.model["w"], 80 / 15)
    assert fed.model.keys() == second.model.keys()
    assert runtime.most == 2
    env = runtime.jobs[0].env
    assert json.loads(env["HYPERPARAMS"]) == {"lr": 0.5, "mu": 0.1}
    assert env["SEED"] == str(trainer_seed(3, env["ROUND_ID"], env["PROPLET_ID"]))
    assert len({job.env["SEED"] for job in runtime.jobs}) == 10


async def test_a_draw_is_of_the_seed_and_workers_change_nothing():
    """Two of five each round: the same ones and the same bits with one worker or four."""

    async def lived(seed, workers):
        fed = federation(Adder(), workers=workers, seed=seed, selection=Selection(clients=2))
        return [(made.participants, made.model) for made in [await fed.advance() for _ in range(6)]]

    assert await lived(1, 1) == await lived(1, 4)
    assert await lived(1, 1) != await lived(2, 1)
    assert all(len(participants) == 2 for participants, _ in await lived(1, 1))


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"update": {"w": [1.0]}}, "wrong_shape"),
        ({"update": {"w": [1e300, 0.0]}}, "too_large"),
        ({"num_samples": 0}, "bad_samples"),
        ({"base_model_uri": "fl/models/virtual_v7"}, "wrong_base"),
    ],
)
async def test_an_update_that_no_coordinator_would_take_ends_the_round(answer, code):
    """The same checks by the same code; the model stays as it was."""
    fed = federation(Adder(**answer))
    with pytest.raises(CallerError) as caught:
        await fed.advance()
    assert caught.value.reason == code
    assert (fed.rounds, fed.model["w"].tolist()) == (0, [0, 0])


async def test_a_failed_guest_ends_the_round_with_its_message():
    """And nobody trains in a federation without clients."""

    class Broken(Adder):
        async def run(self, job):
            return GuestFailed(kind="trap", message="out of bounds")

    with pytest.raises(PeerRefused, match="out of bounds"):
        await federation(Broken()).advance()
    with pytest.raises(BadInput, match="at least one data set"):
        VirtualFederation(Adder(), Recipe(module=b"wasm"), {}, Tensors({}))
