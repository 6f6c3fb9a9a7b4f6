"""The data store's routes over memory."""

import pytest

from federation_world import Services
from propeller.errors import BadInput
from propeller.federation.data_store.api import seed
from propeller.federation.data_store.app import participants

DATA = "http://data/datasets"
ROWS = [{"x": [1, 2.5], "y": 1}, {"x": [0.1, -3], "y": 0}]


@pytest.fixture
def services():
    """An empty data store, open to all."""
    return Services()


async def test_post_then_get(services):
    """What a device posts is what its trainer gets."""
    assert await services.ask("POST", f"{DATA}/p1", {"data": ROWS}) == (
        201,
        {"proplet_id": "p1", "size": 2, "status": "stored"},
    )
    assert await services.ask("GET", f"{DATA}/p1") == (
        200,
        {"schema": "fl-demo-dataset-v1", "proplet_id": "p1", "entity_id": "p1", "data": ROWS, "size": 2},
    )
    assert await services.ask("GET", DATA) == (200, {"clients": ["p1"], "count": 1})


async def test_post_replaces(services):
    """The last posted data set is the data set."""
    await services.ask("POST", f"{DATA}/p1", {"data": ROWS})
    await services.ask("POST", f"{DATA}/p1", {"data": ROWS[:1]})
    assert (await services.ask("GET", f"{DATA}/p1"))[1]["size"] == 1


async def test_parts(services):
    """Training and evaluation on the device never share a row."""
    rows = [{"x": [n], "y": n % 2} for n in range(10)]
    await services.ask("POST", f"{DATA}/p1", {"data": rows})
    parts = {which: (await services.ask("GET", f"{DATA}/p1?part={which}"))[1] for which in ("train", "test")}
    assert (parts["train"]["size"], parts["test"]["size"]) == (8, 2)
    assert sorted(row["x"][0] for part in parts.values() for row in part["data"]) == list(range(10))
    status, said = await services.ask("GET", f"{DATA}/p1?part=validation")
    assert (status, said["code"]) == (400, "bad_part")


@pytest.mark.parametrize("part", ["", "?part=train"])
async def test_what_has_not_changed_is_not_sent_again(services, part):
    """A tag stands for the rows of one part; posting others ends it."""
    await services.ask("POST", f"{DATA}/p1", {"data": ROWS * 5})
    tag = (await services.http.request("GET", f"{DATA}/p1{part}")).headers["etag"]
    again = {"if-none-match": tag}
    answer = await services.http.request("GET", f"{DATA}/p1{part}", headers=again)
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    assert (await services.http.request("GET", f"{DATA}/p1?part=test", headers=again)).status == 200
    await services.ask("POST", f"{DATA}/p1", {"data": ROWS})
    answer = await services.http.request("GET", f"{DATA}/p1{part}", headers=again)
    assert (answer.status, answer.headers["etag"] == tag) == (200, False)


async def test_seeding_keeps_what_is_there(services):
    """Synthetic data never replace a device's own."""
    await services.ask("POST", f"{DATA}/p1", {"data": ROWS})
    assert await seed(services.datasets, ["p1", "p2"]) == ["p2"]
    assert "synthetic" not in (await services.ask("GET", f"{DATA}/p1"))[1]
    made = (await services.ask("GET", f"{DATA}/p2"))[1]
    assert (made["synthetic"], made["size"]) == (True, 64)
    with pytest.raises(BadInput, match="proplet id"):
        await seed(services.datasets, ["p3", "a b"])
    assert await services.datasets.ids() == ("p1", "p2")


def test_participants_of_the_environment():
    """`FL_DATASET_PARTICIPANTS`, with the blanks that people leave."""
    assert participants(" p1, p2 ,,p3,") == ["p1", "p2", "p3"]
    assert participants("") == []


async def test_head(services):
    """Whether a data set is there, without its bytes."""
    assert (await services.raw("HEAD", f"{DATA}/p1")).status == 404
    await services.ask("POST", f"{DATA}/p1", {"data": ROWS})
    head = await services.raw("HEAD", f"{DATA}/p1")
    assert (head.status, head.body) == (200, b"")


async def test_credentials_open_only_the_own_data_set():
    """With them set, no token, another's token and no bearer are refused, reading and writing."""
    services = Services(credentials=lambda proplet_id, token: token == f"key-of-{proplet_id}")
    own, wrong = {"authorization": "Bearer key-of-p1"}, {"authorization": "Bearer key-of-p2"}
    basic = {"authorization": "Basic key-of-p1"}
    assert (await services.ask("POST", f"{DATA}/p1", {"data": ROWS}, **own))[0] == 201
    assert (await services.ask("GET", f"{DATA}/p1", **own))[0] == 200
    for headers in ({}, wrong, basic):
        for method, body in (("GET", None), ("POST", {"data": ROWS[:1]})):
            status, said = await services.ask(method, f"{DATA}/p1", body, **headers)
            assert (status, said["code"]) == (403, "bad_credential")
    assert (await services.ask("GET", f"{DATA}/p1", **own))[1]["size"] == 2


@pytest.mark.parametrize(
    ("path", "status"), {"/p9": 404, "/a%20b": 400, "/" + "a" * 64: 400, "/..": 400, "/p/q": 404}.items()
)
async def test_what_is_not_there_is_a_4xx_in_json(services, path, status):
    """404 for no data set, 400 for no id."""
    found, said = await services.ask("GET", DATA + path)
    assert found == status
    assert said["error"]


@pytest.mark.parametrize(
    "body", [None, [], {}, {"data": []}, {"data": [{"x": [1], "y": 1}, {"x": [1, 2], "y": 1}]}], ids=str
)
async def test_bad_post_is_a_400_and_stores_nothing(services, body):
    """Nothing half-accepted."""
    assert (await services.ask("POST", f"{DATA}/p1", body))[0] == 400
    assert await services.datasets.ids() == ()
