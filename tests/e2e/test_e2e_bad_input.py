"""Everything that users and devices get wrong, on real processes: a clear answer, never a 500 or silence."""

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest
from walk_system import IMAGE, PROPELLER, System, joined, request, started, until
from wasmtime import wat2wasm

pytestmark = pytest.mark.e2e

HEALTHY = '(module (func (export "_start")))'
TRAP = '(module (func (export "_start") unreachable))'
LOOP = '(module (func (export "_start") (loop (br 0))))'
STRANGER = "11111111-2222-4333-8444-555555555555"


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> Iterator[System]:
    """One system for all; no test here may harm it."""
    with started(tmp_path_factory.mktemp("bad") / "data", "--heartbeat", "1s") as running:
        running.push()
        yield running


@pytest.fixture(autouse=True)
def unharmed(request):
    """After every test all roles answer, and no role met anything that it had not expected."""
    yield
    if "system" not in request.fixturenames:
        return
    system = request.getfixturevalue("system")
    for role in ("manager", "coordinator", "aggregator", "model-registry", "data-store"):
        assert system.get(role, "/health").status == 200
        assert "Traceback" not in system.log(role), role


def file(text: str) -> str:
    """A module as the `file` field wants it."""
    return base64.b64encode(wat2wasm(text)).decode()


def says(answer, status: int, *words: str) -> None:
    """The answer has this status and an error in JSON that names these words."""
    assert answer.status == status, answer
    assert isinstance(answer.body, dict), answer
    assert answer.body["error"]
    assert answer.body["code"]
    for word in words:
        assert word in answer.body["error"], answer.body


# --- rounds


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"participants": [STRANGER]}, 404, STRANGER),
        ({"participants": []}, 400, "participants"),
        ({"round_id": "no/slash"}, 400, "no/slash"),
        ({"model_ref": ""}, 400, "model_ref"),
        ({"model_ref": "fl/models/global_model_v99"}, 400, "99"),
        ({"task_wasm_image": ""}, 400, "task_wasm_image"),
        ({"k_of_n": 4}, 400, "k_of_n"),
        ({"k_of_n": -1}, 400, "k_of_n"),
        ({"timeout_s": -1}, 400, "timeout_s"),
        ({"hyperparams": [1]}, 400, "hyperparams"),
        ({"participants": "everybody"}, 400, "participants"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_a_wrong_experiment_is_refused(system, change, status, word):
    """Each wrong field is named; no task and no round comes of it."""
    before = system.get("manager", "/tasks").body["total"]
    says(system.begin_round(**{"round_id": "refused"} | change), status, word)
    assert system.get("manager", "/tasks").body["total"] == before
    says(system.get("coordinator", "/rounds/refused/complete"), 404, "refused")


def test_the_same_round_again_is_the_same_round(system):
    """An equal body is idempotent; another one under the same id is a conflict."""
    assert system.begin_round("twice").status == 200
    assert system.begin_round("twice").status == 200
    says(system.begin_round("twice", k_of_n=2), 409, "twice")
    system.completed("twice")
    page = system.get("manager", "/tasks").body["tasks"]
    assert sum(one["name"].startswith("fl-round-twice-") for one in page) == 3


def test_an_unknown_round(system):
    """404 with the round's name, at the coordinator and through the manager."""
    for role, path in (
        ("coordinator", "/rounds/nowhere/complete"),
        ("manager", "/fl/rounds/nowhere/complete"),
        ("coordinator", "/task?round_id=nowhere"),
    ):
        says(system.get(role, path), 404, "nowhere")


def test_watching_what_is_not_there(system):
    """`fl watch` takes an experiment or a round, and says that it is neither."""
    done = system.cli("fl", "watch", "nope", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no experiment and no round 'nope'" in done.stderr


# --- updates


@pytest.fixture(scope="module")
def collecting(system) -> str:
    """A round that waits for updates by hand: its image's registry is away, so that no proplet sends any."""
    asked = system.begin_round("by-hand", timeout_s=600, task_wasm_image="localhost:1/none:v1")
    assert asked.status == 200, asked
    return "by-hand"


def update(system: System, round_id: str):
    """A right update of the first participant."""
    return {
        "round_id": round_id,
        "proplet_id": system.proplets[0],
        "base_model_uri": "fl/models/global_model_v0",
        "num_samples": 10,
        "metrics": {"loss": 0.5},
        "update": {"w": [1, 2, 3], "b": 4},
    }


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"update": {"w": [1, 2], "b": 4}}, 400),
        ({"update": {"w": [1, 2, 3]}}, 400),
        ({"update": {"w": [1, 2, 3], "b": 4, "c": 5}}, 400),
        ({"update": {"w": [1, "two", 3], "b": 4}}, 400),
        ({"update": {"w": [1, [2], 3], "b": 4}}, 400),
        ({"update": {}}, 400),
        ({"num_samples": 0}, 400),
        ({"num_samples": -5}, 400),
        ({"num_samples": 1.5}, 400),
        ({"num_samples": 1e300}, 400),
        ({"update": {"w": [1, 2, 1e300], "b": 4}}, 400),
        ({"base_model_uri": "fl/models/global_model_v7"}, 400),
        ({"proplet_id": STRANGER}, 403),
        ({"proplet_id": ""}, 400),
        ({"round_id": ""}, 400),
        ({"round_id": "nowhere"}, 404),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_a_wrong_update_is_refused(system, collecting, change, status):
    """At the coordinator and through the manager; nothing of it is counted."""
    body = update(system, collecting) | change
    for role, path in (("coordinator", "/update"), ("manager", "/fl/update")):
        answer = system.post(role, path, body)
        says(answer, answer.status)
        assert answer.status == status, answer
    assert system.status(collecting)["num_updates"] == 0


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_refused(system, collecting, number):
    """What JSON cannot hold, as some encoders write it anyway."""
    text = json.dumps(update(system, collecting)).replace("[1, 2, 3]", f"[1, {number}, 3]")
    assert number in text
    says(system.post("coordinator", "/update", text.encode()), 400)
    assert system.status(collecting)["num_updates"] == 0


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'"text"'])
def test_what_is_no_update_is_refused(system, text):
    """Any bytes at all, at every route that takes JSON."""
    for role, path in (
        ("coordinator", "/update"),
        ("coordinator", "/experiments"),
        ("manager", "/fl/update"),
        ("manager", "/fl/experiments"),
        ("manager", "/tasks"),
        ("aggregator", "/aggregate"),
        ("model-registry", "/models"),
        ("data-store", "/datasets/x"),
    ):
        says(system.post(role, path, text), 400)


def test_an_update_counts_once(system, collecting):
    """Again with the same content: 200 and marked; with another: 409; late: 409."""
    first = update(system, collecting)
    accepted = system.post("coordinator", "/update", first)
    assert (accepted.status, accepted.body["status"]) == (200, "accepted")
    assert not accepted.body.get("duplicate")
    again = system.post("manager", "/fl/update", first)
    assert (again.status, again.body["duplicate"]) == (200, True)
    assert system.status(collecting)["num_updates"] == 1
    other = system.post("coordinator", "/update", first | {"update": {"w": [9, 9, 9], "b": 9}})
    says(other, 409)
    assert other.body["code"] == "already_submitted"
    for one in system.proplets[1:]:
        assert system.post("coordinator", "/update", first | {"proplet_id": one}).status == 200
    assert system.completed(collecting)["num_updates"] == 3
    model = system.get("model-registry", f"/models/{system.status(collecting)['model_version']}").body
    assert model == {"w": [1, 2, 3], "b": 4}
    late = system.post("coordinator", "/update", first | {"update": {"w": [7, 7, 7], "b": 7}})
    says(late, 409)
    says(system.post("coordinator", "/update", first | {"proplet_id": STRANGER}), 403)


# --- tasks


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"name": ""}, 400, "name"),
        ({"proplet_id": STRANGER}, 404, STRANGER),
        ({"file": base64.b64encode(b"not wasm").decode()}, 400, "WASM"),
        ({"file": "%%%"}, 400, "base64"),
        ({"id": "a b"}, 400, "a b"),
        ({"env": {"A": 1}}, 400, "env"),
        ({"env": []}, 400, "env"),
        ({"priority": 101}, 400, "priority"),
        ({"encrypted": True}, 400, "encrypted"),
        ({"limits": {"wall_s": -1}}, 400, "wall_s"),
        ({"inputs": [{}]}, 400, "inputs"),
        ({"metadata": "text"}, 400, "metadata"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_a_wrong_task_is_refused(system, change, status, word):
    """Each wrong field is named, and there is no task."""
    before = system.get("manager", "/tasks").body["total"]
    answer = system.post("manager", "/tasks", {"name": "wrong", "file": file(HEALTHY)} | change)
    says(answer, status, word)
    assert system.get("manager", "/tasks").body["total"] == before


def test_a_taken_task_id(system):
    """409 that says which."""
    system.task(id="taken-1", name="one", file=file(HEALTHY))
    says(system.post("manager", "/tasks", {"id": "taken-1", "name": "two"}), 409, "taken-1")


def test_unknown_things(system):
    """Unknown tasks, proplets, paths and methods: 404 and 405 in JSON, on every role."""
    for method, path in (
        ("GET", "/tasks/none"), ("POST", "/tasks/none/start"), ("POST", "/tasks/none/stop"),
        ("GET", "/tasks/none/results"), ("DELETE", "/tasks/none"), ("GET", f"/proplets/{STRANGER}"),
        ("DELETE", f"/proplets/{STRANGER}"), ("GET", "/tasks/..%2f..%2fetc"),
    ):  # fmt: skip
        says(request(system.url("manager", path), method=method), 404)
    for role in ("manager", "coordinator", "aggregator", "model-registry", "data-store"):
        says(system.get(role, "/no/such/path"), 404, "/no/such/path")
        says(request(system.url(role, "/health"), method="PUT"), 405, "PUT")
    says(system.get("model-registry", "/models/99"), 404, "99")
    says(system.get("model-registry", "/models/-1"), 400)
    says(system.get("data-store", f"/datasets/{STRANGER}"), 404, STRANGER)
    says(system.get("manager", "/tasks?limit=0"), 400)
    says(system.get("manager", "/tasks?limit=many"), 400)
    says(system.get("manager", "/tasks?metadata=nojson"), 400)


def test_a_wrong_dataset_or_model_is_refused(system):
    """What the stores keep has a shape."""
    for data in ({}, {"data": 5}, {"data": [{"x": [1], "y": None}]}, {"data": [{"x": [1]}]}):
        says(system.post("data-store", "/datasets/wrong", data), 400)
    says(system.get("data-store", "/datasets/wrong"), 404)
    for model in ({"model": {"w": [[1], [2, 3]]}}, {"model": 5}, {"version": -1, "model": {"w": [1]}}):
        says(system.post("model-registry", "/models", model), 400)
    says(system.post("model-registry", "/models", {"version": 0, "model": {"w": [9, 9, 9], "b": 9}}), 409)


def test_a_wrong_aggregation_is_refused(system):
    """Unequal shapes, no updates, no weight."""
    good = {"proplet_id": "a", "num_samples": 1, "update": {"w": [1, 2], "b": 0}}
    for updates in (
        [],
        [good, good | {"proplet_id": "b", "update": {"w": [1], "b": 0}}],
        [good | {"num_samples": -1}],
        [good | {"update": {"w": [1, "x"], "b": 0}}],
    ):
        says(system.post("aggregator", "/aggregate", {"updates": updates}), 400)


# --- guests


def test_an_image_that_is_not_wasm(system, tmp_path):
    """Bytes that only call themselves a module fail the task with that reason."""
    (tmp_path / "no.wasm").write_bytes(b"\0asm\1\0\0\0" + b"nonsense" * 10)
    system.push(tmp_path / "no.wasm", "not-wasm:latest")
    ended = system.run(name="nonsense", image_url="local-registry:5000/not-wasm:latest")
    assert (ended["state"], ended["failure"]) == (4, "invalid_module"), ended
    text = tmp_path / "text.wasm"
    text.write_text("I am a text")
    refused = system.cli("image", "push", str(text), f"localhost:{system.ports['registry']}/x:y", check=False)
    assert refused.returncode == 1
    assert "Wasm" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("image", ["local-registry:5000/none:v1", "http://localhost:1/x.wasm"])
def test_an_image_that_nobody_has(system, image):
    """The task fails, and says which image."""
    ended = system.run(name="nobody", image_url=image, limits={"wall_s": 1})
    assert (ended["state"], ended["failure"]) == (4, "image"), ended
    assert image.partition("/")[2].removeprefix("/") in ended["error"], ended


def test_a_registry_that_cannot_be_reached(system):
    """The task waits on nobody's slot, says for which registry, and can be stopped."""
    task_id = system.task(name="away", image_url="localhost:1/a:b")
    system.post("manager", f"/tasks/{task_id}/start")
    path = f"/tasks/{task_id}"
    until("a reason", lambda: "localhost:1" in system.get("manager", path).body.get("reason", ""))
    waiting = system.get("manager", path).body
    assert (waiting["state"], waiting.get("attempts", [])) == (0, [])
    assert system.post("manager", f"{path}/stop").status == 200
    assert system.ended(task_id)["state"] == 6


def test_a_trap(system):
    """A guest that traps fails its task with that type."""
    ended = system.run(name="traps", file=file(TRAP))
    assert (ended["state"], ended["failure"]) == (4, "trap"), ended
    assert "unreachable" in ended["error"]


@pytest.mark.parametrize(("name", "kind"), [("wall_s", "timeout"), ("cpu_s", "cpu")])
def test_an_endless_loop_meets_its_limit(system, name, kind):
    """It fails with the limit's type, soon after the limit."""
    begun_s = time.monotonic()
    ended = system.run(name="loops", file=file(LOOP), limits={name: 0.5})
    assert (ended["state"], ended["failure"]) == (4, kind), ended
    assert time.monotonic() - begun_s < 5


def test_stop_ends_an_endless_loop_at_once(system):
    """Within a second from the request to the task's end."""
    task_id = system.task(name="loops", file=file(LOOP))
    assert system.post("manager", f"/tasks/{task_id}/start").status == 200
    system.in_state(task_id, {2})
    begun_s = time.monotonic()
    assert system.post("manager", f"/tasks/{task_id}/stop") == (200, {"stopped": True})
    ended = system.ended(task_id)
    took_s = time.monotonic() - begun_s
    assert ended["state"] == 6, ended
    assert took_s < 1.0, f"stopping took {took_s:.2f} s"


def test_a_missing_model_fails_the_task(system):
    """A manual task of a version that is not there says so at its start or at its end."""
    env = {"ROUND_ID": "no-model", "MODEL_URI": "fl/models/global_model_v77"}
    task_id = system.task(name="no-model", image_url=IMAGE, env=env)
    answer = system.post("manager", f"/tasks/{task_id}/start")
    if answer.status != 200:
        says(answer, 404, "77")
    else:
        ended = system.ended(task_id)
        assert ended["state"] == 4, ended
        assert "77" in ended["error"], ended


def test_a_round_without_a_model_uri(system):
    """`MODEL_URI` is required with `ROUND_ID`."""
    body = {"name": "no-uri", "image_url": IMAGE, "env": {"ROUND_ID": "no-uri"}}
    answer = system.post("manager", "/tasks", body)
    if answer.status == 201:
        answer = system.post("manager", f"/tasks/{answer.body['id']}/start")
    says(answer, 400, "MODEL_URI")


def test_a_missing_dataset_fails_the_task(system, tmp_path):
    """Nobody trains on made-up data: without a data set the task fails and names it."""
    config = tmp_path / "config.toml"
    data = str(system.data)
    system.cli("provision", "-f", str(config), "--data-dir", data, "add-proplets", "1")
    with joined(system, config, tmp_path) as newcomer:
        env = {"ROUND_ID": "no-data", "MODEL_URI": "fl/models/global_model_v0"}
        ended = system.run(name="no-data", image_url=IMAGE, proplet_id=newcomer, env=env)
        assert ended["state"] == 4, ended
        assert "data set" in ended["error"], ended
        assert system.status("no-data")["num_updates"] == 0


# --- proplets that are known and not there


def test_an_offline_proplet_is_waited_for(system, tmp_path):
    """Accepted, waiting with a visible reason; it runs when the proplet is back."""
    config = tmp_path / "config.toml"
    system.cli("provision", "-f", str(config), "--data-dir", str(system.data), "add-proplets", "1")
    with joined(system, config, tmp_path) as away:
        pass
    until("it is offline", lambda: not system.get("manager", f"/proplets/{away}").body["alive"])
    task_id = system.task(name="waits", file=file(HEALTHY), proplet_id=away)
    assert system.post("manager", f"/tasks/{task_id}/start") == (200, {"started": True})

    def reason() -> str:
        shown = system.get("manager", f"/tasks/{task_id}").body
        assert shown["state"] in {0, 1}, shown
        return shown.get("reason", "")

    assert away in until("a visible reason", reason)
    with joined(system, config, tmp_path):
        assert system.ended(task_id)["state"] == 3


def test_a_round_of_an_offline_proplet_ends_at_its_deadline(system, tmp_path):
    """Accepted; its task waits with a reason; at the deadline the round fails and says why."""
    config = tmp_path / "config.toml"
    system.cli("provision", "-f", str(config), "--data-dir", str(system.data), "add-proplets", "1")
    with joined(system, config, tmp_path) as away:
        pass
    until("it is offline", lambda: not system.get("manager", f"/proplets/{away}").body["alive"])
    assert system.begin_round("nobody", participants=[away], k_of_n=1, timeout_s=2).status == 200
    (task,) = [
        one
        for one in system.get("manager", "/tasks").body["tasks"]
        if one["name"] == f"fl-round-nobody-{away}"
    ]
    assert away in until("a reason", lambda: system.get("manager", f"/tasks/{task['id']}").body.get("reason"))
    status = system.completed("nobody")
    assert (status["state"], status["reason"], status["completed"]) == ("failed", "too_few_updates", False)
    ended = system.ended(task["id"])
    assert ended["state"] in {4, 6}, "its own deadline or the round's end, whichever is seen first"
    assert ended["reason"], ended


def test_a_worker_of_up_is_not_run_twice(system, tmp_path):
    """A shell that read the env file has the first worker's identity; a bare `proplet` there is told so."""
    command = [str(PROPELLER), "proplet", "--metrics-port", "0"]
    shell = os.environ | system.env
    done = subprocess.run(
        command, cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert f"runs proplet {system.proplets[0]} already" in done.stderr
    assert done.stderr.count("\n") == 1
