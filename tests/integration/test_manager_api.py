"""The manager's routes in a calm world: shapes, statuses and reasons, with the whole system behind them."""

import asyncio
import base64
import json

import pytest

from propeller.ports import Message
from propeller.simulation.world.guests import ECHO, ECHO_IMAGE, LOOP, MAGIC, TRAINER_IMAGE
from propeller.simulation.world.world import MANAGER, TOPICS, World, run_world

B64_ECHO = base64.b64encode(ECHO).decode()


class Api:
    """Asks the manager of a world."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def ask(self, method: str, path: str, body=None, *, raw: bytes | None = None, headers=None):
        """(status, decoded body) of one request."""
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        answer = await self.world.calm_http.request(method, MANAGER + path, body=content, headers=headers)
        try:
            return answer.status, json.loads(answer.body) if answer.body else None
        except ValueError:
            return answer.status, answer.body

    async def ready(self, proplets: int = 3) -> None:
        """Wait until that many proplets are alive."""
        await asyncio.sleep(1)
        while True:
            _, page = await self.ask("GET", "/proplets?status=active")
            if page["total"] >= proplets:
                return
            await asyncio.sleep(0.5)

    async def completed(self, round_id: str):
        """The round's status once its model is stored."""
        while True:
            status, said = await self.ask("GET", f"/fl/rounds/{round_id}/complete")
            if status == 200 and said["completed"]:
                return said
            await asyncio.sleep(0.5)

    async def ended(self, task_id: str):
        """The task once its run has ended."""
        while True:
            _, task = await self.ask("GET", f"/tasks/{task_id}")
            if task["state"] in {3, 4, 5, 6}:
                return task
            await asyncio.sleep(0.5)


def in_world(story, proplets: int = 3):
    """Run `story(api)` in a calm world with that many live proplets."""

    async def main(world: World):
        api = Api(world)
        await api.ready(proplets)
        return await story(api)

    return run_world(1, main, proplets=proplets)


def test_a_task_from_creation_to_result():
    """201 with a Location, started, completed with the guest's stdout as its results."""

    async def story(api: Api):
        status, task = await api.ask("POST", "/tasks", {"name": "main", "image_url": ECHO_IMAGE})
        assert status == 201
        assert (task["state"], task["kind"], task["priority"]) == (0, "standard", 50)
        assert task["start_time"] == task["finish_time"] == "0001-01-01T00:00:00Z"
        assert task["daemon"] is False
        assert task["cli_args"] is None
        assert await api.ask("POST", f"/tasks/{task['id']}/start") == (200, {"started": True})
        ended = await api.ended(task["id"])
        assert ended["state"] == 3
        assert ended["results"].startswith("hello from proplet-")
        assert ended["attempts"][0]["state"] == "succeeded"
        assert await api.ask("GET", f"/tasks/{task['id']}/results") == (200, {"results": ended["results"]})

    in_world(story)


def test_an_id_of_the_clients_choice_is_honoured_once():
    """A free id is kept, a taken one refused with 409, an empty one becomes a UUID."""

    async def story(api: Api):
        body = {"name": "main", "id": "fl-task-embedded-1", "file": B64_ECHO}
        status, task = await api.ask("POST", "/tasks", body)
        assert (status, task["id"]) == (201, "fl-task-embedded-1")
        status, error = await api.ask("POST", "/tasks", body)
        assert (status, error["code"]) == (409, "id_taken")
        _, other = await api.ask("POST", "/tasks", {**body, "id": ""})
        assert len(other["id"]) == 36

    in_world(story)


def test_a_list_leaves_long_results_out_and_says_how_long_they_are():
    """A page of a hundred tasks stays small; each task's own routes have its results whole."""

    async def story(api: Api):
        for name, length in (("short", 10), ("long", 20_000)):
            body = {"name": name, "id": name, "file": B64_ECHO, "inputs": ["x" * length]}
            await api.ask("POST", "/tasks", body)
            await api.ask("POST", f"/tasks/{name}/start")
        whole = (await api.ended("long"))["results"]
        await api.ended("short")
        _, page = await api.ask("GET", "/tasks")
        found = {task["id"]: task for task in page["tasks"]}
        assert found["short"]["results"].endswith("x" * 10)
        assert "results" not in found["long"]
        assert found["long"]["results_bytes"] == len(json.dumps(whole))
        assert (await api.ask("GET", "/tasks/long/results"))[1] == {"results": whole}

    in_world(story)


def test_scheduled_tasks_are_listed_by_what_comes_next():
    """Soonest first, and only those that the clock will start."""

    async def story(api: Api):
        for name, cron in (("never", ""), ("yearly", "0 0 1 1 *"), ("hourly", "0 * * * *")):
            await api.ask("POST", "/tasks", {"name": "x", "id": name, "file": B64_ECHO, "schedule": cron})
        _, page = await api.ask("GET", "/tasks?scheduled=true")
        assert (page["total"], [task["id"] for task in page["tasks"]]) == (2, ["hourly", "yearly"])
        _, page = await api.ask("GET", "/tasks?scheduled=true&offset=1&limit=1")
        assert (page["total"], [task["id"] for task in page["tasks"]]) == (2, ["yearly"])
        assert (await api.ask("GET", "/tasks?scheduled=true&metadata=%7B%7D"))[0] == 400

    in_world(story)


def test_a_module_is_uploaded_as_it_is():
    """The bytes themselves are taken beside the form of the original; other types are refused by name."""

    async def story(api: Api):
        await api.ask("POST", "/tasks", {"name": "x", "id": "raw"})

        async def put(content: bytes, kind: str):
            return await api.ask("PUT", "/tasks/raw/upload", raw=content, headers={"content-type": kind})

        wrong = await put(MAGIC, "text/plain")
        assert (wrong[0], "application/wasm" in wrong[1]["error"]) == (400, True)
        assert (await put(b"no module", "application/wasm"))[0] == 400
        assert (await put(ECHO, "application/wasm"))[0] == 200
        await api.ask("POST", "/tasks/raw/start")
        assert (await api.ended("raw"))["state"] == 3

    in_world(story)


def test_inline_modules_are_shown_redacted_and_run():
    """Ten characters at either end are shown; the module itself travels by hash and runs."""

    async def story(api: Api):
        _, task = await api.ask("POST", "/tasks", {"name": "x", "id": "inline", "file": B64_ECHO})
        assert task["file"] == B64_ECHO
        long = MAGIC + bytes(range(100))
        _, task = await api.ask(
            "POST", "/tasks", {"name": "x", "id": "long", "file": base64.b64encode(long).decode()}
        )
        text = base64.b64encode(long).decode()
        assert task["file"] == f"{text[:10]}<REDACTED>{text[-10:]}"
        await api.ask("POST", "/tasks/inline/start")
        assert (await api.ended("inline"))["state"] == 3

    in_world(story)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, "missing identity name"),
        ({"name": "x", "id": "../etc"}, 400, "is not an id"),
        ({"name": "x", "priority": 101}, 400, "priority must be between 0 and 100, got 101"),
        ({"name": "x", "broadcast": True, "proplet_id": "proplet-1"}, 400, "broadcast"),
        ({"name": "x", "encrypted": True}, 400, "encrypted is not offered"),
        ({"name": "x", "schedule": "* * * *"}, 400, "invalid cron expression"),
        ({"name": "x", "schedule": "* * * * *", "timezone": "Mars"}, 400, "no IANA time zone"),
        ({"name": "x", "proplet_id": "nobody"}, 404, "proplet nobody is not registered"),
        ({"name": "x", "file": "!!!"}, 400, "not standard base64"),
        ({"name": "x", "file": base64.b64encode(b"\x7fELF1234").decode()}, 400, "missing magic bytes"),
        ({"name": "x", "env": {"": "1"}}, 400, "env name"),
        ({"name": "x", "kind": "magic"}, 400, "kind is 'magic'"),
        ({"name": "x", "inputs": [True]}, 400, "inputs"),
        ({"name": "x", "limits": {"wall_s": -1}}, 400, "limits.wall_s"),
        ([1], 400, "the task is not valid"),
    ],
)
def test_a_wrong_task_is_refused_with_its_reason(body, status, says):
    """The answer names the field and what would be right; nothing is stored."""

    async def story(api: Api):
        got, error = await api.ask("POST", "/tasks", body)
        assert got == status
        assert says in error["error"]
        assert error["code"]
        assert (await api.ask("GET", "/tasks"))[1]["total"] == 0

    in_world(story)


def test_unlawful_bytes_are_refused():
    """Not JSON, not UTF-8, nested without end, a name twice, or nothing at all: 400, never 500 (A2)."""

    async def story(api: Api):
        twice = b'{"name": "x", "image_url": "a", "name": "y"}'
        for raw in (b"{", b"\xff\xfe", b"[" * 100_000, b"", b'{"name": NaN}', b"null", twice):
            status, error = await api.ask("POST", "/tasks", raw=raw)
            assert status == 400, raw[:20]
            assert error["error"]

    in_world(story)


def test_the_lists_have_the_originals_page_shape():
    """offset, limit, total and items; bounds on limit; numbers become text in inputs."""

    async def story(api: Api):
        for number in range(3):
            await api.ask(
                "POST",
                "/tasks",
                {"name": f"n{number}", "inputs": [1, 2.5, "x"], "metadata": {"n": number}},
            )
        status, page = await api.ask("GET", "/tasks?offset=1&limit=1")
        assert status == 200
        assert (page["offset"], page["limit"], page["total"], len(page["tasks"])) == (1, 1, 3, 1)
        assert page["tasks"][0]["inputs"] == ["1", "2.5", "x"]
        _, page = await api.ask("GET", "/tasks?metadata=%7B%22n%22%3A2%7D")
        assert [task["name"] for task in page["tasks"]] == ["n2"]
        for query in ("limit=0", "limit=101", "limit=x", "offset=-1", "metadata=%5B1%5D"):
            assert (await api.ask("GET", f"/tasks?{query}"))[0] == 400, query
        _, page = await api.ask("GET", "/proplets")
        assert {"id", "name", "alive", "task_count", "metadata", "last_alive_at"} <= set(page["proplets"][0])
        assert (await api.ask("GET", "/proplets?status=odd"))[0] == 400

    in_world(story)


def test_what_is_not_there_is_404():
    """Unknown tasks, proplets, paths; a wrong method is 405 (defect 4.5)."""

    async def story(api: Api):
        for method, path in (
            ("GET", "/tasks/none"),
            ("PUT", "/tasks/none"),
            ("DELETE", "/tasks/none"),
            ("POST", "/tasks/none/start"),
            ("POST", "/tasks/none/stop"),
            ("GET", "/tasks/none/results"),
            ("GET", "/proplets/none"),
            ("GET", "/proplets/none/alive-history"),
            ("GET", "/nothing"),
            ("GET", "/fl/rounds/none/complete"),
            ("GET", "/blobs/zz"),
        ):
            body = {"name": "x"} if method == "PUT" else None
            status, error = await api.ask(method, path, body)
            assert status == 404, (method, path, status)
            assert error["error"], path
        assert (await api.ask("PATCH", "/tasks"))[0] == 405

    in_world(story)


def test_a_second_start_is_refused_while_a_run_is_live_and_adds_a_run_after():
    """409 while it runs; afterwards a start is run 2 (the original never allowed one: defect 4.3)."""

    async def story(api: Api):
        body = {"name": "x", "id": "t", "file": base64.b64encode(LOOP).decode()}
        await api.ask("POST", "/tasks", body)
        await api.ask("POST", "/tasks/t/start")
        status, error = await api.ask("POST", "/tasks/t/start")
        assert (status, error["code"]) == (409, "already_started")
        assert (await api.ask("DELETE", "/tasks/t"))[0] == 409
        await asyncio.sleep(5)
        assert await api.ask("POST", "/tasks/t/stop") == (200, {"stopped": True})
        task = await api.ended("t")
        assert (task["state"], task["error"], task["run"]) == (6, "stopped by user", 1)
        await api.ask("POST", "/tasks/t/start")
        assert (await api.ask("GET", "/tasks/t"))[1]["run"] == 2
        await api.ask("POST", "/tasks/t/stop")
        await api.ended("t")
        assert (await api.ask("DELETE", "/tasks/t"))[0] == 204
        await api.ask("POST", "/tasks", {**body, "file": B64_ECHO})
        await api.ask("POST", "/tasks/t/start")
        task = await api.ended("t")
        assert (task["state"], task["run"]) == (3, 3)

    in_world(story)


def test_a_task_for_an_offline_proplet_waits_with_a_reason():
    """Accepted, Pending, and it says why; it runs when the proplet is back (defect 4.22)."""

    async def story(api: Api):
        api.world.nodes["proplet-2"].crash()
        await asyncio.sleep(1)
        body = {"name": "x", "id": "t", "image_url": ECHO_IMAGE, "proplet_id": "proplet-2"}
        assert (await api.ask("POST", "/tasks", body))[0] == 201
        assert (await api.ask("POST", "/tasks/t/start"))[0] == 200
        _, task = await api.ask("GET", "/tasks/t")
        assert (task["state"], task["reason"]) == (0, "proplet proplet-2 is offline")
        api.world.nodes["proplet-2"].start()
        assert (await api.ended("t"))["state"] == 3

    in_world(story)


def test_put_keeps_what_it_does_not_name():
    """A change of one field leaves the others (the original erased the schedule: defect 4.4)."""

    async def story(api: Api):
        body = {"name": "x", "id": "t", "image_url": ECHO_IMAGE, "env": {"A": "1"}, "metadata": {"k": 1}}
        await api.ask("POST", "/tasks", body)
        status, task = await api.ask("PUT", "/tasks/t", {"priority": 7, "inputs": [3]})
        assert status == 200
        assert (task["name"], task["priority"], task["inputs"]) == ("x", 7, ["3"])
        assert (task["env"], task["metadata"]) == ({"A": "1"}, {"k": 1})
        assert (await api.ask("GET", "/tasks/t"))[1] == task

    in_world(story)


def test_upload_takes_a_multipart_wasm_file():
    """A part `file` named `*.wasm` with the magic bytes; anything else is a 400 that says which."""

    async def story(api: Api):
        await api.ask("POST", "/tasks", {"name": "x", "id": "t"})
        assert (await api.ask("POST", "/tasks/t/start"))[0] == 400

        async def upload(name: str, content: bytes, part: str = "file"):
            lines = f'--b\r\nContent-Disposition: form-data; name="{part}"; filename="{name}"\r\n\r\n'
            raw = lines.encode() + content + b"\r\n--b--\r\n"
            headers = {"content-type": "multipart/form-data; boundary=b"}
            return await api.ask("PUT", "/tasks/t/upload", raw=raw, headers=headers)

        assert (await upload("x.txt", ECHO))[0] == 400
        assert (await upload("x.wasm", b"nope"))[0] == 400
        assert (await upload("x.wasm", ECHO, part="other"))[0] == 400
        assert (await api.ask("PUT", "/tasks/t/upload", {"file": "x"}))[0] == 400
        assert (await upload("x.wasm", ECHO))[0] == 200
        await api.ask("POST", "/tasks/t/start")
        assert (await api.ended("t"))["state"] == 3

    in_world(story)


ROUND = {
    "experiment_id": "e",
    "round_id": "r-1",
    "model_ref": "fl/models/global_model_v0",
    "participants": ["proplet-1", "proplet-2", "proplet-3"],
    "hyperparams": {"epochs": 1, "lr": 0.01},
    "k_of_n": 3,
    "timeout_s": 60,
    "task_wasm_image": TRAINER_IMAGE,
}


async def with_data(api: Api) -> None:
    """Give every proplet a data set."""
    for name in api.world.proplet_ids:
        rows = [{"x": [0.1, 0.2, 0.3], "y": 1}, {"x": [0.3, 0.1, 0.0], "y": 0}]
        await api.world.calm_http.request(
            "POST", f"http://data-store:8083/datasets/{name}", body=json.dumps({"data": rows}).encode()
        )


def test_a_round_makes_one_task_per_participant_and_a_new_model():
    """200 `configured`, three named tasks with their environment, completed in both shapes."""

    async def story(api: Api):
        await with_data(api)
        answer = await api.ask("POST", "/fl/experiments", ROUND)
        assert answer == (200, {"experiment_id": "e", "round_id": "r-1", "status": "configured"})
        assert await api.ask("POST", "/fl/experiments", ROUND) == answer
        status, error = await api.ask("POST", "/fl/experiments", {**ROUND, "timeout_s": 61})
        assert (status, error["code"]) == (409, "round_exists")
        _, page = await api.ask("GET", "/tasks")
        assert page["total"] == 3
        for task in page["tasks"]:
            assert task["name"] == f"fl-round-r-1-{task['proplet_id']}"
            assert task["env"] == {
                "ROUND_ID": "r-1",
                "MODEL_URI": "fl/models/global_model_v0",
                "HYPERPARAMS": '{"epochs":1,"lr":0.01}',
                "FL_JOB_ID": "e",
            }
            ended = await api.ended(task["id"])
            assert (ended["state"], ended["kind"]) == (3, "federated")
        said = await api.completed("r-1")
        assert (said["num_updates"], said["k_of_n"], said["model_version"]) == (3, 3, 1)
        assert said["status"] == {name: value for name, value in said.items() if name != "status"}

    in_world(story)


def test_fedprox_reaches_every_trainer_of_the_first_round():
    """The strategy's mu is among the hyperparameters of each task; the request stays as asked."""

    async def story(api: Api):
        await with_data(api)
        asked = {**ROUND, "strategy": {"name": "fedprox", "options": {"mu": 0.5}}}
        assert (await api.ask("POST", "/fl/experiments", asked))[0] == 200
        assert (await api.ask("POST", "/fl/experiments", asked))[0] == 200
        _, page = await api.ask("GET", "/tasks")
        told = {task["env"]["HYPERPARAMS"] for task in page["tasks"]}
        assert told == {'{"epochs":1,"lr":0.01,"mu":0.5}'}
        assert (await api.completed("r-1"))["model_version"] == 1

    in_world(story)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"participants": ["proplet-1", "ghost"], "k_of_n": 2}, 404, "unknown_participant"),
        ({"participants": []}, 400, "missing_participants"),
        ({"participants": ["proplet-1", "proplet-1"], "k_of_n": 1}, 400, "duplicate_participant"),
        ({"model_ref": ""}, 400, "missing_model_ref"),
        ({"model_ref": "fl/models/global_model_v9"}, 400, "missing_model"),
        ({"task_wasm_image": ""}, 400, "missing_task_wasm_image"),
        ({"k_of_n": 4}, 400, "bad_k_of_n"),
        ({"round_id": "a/b"}, 400, "bad_id"),
        ({"timeout_s": -5}, 400, None),
        ({"strategy": "magic"}, 400, None),
    ],
)
def test_a_wrong_experiment_leaves_nothing_behind(change, status, code):
    """Refused with its reason, by the manager or through it by the coordinator; no task is left."""

    async def story(api: Api):
        got, error = await api.ask("POST", "/fl/experiments", {**ROUND, **change})
        assert got == status, error
        assert code is None or error["code"] == code
        assert (await api.ask("GET", "/tasks"))[1]["total"] == 0
        assert await api.world.manager_store.open_launches() == []

    in_world(story)


def test_without_its_coordinator_an_experiment_is_503_and_withdrawn():
    """The caller may try again later; nothing half-begun stays."""

    async def story(api: Api):
        api.world.nodes["coordinator"].crash()
        await asyncio.sleep(0.1)
        status, _ = await api.ask("POST", "/fl/experiments", ROUND)
        assert status == 503
        assert (await api.ask("GET", "/tasks"))[1]["total"] == 0
        api.world.nodes["coordinator"].start()
        await asyncio.sleep(1)
        assert (await api.ask("POST", "/fl/experiments", ROUND))[0] == 200

    in_world(story)


def test_when_a_round_closes_its_remaining_tasks_are_stopped():
    """With k of n, the slowest participant's task is Interrupted with the round's end as its reason."""

    async def story(api: Api):
        await with_data(api)
        api.world.nodes["proplet-3"].crash()
        await asyncio.sleep(1)
        assert (await api.ask("POST", "/fl/experiments", {**ROUND, "k_of_n": 2}))[0] == 200
        _, page = await api.ask("GET", "/tasks")
        ended = {task["proplet_id"]: await api.ended(task["id"]) for task in page["tasks"]}
        assert ended["proplet-1"]["state"] == ended["proplet-2"]["state"] == 3
        assert ended["proplet-3"]["state"] == 6
        assert ended["proplet-3"]["error"] == "round r-1 is completed"

    in_world(story)


def test_a_missing_data_set_fails_the_task_with_that_reason():
    """A trainer never trains on made-up data."""

    async def story(api: Api):
        await api.ask("POST", "/fl/experiments", ROUND)
        _, page = await api.ask("GET", "/tasks")
        ended = await api.ended(page["tasks"][0]["id"])
        assert (ended["state"], ended["failure"]) == (4, "data")
        assert "data" in ended["error"]

    in_world(story)


def test_a_task_by_hand_trains_and_submits():
    """A manual round has k = 1 and its own model; once closed, a start is 409; MODEL_URI is required."""

    async def story(api: Api):
        await with_data(api)
        env = {"ROUND_ID": "by-hand", "MODEL_URI": "fl/models/global_model_v0"}
        body = {"id": "t", "name": "train", "image_url": TRAINER_IMAGE, "proplet_id": "proplet-1", "env": env}
        await api.ask("POST", "/tasks", body)
        await api.ask("POST", "/tasks/t/start")
        assert (await api.ended("t"))["state"] == 3
        await api.completed("by-hand")
        status, error = await api.ask("POST", "/tasks/t/start")
        assert (status, error["code"]) == (409, "round_closed")
        await api.ask("POST", "/tasks", {**body, "id": "u", "env": {"ROUND_ID": "other"}})
        status, error = await api.ask("POST", "/tasks/u/start")
        assert (status, error["code"]) == (400, "missing_model_uri")

    in_world(story)


def test_an_external_trigger_launches_a_round_over_mqtt():
    """A `rounds/start`, root or below B, registers the round and creates its tasks."""

    async def story(api: Api):
        await with_data(api)
        for round_id, topic in (("ext-1", TOPICS.rounds_start()), ("ext-2", "fl/rounds/start")):
            start = {
                "round_id": round_id,
                "model_uri": "fl/models/global_model_v0",
                "task_wasm_image": TRAINER_IMAGE,
                "participants": ["proplet-1", "proplet-2"],
                "k_of_n": 2,
                "timeout_s": 30,
            }
            api.world.broker.publish("operator", Message(topic, json.dumps(start).encode()))
            said = await api.completed(round_id)
            assert said["num_updates"] == 2

    in_world(story)


def test_poison_messages_disturb_nobody():
    """M8: a thousand unlawful messages are dropped; the task behind them completes."""

    async def story(api: Api):
        for number in range(1000):
            topic = (
                TOPICS.base + "/control/proplet/" + ("alive", "results/proplet-1", "create", "x")[number % 4]
            )
            payload = (b"", b"{", b'{"proplet_id": 7}', b'{"proplet_id":"../x","status":"alive"}')[number % 4]
            api.world.broker.publish("stranger", Message(topic, payload))
        await api.ask("POST", "/tasks", {"name": "x", "id": "t", "image_url": ECHO_IMAGE})
        await api.ask("POST", "/tasks/t/start")
        assert (await api.ended("t"))["state"] == 3
        assert (await api.ask("GET", "/proplets"))[1]["total"] == 3

    in_world(story)
