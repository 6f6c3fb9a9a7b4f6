"""Every route of a manager against its own OpenAPI document: whatever it is sent, it answers as told there.

The document is asked of the running manager. Requests are drawn from it: parameters and bodies of the shapes
that it names, the same with a part broken, and noise. One manager answers them all, over its real store.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from propeller.bus.memory import MemoryBroker, MemoryBus
from propeller.clock import SystemClock
from propeller.core.events import Announced
from propeller.http.memory import MemoryHttp
from propeller.manager.app import Manager, opened
from propeller.manager.config import ManagerConfig
from propeller.ports import Response
from propeller.wire.topics import Topics

ORIGIN = "http://manager"
KNOWN = {"task_id": "known", "proplet_id": "known", "job_id": "job", "workflow_id": "flow"}
"""Things that exist, so that routes are gone through to their ends."""
LATER = {502, 503}
"""What a manager alone may answer: other roles are not there."""
EXAMPLES = 12


class Asked:
    """A running manager, and its document."""

    def __init__(self, runner: asyncio.Runner, http: MemoryHttp) -> None:
        self._runner = runner
        self._http = http
        self.document: dict[str, Any] = json.loads(self.send("GET", "/schema/openapi.json").body)

    def send(self, method: str, path: str, body: bytes = b"", kind: str = "") -> Response:
        """One request."""
        headers = {"content-type": kind} if kind else {}
        return self._runner.run(
            self._http.request(method, ORIGIN + path, headers=headers, body=body, timeout_s=20)
        )

    def operations(self) -> dict[str, tuple[str, str, dict[str, Any]]]:
        """(method, path, operation) by the operation's name."""
        return {
            one["operationId"]: (method.upper(), path, one)
            for path, item in self.document["paths"].items()
            for method, one in item.items()
        }

    def validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        """A validator of a schema of the document."""
        return Draft202012Validator({**schema, "components": self.document["components"]})


async def ready(manager: Manager, http: MemoryHttp) -> None:
    """Make what `KNOWN` names."""
    await manager.shell.post(Announced(proplet_id="known", protocol=2, name="known", cause="test"))
    made = (
        ("/tasks", {"id": "known", "name": "known", "image_url": "r/x:1"}),
        ("/jobs", {"name": "j", "tasks": [{"job_id": "job", "name": "a", "image_url": "r/x:1"}]}),
        ("/workflows", {"tasks": [{"workflow_id": "flow", "name": "a", "image_url": "r/x:1"}]}),
    )
    for path, body in made:
        answer = await http.request("POST", ORIGIN + path, body=json.dumps(body).encode())
        assert answer.status == 201, answer


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Iterator[Asked]:
    """One manager for all requests: whatever comes must not harm those after it."""
    home: Path = tmp_path_factory.mktemp("manager")
    http = MemoryHttp()
    config = ManagerConfig(topics=Topics("d", "c"), coordinator_url="http://coordinator")
    bus = MemoryBus(MemoryBroker(), "manager", random=Random(1))  # noqa: S311 - it must replay
    with asyncio.Runner() as runner:
        life = opened(config, home, bus=bus, http=http, clock=SystemClock(), random=Random(2))  # noqa: S311
        manager = runner.run(life.__aenter__())
        http.register(ORIGIN, manager.app)
        working = runner.get_loop().create_task(manager.run())
        runner.run(ready(manager, http))
        yield Asked(runner, http)
        working.cancel()
        runner.run(asyncio.wait([working]))
        runner.run(life.__aexit__(None, None, None))
        runner.run(http.close())


NOISE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)

SIMPLE = {
    "string": st.sampled_from(["known", "", "0", "* * * * *", "UTC", "a/b", "é\0"]) | st.text(max_size=12),
    "integer": st.integers(-1, 101) | st.integers(),
    "number": st.floats(-1, 1e6) | st.floats(),
    "boolean": st.booleans(),
    "null": st.none(),
}


def shaped(schema: dict[str, Any], document: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that a schema of the document describes; where it describes nothing, noise."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return st.one_of([shaped(one, document, depth) for one in schema[several]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if isinstance(kind, list):
        return st.one_of([shaped({**schema, "type": one}, document, depth) for one in kind])
    if kind == "object" and "properties" in schema and depth < 3:
        fields = {name: shaped(one, document, depth + 1) for name, one in schema["properties"].items()}
        needed = schema.get("required", [])
        return st.fixed_dictionaries(
            {name: fields[name] for name in needed},
            optional={name: one for name, one in fields.items() if name not in needed},
        )
    if kind == "array":
        return st.lists(shaped(schema.get("items", {}), document, depth + 1), max_size=3)
    return SIMPLE.get(str(kind), NOISE)


@st.composite
def requests(draw: st.DrawFn, asked: Asked, name: str) -> tuple[str, str, bytes, str]:
    """(method, path with query, body, content type) for an operation."""
    method, path, operation = asked.operations()[name]
    query = []
    for one in operation.get("parameters", []):
        value = draw(shaped(one["schema"], asked.document) | NOISE)
        text = value if isinstance(value, str) else json.dumps(value)
        if one["in"] == "path":
            known = KNOWN.get(one["name"], "known")
            # What is there stays there, for the operations that come later.
            there = "unknown" if method == "DELETE" else known
            chosen = draw(st.sampled_from([there, there, "unknown"]) | st.just(text)) or "x"
            path = path.replace(f"{{{one['name']}}}", quote(chosen, safe="", errors="replace"))
        elif one["name"] != "follow" and draw(st.booleans()):  # following waits for a run's last words
            query.append((one["name"], text))
    content, kind = b"", ""
    if "requestBody" in operation and draw(st.integers(0, 9)):
        kind, said = draw(st.sampled_from(sorted(operation["requestBody"]["content"].items())))
        content = draw(body(said["schema"], kind, asked.document))
    asks = f"{path}?{urlencode(query, errors='replace')}" if query else path
    return method, asks, content, kind


@st.composite
def body(draw: st.DrawFn, schema: dict[str, Any], kind: str, document: dict[str, Any]) -> bytes:
    """A body as the document has it, one with a part broken, or noise."""
    if kind != "application/json":
        return draw(st.binary(max_size=40) | st.just(b"\0asm\1\0\0\0"))
    value = draw(shaped(schema, document) | NOISE)
    if isinstance(value, dict) and value and draw(st.booleans()):
        value[draw(st.sampled_from(sorted(value)))] = draw(NOISE)
    return json.dumps(value).encode()


def check(asked: Asked, name: str) -> None:
    """Send an operation a dozen requests, and hold each answer against the document."""
    operation = asked.operations()[name][2]

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(request=requests(asked, name))
    def holds(request: tuple[str, str, bytes, str]) -> None:
        answer = asked.send(*request)
        assert answer.status < 500 or answer.status in LATER, answer
        if "%2F" in request[1] and answer.status in {404, 405}:
            return  # a slash within an id is no id, wherever it leads
        told = operation["responses"].get(str(answer.status))
        assert told is not None, f"status {answer.status} is not in the document: {answer}"
        kind = answer.headers.get("content-type", "").partition(";")[0]
        kinds = {one.partition(";")[0]: said["schema"] for one, said in told.get("content", {}).items()}
        assert (kind in kinds) if kinds else not answer.body, (kind, kinds)
        if kind == "application/json":
            asked.validator(kinds[kind]).validate(json.loads(answer.body))

    holds()


def test_every_route_answers_as_its_document_says(asked):
    """No 5xx but for roles that are not there; no status, type or shape that the document does not name."""
    for name in sorted(asked.operations()):
        check(asked, name)
    assert asked.send("GET", "/health").status == 200


def test_the_document_is_whole(asked):
    """Every route that reads a body says which, every answer has a shape, every reference leads somewhere."""
    known = asked.document["components"]["schemas"]
    text = json.dumps(asked.document)
    assert {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]} <= set(known)
    without = {"start", "stop", "cordon", "drain", "uncordon", "pause", "resume", "undo", "restart", "sweep"}
    for name, (method, path, operation) in asked.operations().items():
        if method in {"POST", "PUT"} and path.rpartition("/")[2] not in without:
            assert "requestBody" in operation, f"{name} does not say what it takes"
        for status, told in operation["responses"].items():
            shapes = [said["schema"] for said in told.get("content", {}).values()]
            assert all(shapes), f"{name} does not say what {status} looks like"
    for schema in known.values():
        Draft202012Validator.check_schema(schema)
