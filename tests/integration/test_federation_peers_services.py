"""The coordinator's peers against the real aggregator and registry: one wire, seen from both sides."""

import json

import pytest

from federation_world import Services
from propeller.errors import BadInput
from propeller.federation.coordinator.bodies import Work
from propeller.federation.coordinator.peers import Peers
from propeller.federation.offload import SizedOffload, inline
from propeller.fl.model_ref import ModelRef
from propeller.fl.tensors import from_json, to_safetensors
from propeller.storage.memory_blobs import MemoryBlobs


def work(**more):
    """A round of two participants from version 0."""
    updates = [{"w": [1, 2, 4], "b": 0}, {"w": [2, 4, 8], "b": 1}]
    contents = [to_safetensors(from_json(update, "u")[0]) for update in updates]
    fields = {
        "round_id": "r1",
        "base": ModelRef(version=0),
        "participants": ["p1", "p2"],
        "samples": [1, 3],
        "contents": contents,
        "strategy": "fedavg",
        "strategy_version": 1,
        "options": {},
        "metrics": {"loss": 0.25},
    }
    return Work(**{**fields, **more})


@pytest.fixture(params=["inline", "process"])
async def peers(request):
    """Peers over fresh services, with the work done here and in a worker process."""
    services = Services()
    await services.seed()
    async with SizedOffload(process_bytes=-1) as process:
        offload = inline if request.param == "inline" else process
        made = Peers(
            http=services.http,
            registry_url="http://registry",
            aggregator_url="http://aggregator",
            offload=offload,
            copies=MemoryBlobs(),
        )
        yield services, made


async def test_round_becomes_one_version(peers):
    """Aggregated, stored with its links; done again after a crash, it is the same version."""
    services, made_by = peers
    made = await made_by.make(work())
    assert made.version == 1
    assert await made_by.make(work()) == made
    assert await services.models.versions("global_model") == (0, 1)
    assert await services.ask("GET", "http://registry/models/1") == (200, {"w": [1.75, 3.5, 7], "b": 0.75})
    _, said = await services.ask("GET", "http://registry/models/global_model/versions/1/info")
    assert said["sha256"] == made.model_hash
    assert (said["parent"], said["round_id"], said["participants"]) == (0, "r1", ["p1", "p2"])
    assert said["strategy"]["name"] == "fedavg"


async def test_round_from_an_older_version_gets_the_next_number(peers):
    """Version 2 may descend from version 0."""
    services, made_by = peers
    await made_by.make(work())
    made = await made_by.make(work(round_id="r2", samples=[3, 1]))
    assert made.version == 2
    assert json.loads((await services.raw("GET", "http://registry/models/2")).body)["w"] == [1.25, 2.5, 5]


async def test_missing_base_is_said(peers):
    """Before a round is registered, so that its creator learns of it."""
    _, made_by = peers
    with pytest.raises(BadInput, match="has no fl/models/global_model_v9"):
        await made_by.base(ModelRef(version=9))
