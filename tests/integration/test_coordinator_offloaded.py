import json

import numpy as np
import pytest

from propeller.errors import BadInput, PeerRefused
from propeller.federation.coordinator.bodies import Work, aggregate_body, base_of, model_body, used
from propeller.federation.coordinator.reading import Sender, admit_update, read_update
from propeller.federation.offload import SizedOffload
from propeller.fl.model_ref import ModelRef
from propeller.fl.tensors import EMPTY, Tensors, from_safetensors, to_safetensors
from propeller.fl.update import Terms

BASE = Tensors({"w": np.zeros(4)})


@pytest.fixture
async def offload():
    """Everything that has bytes goes to the worker process."""
    made = SizedOffload(process_bytes=0)
    yield made
    await made.close()


async def test_heavy_work_crosses_to_the_worker_process_and_back(offload):
    """Drafts, updates, bodies and errors travel; the result is that of doing it here."""
    raw = json.dumps(
        {"round_id": "r", "proplet_id": "p", "num_samples": 2, "update": {"w": [1, 2, 3, 4]}}
    ).encode()
    reading = await offload(read_update, raw, "json", Sender())
    assert reading == read_update(raw, "json", Sender())
    terms = Terms(round_id="r", participants=frozenset({"p"}), base=ModelRef(version=0), base_hash="")
    update, content = await offload(admit_update, reading.draft, terms, BASE, "fedavg")
    assert from_safetensors(content, "x") == update.tensors
    assert await offload(base_of, b'{"w":[0,0,0,0]}', "m") == base_of(b'{"w":[0,0,0,0]}', "m")
    with pytest.raises(PeerRefused, match="no model"):
        await offload(base_of, b"[]", "m")
    wrong = raw.replace(b"4]", b"true]")
    refused = await offload(read_update, wrong, "json", Sender())
    assert isinstance(refused.error, BadInput)
    assert refused.error.reason == "bad_tensor"


async def test_a_round_of_many_is_one_argument(offload):
    """Two hundred contents: more than a worker takes as arguments."""
    who = [f"p{number:03}" for number in range(200)]
    content = to_safetensors(BASE)
    work = Work(
        round_id="r",
        base=ModelRef(version=0),
        participants=who,
        samples=[1] * 200,
        contents=(),
        strategy="fedavg",
        strategy_version=1,
        options={},
        metrics={"loss": 1.0},
    )
    body = json.loads(await offload(aggregate_body, work, BASE, EMPTY, (len(content),) * 200, content * 200))
    assert [one["proplet_id"] for one in body["updates"]] == who
    assert {str(one["update"]) for one in body["updates"]} == {"{'w': [0.0, 0.0, 0.0, 0.0]}"}
    posted, kind, model_hash = await offload(model_body, b'{"model":{"w":[1,2,3,4]}}', BASE, work, used(work))
    assert kind == "application/json"
    assert json.loads(posted)["model"] == {"w": [1.0, 2.0, 3.0, 4.0]}
    assert len(model_hash) == 64
