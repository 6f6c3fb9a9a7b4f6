"""A worker's real process that is given no address but the broker's, and services that die meanwhile."""

import json
import tomllib

import numpy as np
import pytest
from test_e2e_large_model import PERCEPTRON, SAFETENSORS, ask
from walk_system import joined, started, until

from propeller.fl.tensors import Tensors, from_safetensors, to_safetensors

INPUTS, UNITS = 5_000, 1_000
KEPT = {"domain_id", "channel_id", "client_id", "client_key"}


def lonely(system, directory):
    """The configuration of a worker that says who it is, where the broker is, and nothing else."""
    whole = directory / "whole.toml"
    system.cli("provision", "add-proplets", "1", "-f", str(whole), "--data-dir", str(system.data))
    document = tomllib.loads(whole.read_text())
    lines = []
    for name, table in document.items():
        kept = {key: value for key, value in table.items() if key in KEPT} if name != "services" else {}
        kept |= {"mqtt_address": f"tcp://localhost:{system.ports['mqtt']}"} if name == "services" else {}
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in kept.items())]
    path = directory / "lonely.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_a_large_update_survives_the_death_of_every_service(tmp_path):
    """Model and update of 20 MB by the broker alone; all services are killed while the pieces come.

    Those that were there are not sent again, and the update counts once.
    """
    draw = np.random.default_rng(1)
    model = Tensors(
        {
            "w1": draw.normal(0, 0.01, (UNITS, INPUTS)).astype(np.float32),
            "b1": np.zeros(UNITS, np.float32),
        }
    )
    rows = [{"x": draw.integers(0, 2, INPUTS).tolist(), "y": label} for label in (3, 7)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    flags = ("--mqtt-only", "--data", str(tmp_path / "rows.json"), "--heartbeat", "1s")
    with (
        started(tmp_path / "up", proplets=0) as system,
        joined(system, lonely(system, tmp_path), tmp_path, *flags) as worker,
    ):
        registry = system.ports["model-registry"]
        system.push(PERCEPTRON, "mlp:latest")
        ask(registry, "POST", "/models?name=big", to_safetensors(model), content_type=SAFETENSORS)
        status, body = system.begin_round(
            "big-1",
            model_ref="fl/models/big_v0",
            participants=[worker],
            k_of_n=1,
            timeout_s=120,
            hyperparams={"lr": 0.0001},
            task_wasm_image="local-registry:5000/mlp:latest",
        )
        assert status in {200, 201}, body
        stored = system.data / "coordinator" / "piece-blobs"
        until("some pieces are there", lambda: len(list(stored.glob("??/*"))) >= 4, 60)
        system.kill()
        held = len(list(stored.glob("??/*")))
        assert held < model.bytes // 512_000, "the update was whole before anybody died"
        system.again()
        done = system.completed("big-1", 90)
        assert (done["state"], done["num_updates"], done["model_version"]) == ("completed", 1, 1), done
        assert not list(stored.glob("??/*"))
        made = from_safetensors(ask(registry, "GET", "/models/big/versions/1", accept=SAFETENSORS), "it")
        assert not np.array_equal(made["w1"], model["w1"])
        task = until("the task is over", lambda: _results(system))
        assert (task["via"], task["proplet_id"]) == ("mqtt", worker)


def _results(system):
    (task,) = [one for one in system.get("manager", "/tasks").body["tasks"] if one["name"].startswith("fl-")]
    return system.get("manager", f"/tasks/{task['id']}").body.get("results")
