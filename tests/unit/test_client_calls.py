"""The client: what it sends, what it makes of answers and errors, and its facade for plain code."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from propeller import limits
from propeller.client import AsyncClient, Client, Endpoints
from propeller.client.tasks import ended, state_of
from propeller.core.task import TaskState
from propeller.errors import (
    BadInput,
    Conflict,
    DecodeError,
    Denied,
    NotFound,
    PeerRefused,
    PeerUnavailable,
    StorageFull,
    TooLarge,
)
from propeller.http.memory import MemoryHttp
from propeller.ports import Response
from propeller.wire.tasks import TaskBody


class Script:
    """`ports.Http` that answers from a list, in order, and keeps what was asked."""

    def __init__(self, *answers: tuple[int, object]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, str, Mapping[str, str], bytes]] = []

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_s: float = limits.HTTP_TIMEOUT_S,
        limit_bytes: int = limits.HTTP_BODY_BYTES_MAX,
    ) -> Response:
        """The next answer."""
        self.asked.append((method, url, headers or {}, body))
        status, content = self._answers.pop(0)
        return Response(status, {}, content if isinstance(content, bytes) else json.dumps(content).encode())

    async def stream(self, method, url, *, sink, headers=None, body=b"", timeout_s=0.0, limit_bytes=0):
        """The next answer, its content a byte at a time."""
        answer = await self.request(method, url, headers=headers, body=body)
        for byte in answer.body:
            await sink(bytes([byte]))
        return Response(answer.status, {}, b"" if answer.status < 300 else answer.body)


def _client(*answers: tuple[int, object]) -> tuple[AsyncClient, Script]:
    script = Script(*answers)
    return AsyncClient(Endpoints(manager="http://m:1/"), http=script), script


async def test_a_task_is_sent_without_what_was_not_given():
    """Absent and null differ on some routes, so fields not given stay out of the body."""
    client, script = _client((201, {"id": "t", "name": "add", "state": 0}))
    made = await client.tasks.create(TaskBody(name="add", inputs=["1"], priority=None))
    method, url, headers, body = script.asked[0]
    assert (method, url, headers) == ("POST", "http://m:1/tasks", {"content-type": "application/json"})
    assert json.loads(body) == {"name": "add", "inputs": ["1"]}
    assert (made.id, state_of(made)) == ("t", TaskState.PENDING)


async def test_ids_and_queries_are_escaped():
    """An id is one segment of a path, and a metadata filter one parameter, whatever they hold."""
    client, script = _client(
        (200, {"id": "a/b", "name": "", "state": 3}), (200, b'{"offset":0,"limit":1,"total":0,"tasks":[]}')
    )
    await client.tasks.view("a/b?c")
    await client.tasks.list(limit=1, metadata={"k": "a&b"})
    assert script.asked[0][1] == "http://m:1/tasks/a%2Fb%3Fc"
    assert script.asked[1][1] == "http://m:1/tasks?offset=0&limit=1&metadata=%7B%22k%22%3A%22a%26b%22%7D"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, BadInput), (403, Denied), (404, NotFound), (409, Conflict), (413, TooLarge), (502, PeerRefused),
     (503, PeerUnavailable), (507, StorageFull), (500, PeerRefused)],
)  # fmt: skip
async def test_an_error_keeps_the_servers_words_and_code(status, kind):
    """Each status becomes its error, with the message and the narrow code of the body."""
    client, _ = _client((status, {"error": "no such thing", "code": "narrow"}))
    with pytest.raises(kind, match="no such thing") as caught:
        await client.tasks.view("t")
    assert caught.value.reason == "narrow"


async def test_an_error_that_is_not_json_is_shown_with_its_place():
    """A proxy's page is no reason to lose what was asked of whom."""
    client, _ = _client((502, b"<html>Bad gateway</html>"))
    with pytest.raises(PeerRefused, match=r"manager, GET /tasks/t answered 502.*Bad gateway"):
        await client.tasks.view("t")


async def test_an_answer_of_another_shape_is_named():
    """A server that is no manager is found out by its answer."""
    client, _ = _client((200, []))
    with pytest.raises(DecodeError, match="manager's answer to GET /proplets"):
        await client.proplets.list()


async def test_a_role_that_is_not_there_is_named_with_its_flag():
    """The message says which address was tried and which option changes it."""
    client = AsyncClient(http=MemoryHttp())
    with pytest.raises(PeerUnavailable, match=r"manager at http://localhost:7070 .*\(.*\).*--manager-url"):
        await client.health()
    with pytest.raises(
        PeerUnavailable, match=r"model registry at http://localhost:8084 .*--model-registry-url"
    ):
        await client.models.list()


async def test_no_result_yet_is_none():
    """The original answers an empty body, ours a null; both mean that there is nothing yet."""
    client, _ = _client((200, b""), (200, {"results": None}), (200, {"results": "42"}))
    assert [await client.tasks.results("t") for _ in range(3)] == [None, None, "42"]


async def test_an_upload_is_a_form_with_the_files_name(tmp_path: Path):
    """The module travels whole, as the part that the route reads, whatever its file is called."""
    file = tmp_path / 'my"module.wasm'
    file.write_bytes(b"\0asm\r\n--x")
    client, script = _client((200, {"id": "t", "name": "n", "state": 0}))
    await client.tasks.upload("t", file)
    method, url, headers, body = script.asked[0]
    boundary = headers["content-type"].removeprefix("multipart/form-data; boundary=")
    assert (method, url) == ("PUT", "http://m:1/tasks/t/upload")
    assert b'name="file"; filename="my_module.wasm"' in body
    assert body.split(b"\r\n\r\n", 1)[1] == b"\0asm\r\n--x" + f"\r\n--{boundary}--\r\n".encode()


async def test_waiting_ends_with_the_run():
    """Every state that a run never leaves is an end."""
    client, _ = _client(*((200, {"id": "t", "name": "n", "state": state}) for state in (0, 2, 6)))
    assert ended(await client.tasks.wait("t"))


async def test_following_a_round_yields_each_change_once():
    """Statuses that repeat are not shown again; the end is."""
    open_, done = (
        {"round_id": "r", "completed": completed, "state": state, "reason": "", "num_updates": updates,
         "k_of_n": 1, "model_version": None}
        for completed, state, updates in ((False, "collecting", 0), (True, "completed", 1))
    )  # fmt: skip
    client, script = _client(*((200, {"status": status}) for status in (open_, open_, done)))
    assert [one.state async for one in client.fl.follow("r", timeout_s=5)] == ["collecting", "completed"]
    assert len(script.asked) == 3


async def test_logs_come_in_whole_characters():
    """However a text is cut on its way, nobody sees half a character; an error is raised as any other."""
    client, script = _client((200, "grüß Gott\n".encode()), (404, {"error": "no such task"}))
    assert "".join([piece async for piece in client.tasks.logs("t", follow=True, run=2)]) == "grüß Gott\n"
    assert script.asked[0][1] == "http://m:1/tasks/t/logs?follow=true&run=2"
    with pytest.raises(NotFound, match="no such task"):
        _ = [piece async for piece in client.tasks.logs("t")]


async def test_a_call_without_inputs_has_no_body():
    """As the original's client calls; with some, only what was given travels."""
    client, script = _client((200, {"invoked": True, "results": "42"}), (200, {"results": "1"}))
    assert await client.tasks.invoke("f") == "42"
    assert await client.tasks.invoke("f", ["a"], env={"K": "V"}) == "1"
    assert script.asked[0][3] == b""
    assert json.loads(script.asked[1][3]) == {"inputs": ["a"], "env": {"K": "V"}}


async def test_starting_a_workflow_starts_its_roots():
    """What depends on something is left to the manager."""
    tasks = [{"id": "a", "name": "a", "state": 0}, {"id": "b", "name": "b", "state": 0, "depends_on": ["a"]}]
    client, script = _client((200, {"workflow_id": "w", "tasks": tasks}), (200, {"started": True}))
    await client.workflows.start("w")
    assert [asked[1] for asked in script.asked] == ["http://m:1/workflows/w", "http://m:1/tasks/a/start"]


@pytest.mark.parametrize(("state", "looks"), [(3, 2), (4, 3)])
async def test_a_job_is_over_when_it_has_failed_and_nothing_of_it_runs(state, looks):
    """The first failure shows at once, while others are still being stopped."""
    now = [
        {"job_id": "j", "state": shown, "tasks": [{"id": "a", "name": "a", "state": task}]}
        for shown, task in ((2, 2), (state, 2 if state == 4 else 3), (4, 6))
    ]
    client, _ = _client(*((200, one) for one in now))
    assert len([seen async for seen in client.jobs.watch("j")]) == looks


def test_the_facade_blocks_and_iterates():
    """`Client` has the same nouns without a loop of the caller's, and closes twice without harm."""
    done = {"round_id": "r", "completed": True, "state": "completed", "reason": "", "num_updates": 1,
            "k_of_n": 1, "model_version": 1}  # fmt: skip
    script = Script(
        (200, {"id": "t", "name": "n", "state": 3}), (200, {"status": done}), (404, {"error": "gone"})
    )
    client = Client(http=script)
    assert client.tasks.view("t").id == "t"
    assert [one.model_version for one in client.fl.follow("r", timeout_s=5)] == [1]
    with pytest.raises(NotFound, match="gone"):
        client.proplets.view("p")
    client.close()
    client.close()
