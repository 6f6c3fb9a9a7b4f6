"""Models as files at the registry: streamed in, mapped out, the same versions as JSON makes."""

import json

import numpy as np
import pytest

from federation_world import Services, StoppedClock
from propeller.federation.model_registry.app import build
from propeller.federation.offload import inline
from propeller.fl.tensors import Tensors, content_hash, to_safetensors
from propeller.storage.blobs import FileBlobs
from propeller.storage.model_store import ROLE, SqlModelStore
from propeller.storage.sqlite import Database

MODELS = "http://registry/models"
SAFETENSORS = {"content-type": "application/vnd.safetensors"}
ASKED = {"accept": "application/vnd.safetensors"}
MODEL = Tensors({"w": np.linspace(-1, 1, 100_000, dtype="f4"), "steps": np.arange(3)})
FILE = to_safetensors(MODEL)


@pytest.fixture(params=["memory", "disk"])
async def services(request, tmp_path):
    """A registry over memory, and one over SQLite and files."""
    made = Services()
    if request.param == "memory":
        await made.seed()
        yield made
        return
    database = await Database.open(tmp_path / "registry.db", role=ROLE, base="b")
    made.models = SqlModelStore(database, FileBlobs(tmp_path / "blobs"))
    made.http.register("http://registry", build(store=made.models, clock=StoppedClock(), offload=inline))
    await made.seed()
    yield made
    await database.close()


async def test_lone_file_is_a_version_with_its_dtypes(services):
    """The query names it; what comes back is the file, and the hash is that of the tensors."""
    answer = await services.raw("POST", f"{MODELS}?name=big&parent=", FILE, **SAFETENSORS)
    assert answer.status == 400, "an empty parent is no number"
    answer = await services.raw("POST", f"{MODELS}?name=big", FILE, **SAFETENSORS)
    said = json.loads(answer.body)
    assert (answer.status, said["version"], said["sha256"]) == (201, 0, content_hash(MODEL))
    again = await services.raw("POST", f"{MODELS}?name=big&version=0", FILE, **SAFETENSORS)
    assert json.loads(again.body)["duplicate"] is True
    found = await services.raw("GET", f"{MODELS}/big/versions/0", **ASKED)
    assert (found.status, found.body, found.headers["content-length"]) == (200, FILE, str(len(FILE)))
    unchanged = await services.raw(
        "GET", f"{MODELS}/big/versions/0", **ASKED, **{"if-none-match": found.headers["etag"]}
    )
    assert unchanged.status == 304


async def test_json_and_file_of_one_version_differ_in_tag(services):
    """Two representations: a cache must not answer one with the other."""
    as_json = await services.raw("GET", f"{MODELS}/0")
    as_file = await services.raw("GET", f"{MODELS}/0", **ASKED)
    assert as_json.headers["etag"] != as_file.headers["etag"]
    assert as_json.headers["vary"] == as_file.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-7", 206, FILE[:8]),
        ("bytes=8-", 206, FILE[8:]),
        ("bytes=-5", 206, FILE[-5:]),
        ("bytes=3-99999999999", 206, FILE[3:]),
        ("bytes=0-", 200, FILE),
        ("bytes=0-1,5-6", 200, FILE),
        ("lines=1-2", 200, FILE),
        ("bytes=-", 200, FILE),
        ("bytes=99999999999-", 400, None),
    ],
)
async def test_ranges_of_a_file(services, asked, status, part):
    """A reader resumes, or takes the header alone."""
    await services.raw("POST", MODELS, FILE, **SAFETENSORS)
    found = await services.raw("GET", f"{MODELS}/1", **ASKED, range=asked)
    assert found.status == status
    if part is not None:
        assert found.body == part
    if status == 206:
        assert found.headers["content-range"].endswith(f"/{len(FILE)}")


async def test_line_and_files_carry_links_and_state(services):
    """What the coordinator posts: the round's version, once, with the strategy's state beside it."""
    state = to_safetensors(Tensors({"momentum/w": np.ones(100_000, "f4")}))
    head = {
        "model_bytes": len(FILE),
        "state_bytes": len(state),
        "parent": 0,
        "round_id": "r1",
        "strategy": {"name": "fedavgm", "version": 1, "options": {}},
        "participants": ["p1"],
        "metrics": {"loss": 0.5},
    }
    body = json.dumps(head).encode() + b"\n" + FILE + state
    kind = {"content-type": "application/vnd.propeller.model"}
    for _ in range(2):
        answer = await services.raw("POST", MODELS, body, **kind)
        assert (answer.status, json.loads(answer.body)["version"]) == (201, 1)
    _, info = await services.ask("GET", f"{MODELS}/global_model/versions/1/info")
    assert (info["parent"], info["round_id"], info["strategy"]["name"]) == (0, "r1", "fedavgm")
    found = await services.raw("GET", f"{MODELS}/global_model/versions/1/state", **ASKED)
    assert found.body == state
    for wrong in (body[:-1], body[: len(body) - len(state) - 1], b"no line", b"{}\n", b"[]\n" + FILE):
        answer = await services.raw("POST", MODELS, wrong, **kind)
        assert answer.status == 400, wrong[:40]
    assert await services.models.versions("global_model") == (0, 1)


async def test_what_is_no_model_is_refused(services):
    """NaN, another format, no tensors."""
    for bad in (
        to_safetensors(Tensors({"w": np.array([np.nan])})),
        to_safetensors(Tensors({})),
        b"nonsense, and long enough to have a header",
    ):
        answer = await services.raw("POST", MODELS, bad, **SAFETENSORS)
        assert answer.status in {400, 413}
    assert await services.models.versions("global_model") == (0,)
