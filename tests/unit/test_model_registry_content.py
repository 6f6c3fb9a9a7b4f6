"""Model versions between JSON and safetensors."""

import json
import struct

import pytest

from propeller.errors import BadInput, DecodeError, PropellerError, StorageBroken, TooLarge
from propeller.federation.model_registry.content import initial, propose, render
from propeller.fl.tensors import Tensors, content_hash, from_json

MODEL = {"w": [[0.1, -0.0], [1e-308, 5e-324]], "b": 1.7976931348623157e308, "layer/1": []}


def proposed(**body):
    """What is proposed for a posted body."""
    return propose(json.dumps(body).encode())[:2]


def test_floats_round_trip_exactly():
    """JSON in, safetensors kept, JSON out: the same bits, minus zero and subnormals included."""
    _, content = proposed(model=MODEL)
    back = json.loads(render(content))
    assert struct.pack("<d", back["w"][0][1]) == struct.pack("<d", -0.0)
    assert back == MODEL


def test_proposal_holds_what_was_posted():
    """Every documented field arrives."""
    proposal, _ = proposed(
        model=MODEL,
        version=4,
        name="hospital",
        parent=3,
        round_id="exp-4",
        strategy={"name": "fedavg", "version": 1, "options": {}},
        participants=["p1", "p2"],
        metrics={"loss": 0.25},
    )
    assert (proposal.name, proposal.version, proposal.parent) == ("hospital", 4, 3)
    assert proposal.round_id == "exp-4"
    assert json.loads(proposal.strategy_json or "") == {"name": "fedavg", "version": 1, "options": {}}
    assert proposal.participants == ("p1", "p2")
    assert proposal.metrics == {"loss": 0.25}
    assert proposal.sha256 == content_hash(from_json(MODEL, "m")[0])


def test_defaults_are_global_model_and_the_next_number():
    """The original's body, and the shorter one that the coordinator sends."""
    proposal, _ = proposed(model={"w": [0, 0, 0], "b": 0})
    assert (proposal.name, proposal.version, proposal.parent) == ("global_model", None, None)


def test_version_in_the_model_is_no_tensor():
    """It is metadata: it changes neither the content nor the number asked for."""
    with_version, content = proposed(model={"w": [1], "version": 9})
    without, _ = proposed(model={"w": [1]})
    assert with_version.sha256 == without.sha256
    assert with_version.version is None
    assert json.loads(render(content)) == {"w": [1]}


def test_initial_equals_the_posted_zero_model():
    """The published walk posts version 0 after the registry made its own: the same content."""
    tensors, _ = from_json({"w": [0, 0, 0], "b": 0}, "m")
    assert (
        initial(Tensors(tensors))[0].sha256 == proposed(model={"w": [0, 0, 0], "b": 0}, version=0)[0].sha256
    )


BAD = {
    "not JSON": (b"nope", DecodeError),
    "no model": ({"version": 1}, DecodeError),
    "model null": ({"model": None}, DecodeError),
    "no tensors": ({"model": {}}, BadInput),
    "only a version": ({"model": {"version": 1}}, BadInput),
    "ragged": ({"model": {"w": [[1], 2]}}, BadInput),
    "text": ({"model": {"w": "abc"}}, BadInput),
    "version negative": ({"model": {"w": [1]}, "version": -1}, BadInput),
    "version half": ({"model": {"w": [1]}, "version": 0.5}, DecodeError),
    "version huge": ({"model": {"w": [1]}, "version": 2**63}, BadInput),
    "parent negative": ({"model": {"w": [1]}, "parent": -3}, BadInput),
    "name with a slash": ({"model": {"w": [1]}, "name": "a/b"}, BadInput),
    "round with a blank": ({"model": {"w": [1]}, "round_id": "a b"}, BadInput),
    "participant no id": ({"model": {"w": [1]}, "participants": ["ok", ""]}, BadInput),
    "metric no number": ({"model": {"w": [1]}, "metrics": {"loss": "low"}}, DecodeError),
    "too many metrics": ({"model": {"w": [1]}, "metrics": {f"m{i}": 0 for i in range(65)}}, TooLarge),
    "strategy too long": ({"model": {"w": [1]}, "strategy": {"name": "x" * 300_000}}, TooLarge),
}


@pytest.mark.parametrize(("body", "kind"), BAD.values(), ids=BAD.keys())
def test_bad_body_is_refused(body, kind):
    """Each is the caller's error, of the kind that tells it apart."""
    with pytest.raises(kind) as caught:
        propose(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert isinstance(caught.value, PropellerError)
    assert 400 <= caught.value.http_status < 500


def test_content_that_the_disk_changed_is_storage_broken():
    """Bad bytes in the registry's own files are no fault of the reader."""
    with pytest.raises(StorageBroken, match="cannot be read"):
        render(b"\x00" * 40)
