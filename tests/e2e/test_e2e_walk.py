"""The published walk, step by step, with real processes: over the embedded broker, and over Mosquitto.

The tests of one broker share one system and are in the order of the walk; each builds on those before it.
"""

import base64
import json
import subprocess
import uuid
from collections.abc import Iterator
from typing import Self

import oras.client
import pytest
from walk_system import IMAGE, JSON, TRAINER, System, need, request, started

from trainer_builds import build_stranger

pytestmark = pytest.mark.e2e

PUBLISHED_URLS = {
    "COORDINATOR_URL": "http://coordinator-http:8080",
    "MODEL_REGISTRY_URL": "http://model-registry:8081",
    "DATA_STORE_URL": "http://local-data-store:8083",
}
"""The container names of the published commands, unedited."""
HYPERPARAMS = '{"epochs":1,"lr":0.01,"batch_size":16}'
ECHO = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 16) "hello from wasm\\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 16))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


@pytest.fixture(scope="module", params=["embedded", "mosquitto"])
def system(request, tmp_path_factory) -> Iterator[System]:
    """`propeller up --proplets 3`, once per broker."""
    if request.param == "mosquitto":
        need("mosquitto", "mosquitto")
    with started(tmp_path_factory.mktemp("walk") / "data", "--broker", request.param) as running:
        yield running


@pytest.fixture(scope="session")
def stranger(tmp_path_factory) -> bytes:
    """The Go trainer, built as a stranger builds it."""
    return build_stranger(tmp_path_factory.mktemp("stranger")).read_bytes()


def manual(system: System, round_id: str, version: int, **fields):
    """The body of a published manual task for the first proplet."""
    env = {"ROUND_ID": round_id, "MODEL_URI": f"fl/models/global_model_v{version}"}
    env |= {"HYPERPARAMS": HYPERPARAMS} | PUBLISHED_URLS
    return {"name": f"fl-manual-{round_id}", "proplet_id": system.proplets[0], "env": env} | fields


def weighted_mean(updates, samples):
    """The mean of numbers, weighted."""
    return sum(one * n for one, n in zip(updates, samples, strict=True)) / sum(samples)


def test_step_1_health(system):
    """Every published port answers its health as JSON."""
    for port in (7070, 8086, 8085, 8084, 8083):
        answer = system.curl(f"http://localhost:{port}/health")
        assert answer.status == 200
        assert answer.body["status"] in {"ok", "pass"}


def test_step_2_proplets(system):
    """The proplets that `up` made are listed alive under their UUIDs, which the env file names."""
    answer = system.curl("http://localhost:7070/proplets")
    assert answer.status == 200
    found = {one["id"]: one for one in answer.body["proplets"]}
    assert sorted(found) == sorted(system.proplets)
    assert len(found) == 3
    for one in found.values():
        assert str(uuid.UUID(one["id"])) == one["id"]
        assert one["name"]
        assert one["alive"] is True


def test_step_3_image(system, tmp_path):
    """The trainer pushed by oras and by us is the same image to skopeo and to a plain GET."""
    host = f"localhost:{system.ports['registry']}"
    client = oras.client.OrasClient(hostname=host, insecure=True)
    client.push(
        target=f"{host}/by-oras:latest", files=[str(TRAINER)], disable_path_validation=True, quiet=True
    )
    system.push()
    layers = []
    for name in ("fl-client-wasm", "by-oras"):
        raw = subprocess.run(
            [
                need("skopeo", "skopeo"),
                "inspect",
                "--raw",
                "--tls-verify=false",
                f"docker://{host}/{name}:latest",
            ],
            capture_output=True,
            check=True,
        ).stdout
        manifest = json.loads(raw)
        asked = f"http://{host}/v2/{name}/manifests/latest"
        assert request(asked, headers={"Accept": manifest["mediaType"]}) == (200, manifest)
        layers.append(manifest["layers"][0]["digest"])
    assert layers[0] == layers[1]
    shown = system.cli("image", "inspect", f"{host}/fl-client-wasm:latest").stdout
    assert layers[0] in shown


@pytest.mark.parametrize("header", [["-H", f"Content-Type: {JSON}"], []], ids=["header", "bare -d"])
def test_step_4_first_model(system, header):
    """Version 0 is stored by curl as written, with its header and without, and read back."""
    body = '{"version":0,"model":{"w":[0,0,0],"b":0}}'
    stored = system.curl("-X", "POST", "http://localhost:8084/models", *header, "-d", body)
    assert stored.status == 201
    assert (stored.body["version"], stored.body["status"]) == (0, "stored")
    read = system.curl("http://localhost:8084/models/0")
    assert read == (200, {"w": [0, 0, 0], "b": 0})


def test_steps_5_to_7_first_round(system):
    """A round by curl as written: three tasks with the right environment, three updates, and a next model."""
    participants = system.proplets
    body = {
        "experiment_id": "exp-1",
        "round_id": "r-1",
        "model_ref": "fl/models/global_model_v0",
        "participants": participants,
        "hyperparams": {"epochs": 1, "lr": 0.01, "batch_size": 16},
        "k_of_n": 3,
        "timeout_s": 60,
        "task_wasm_image": IMAGE,
    }
    with Listener(system, "fl/rounds/next") as listener:
        accepted = system.curl(
            "-X", "POST", "http://localhost:7070/fl/experiments", "-H", f"Content-Type: {JSON}", "-d",
            json.dumps(body),
        )  # fmt: skip
        assert accepted.status == 200
        assert accepted.body == {"experiment_id": "exp-1", "round_id": "r-1", "status": "configured"}
        status = system.completed("r-1")
        heard = listener.first()
    assert (status["completed"], status["num_updates"], status["model_version"]) == (True, 3, 1)
    assert (heard["new_model_version"], heard["model_uri"]) == (1, "fl/models/global_model_v1")
    proxied = system.curl("http://localhost:7070/fl/rounds/r-1/complete")
    assert proxied.status == 200
    assert (proxied.body["status"]["completed"], proxied.body["status"]["num_updates"]) == (True, 3)


def test_step_6_tasks(system):
    """The round made exactly one task per participant, named and told as published."""
    page = system.curl("http://localhost:7070/tasks").body
    tasks = [one for one in page["tasks"] if one["name"].startswith("fl-round-r-1-")]
    assert (page["total"], len(tasks)) == (3, 3)
    assert sorted(one["proplet_id"] for one in tasks) == sorted(system.proplets)
    for one in tasks:
        assert one["name"] == f"fl-round-r-1-{one['proplet_id']}"
        assert one["env"]["ROUND_ID"] == "r-1"
        assert one["env"]["MODEL_URI"] == "fl/models/global_model_v0"
        assert json.loads(one["env"]["HYPERPARAMS"]) == {"epochs": 1, "lr": 0.01, "batch_size": 16}
        ended = system.ended(one["id"])
        assert ended["state"] == 3, ended


def test_step_8_new_model(system):
    """Version 1 is another model than version 0, of the same shape."""
    answer = system.curl("http://localhost:8084/models/1")
    assert answer.status == 200
    assert (len(answer.body["w"]), type(answer.body["b"])) == (3, float)
    assert answer.body["w"] != [0, 0, 0]


@pytest.mark.parametrize("header", [["-H", f"Content-Type: {JSON}"], []], ids=["header", "bare -d"])
def test_step_8_aggregate_alone(system, header):
    """The aggregator by itself gives the weighted mean of the documented body."""
    updates = [
        {"round_id": "r", "proplet_id": "a", "num_samples": 10, "update": {"w": [1, 2, 3], "b": 1}},
        {"round_id": "r", "proplet_id": "b", "num_samples": 30, "update": {"w": [5, 6, 7], "b": 2}},
    ]
    answer = system.curl(
        "-X", "POST", "http://localhost:8085/aggregate", *header, "-d", json.dumps({"updates": updates})
    )
    assert answer.status == 200
    assert answer.body["w"] == [weighted_mean(pair, (10, 30)) for pair in ((1, 5), (2, 6), (3, 7))]
    assert answer.body["b"] == weighted_mean((1, 2), (10, 30))


def test_step_9_more_rounds(system):
    """Each round makes the next version, from the newest and from an older one."""
    for number, base in ((2, 1), (3, 2), (4, 0)):
        answer = system.begin_round(f"r-{number}", model_ref=f"fl/models/global_model_v{base}")
        assert answer.status == 200, answer
        assert system.completed(f"r-{number}")["model_version"] == number
    versions = system.get("model-registry", "/models").body["versions"]
    assert sorted(versions) == [0, 1, 2, 3, 4]
    models = [system.get("model-registry", f"/models/{number}").body for number in (1, 2, 3, 4)]
    assert len({json.dumps(model) for model in models}) == 4


def test_step_9_a_closed_round_stops_its_tasks(system):
    """When two of three suffice, the third's training is stopped: its proplet is free at once."""
    slow = system.proplets[2]
    kept = system.get("data-store", f"/datasets/{slow}").body
    rows = [{"x": [0.1, 0.2, 0.3], "y": 1}] * 4000
    assert system.post("data-store", f"/datasets/{slow}", {"data": rows}).status == 201
    hyperparams = {"epochs": 20_000, "lr": 0.01, "batch_size": 16}
    fast = {one: system.get("data-store", f"/datasets/{one}").body for one in system.proplets[:2]}
    for one in fast:
        assert system.post("data-store", f"/datasets/{one}", {"data": rows[:1]}).status == 201
    assert system.begin_round("r-closes", k_of_n=2, hyperparams=hyperparams).status == 200
    assert system.completed("r-closes")["num_updates"] == 2
    page = system.get("manager", "/tasks").body["tasks"]
    (left,) = [one for one in page if one["name"] == f"fl-round-r-closes-{slow}"]
    ended = system.ended(left["id"], timeout_s=5)
    assert ended["state"] == 6, ended
    assert ended["reason"], ended
    for one, data in {**fast, slow: kept}.items():
        assert system.post("data-store", f"/datasets/{one}", data).status == 201


@pytest.mark.parametrize("header", [["-H", f"Content-Type: {JSON}"], []], ids=["header", "bare -d"])
def test_step_10_manual_task(system, header):
    """A task made and started by hand trains and submits, the published host names left as they are."""
    round_id = f"manual-{len(header)}"
    body = manual(system, round_id, 1, image_url=IMAGE)
    made = system.curl("-X", "POST", "http://localhost:7070/tasks", *header, "-d", json.dumps(body))
    assert made.status == 201
    begun = system.curl("-X", "POST", f"http://localhost:7070/tasks/{made.body['id']}/start")
    assert begun == (200, {"started": True})
    ended = system.ended(made.body["id"])
    assert ended["state"] == 3, ended
    assert ended["env"] == body["env"], "the stored task keeps what the user wrote"
    status = system.completed(round_id)
    assert (status["num_updates"], status["k_of_n"]) == (1, 1)
    assert ended["results"]["base_model_uri"] == "fl/models/global_model_v1"


def test_step_10_with_a_file(system):
    """The same with the module inline; the answer shows only its edges."""
    file = base64.b64encode(TRAINER.read_bytes()).decode()
    ended = system.run(**manual(system, "manual-file", 1, file=file))
    assert ended["state"] == 3, ended
    assert "<REDACTED>" in ended["file"]
    assert len(ended["file"]) < 40
    assert system.completed("manual-file")["num_updates"] == 1


@pytest.mark.parametrize("source", ["file", "registry"])
def test_step_10_strangers_trainer(system, stranger, tmp_path, source):
    """A Go program with `_start` and `run`, megabytes large, trains unchanged, inline and as an image."""
    assert len(stranger) > 1_000_000
    if source == "file":
        where = {"file": base64.b64encode(stranger).decode()}
    else:
        (tmp_path / "stranger.wasm").write_bytes(stranger)
        system.push(tmp_path / "stranger.wasm", "stranger:v1")
        where = {"image_url": "local-registry:5000/stranger:v1"}
    task_id = system.task(**manual(system, f"stranger-{source}", 1, **where))
    assert system.post("manager", f"/tasks/{task_id}/start").status == 200
    ended = system.ended(task_id, timeout_s=40)
    assert ended["state"] == 3, ended
    assert system.completed(f"stranger-{source}")["num_updates"] == 1


def test_step_11_plain_task(system):
    """A task without a round runs the module, and its stdout is its result."""
    from wasmtime import wat2wasm  # noqa: PLC0415 - a hundred milliseconds that other tests need not pay

    ended = system.run(name="hello", file=base64.b64encode(wat2wasm(ECHO)).decode())
    assert ended["state"] == 3, ended
    answer = system.curl(f"http://localhost:7070/tasks/{ended['id']}/results")
    assert answer == (200, {"results": "hello from wasm\n"})


def test_step_12_task_ids(system):
    """A chosen id is honoured while it is free; an empty one becomes a UUID."""
    chosen = {"id": "fl-task-embedded-1", "name": "embedded", "image_url": IMAGE}
    assert system.task(**chosen) == "fl-task-embedded-1"
    taken = system.post("manager", "/tasks", chosen)
    assert taken.status == 409
    assert "fl-task-embedded-1" in taken.body["error"]
    made = system.task(**chosen | {"id": ""})
    assert str(uuid.UUID(made)) == made


def test_step_13_data_store(system):
    """The seeded data are synthetic and say so; what was posted is kept and served."""
    listed = system.curl("http://localhost:8083/datasets").body
    assert set(system.proplets) <= set(listed["clients"])
    for one in system.proplets:
        data = system.curl(f"http://localhost:8083/datasets/{one}").body
        assert (data["size"], len(data["data"]), data["proplet_id"]) == (64, 64, one)
        assert {len(row["x"]) for row in data["data"]} == {3}
        assert {row["y"] for row in data["data"]} <= {0, 1}
    fresh = {"data": [{"x": [0.1, 0.2, 0.3], "y": 1}, {"x": [0.3, 0.2, 0.1], "y": 0}]}
    stored = system.curl("-X", "POST", "http://localhost:8083/datasets/some-device", "-d", json.dumps(fresh))
    assert (stored.status, stored.body["size"], stored.body["status"]) == (201, 2, "stored")
    assert system.get("data-store", "/datasets/some-device").body["data"] == fresh["data"]


def test_logs_tell_the_story_of_a_round(system):
    """`propeller logs` finds a round's lines, by its id, in every role that had a part in it."""
    for role in ("manager", "coordinator", "proplet1"):
        shown = system.cli("logs", role, "--round", "r-1", "--data-dir", str(system.data)).stdout
        lines = [json.loads(line) for line in shown.splitlines()]
        assert lines, f"{role} says nothing about r-1"
        assert all("r-1" in json.dumps(line) for line in lines)
    assert "Traceback" not in (system.data / "stderr").read_text()


class Listener:
    """`mosquitto_sub` with the operator's credentials of the env file."""

    def __init__(self, system: System, topic: str) -> None:
        env = system.env
        self.command = [
            need("mosquitto_sub", "mosquitto-clients"), "-h", env["MQTT_HOST"], "-p", env["MQTT_PORT"],
            "-u", env["MQTT_USERNAME"], "-P", env["MQTT_PASSWORD"], "-i", env["MQTT_USERNAME"],
            "-q", "1", "-t", topic, "-C", "1", "-W", "40", "-d",
        ]  # fmt: skip

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            ["stdbuf", "-oL", *self.command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in self.process.stdout:
            if "SUBACK" in line:
                break
        return self

    def first(self):
        """The first message heard."""
        lines = [line for line in self.process.stdout if line.startswith("{")]
        assert lines, "mosquitto_sub heard nothing"
        return json.loads(lines[0])

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
