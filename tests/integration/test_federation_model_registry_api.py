"""The model registry's routes over memory."""

import pytest

from federation_world import Services

MODELS = "http://registry/models"
ZERO = {"w": [0, 0, 0], "b": 0}
ONE = {"w": [0.1, 0.2, 1e-300], "b": -0.5}


@pytest.fixture
async def services():
    """A registry after its first start."""
    made = Services()
    await made.seed()
    return made


async def test_published_walk(services):
    """Version 0 is there, may be posted again, is read bare; version 1 differs."""
    status, said = await services.ask("POST", MODELS, {"version": 0, "model": ZERO})
    assert (status, said["version"], said["status"]) == (201, 0, "stored")
    assert await services.ask("GET", f"{MODELS}/0") == (200, ZERO)
    assert (await services.ask("POST", MODELS, {"version": 1, "model": ONE}))[0] == 201
    assert await services.ask("GET", f"{MODELS}/1") == (200, ONE)
    assert await services.ask("GET", MODELS) == (200, {"versions": [0, 1], "models": ["global_model"]})


async def test_seed_is_made_once(services):
    """A registry that has versions is not given another."""
    await services.seed()
    assert await services.models.versions("global_model") == (0,)
    fresh = Services()
    await fresh.ask("POST", MODELS, {"version": 4, "model": ONE})
    await fresh.seed()
    assert await fresh.models.versions("global_model") == (4,)


async def test_round_is_stored_once_however_often_it_is_posted(services):
    """The coordinator retries until it hears; the answer says the same number each time."""
    body = {"model": ONE, "parent": 0, "round_id": "exp-1"}
    first = await services.ask("POST", MODELS, body)
    again = await services.ask("POST", MODELS, body)
    assert (first[0], again[0]) == (201, 201)
    assert first[1]["version"] == again[1]["version"] == 1
    assert first[1]["sha256"] == again[1]["sha256"]
    assert "duplicate" not in first[1]
    assert again[1]["duplicate"] is True
    other = await services.ask("POST", MODELS, {**body, "model": ZERO})
    assert (other[0], other[1]["code"]) == (409, "version_conflict")


async def test_number_with_other_content_is_a_conflict(services):
    """The original overwrote."""
    status, said = await services.ask("POST", MODELS, {"version": 0, "model": ONE})
    assert (status, said["code"]) == (409, "version_conflict")
    assert await services.ask("GET", f"{MODELS}/0") == (200, ZERO)


async def test_without_a_number_the_next_is_given(services):
    """From an older version a new one gets the next free number, with that parent."""
    numbers = [(await services.ask("POST", MODELS, {"model": ONE, "parent": 0}))[1]["version"] for _ in "ab"]
    assert numbers == [1, 2]


async def test_named_models_have_numbers_and_routes_of_their_own(services):
    """A demo does not share versions with whatever else runs."""
    status, said = await services.ask("POST", MODELS, {"name": "hospital", "model": ONE})
    assert (status, said["name"], said["version"]) == (201, "hospital", 0)
    assert await services.ask("GET", f"{MODELS}/hospital/versions/0") == (200, ONE)
    assert await services.ask("GET", f"{MODELS}/hospital/versions") == (
        200,
        {"name": "hospital", "versions": [0], "latest": 0},
    )
    assert (await services.ask("GET", MODELS))[1] == {"versions": [0], "models": ["global_model", "hospital"]}
    assert await services.ask("GET", f"{MODELS}/global_model/versions/0") == (200, ZERO)


async def test_info_says_where_a_version_came_from(services):
    """Parent, round, strategy, participants, metrics, time, size and hash."""
    strategy = {"name": "fedavg", "version": 1, "options": {}}
    _, stored = await services.ask(
        "POST",
        MODELS,
        {
            "model": ONE,
            "parent": 0,
            "round_id": "r",
            "strategy": strategy,
            "participants": ["p1"],
            "metrics": {"loss": 0.5},
        },
    )
    status, said = await services.ask("GET", f"{MODELS}/global_model/versions/1/info")
    assert status == 200
    assert said.pop("bytes") > 0
    assert said == {
        "name": "global_model",
        "version": 1,
        "sha256": stored["sha256"],
        "parent": 0,
        "round_id": "r",
        "strategy": strategy,
        "participants": ["p1"],
        "metrics": {"loss": 0.5},
        "created_at": "2026-01-02T03:04:05+00:00",
    }


@pytest.mark.parametrize("path", ["/0", "/global_model/versions/0"])
async def test_conditional_get_and_head(services, path):
    """A participant that has the content already is told so; HEAD says the length and sends nothing."""
    whole = await services.raw("GET", MODELS + path)
    tag = whole.headers["etag"]
    assert tag.strip('"') == (await services.models.find("global_model", 0)).sha256
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await services.raw("GET", MODELS + path, **{"if-none-match": known})
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    assert (await services.raw("GET", MODELS + path, **{"if-none-match": '"other"'})).status == 200
    head = await services.raw("HEAD", MODELS + path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.body))
    assert head.headers["etag"] == tag


NOT_THERE = {
    "/7": 404,
    "/abc": 400,
    "/-1": 400,
    "/1.5": 400,
    "/99999999999999999": 400,
    "/" + "9" * 400: 400,
    "/%D9%A1": 400,
    "/global_model": 400,
    "/nobody/versions": 404,
    "/nobody/versions/0": 404,
    "/a%20b/versions/0": 400,
    "/nobody/versions/0/info": 404,
    "/nobody/else": 404,
}


@pytest.mark.parametrize(("path", "status"), NOT_THERE.items(), ids=lambda one: str(one)[:30])
async def test_what_is_not_there_is_a_4xx_in_json(services, path, status):
    """400 for what is no version, 404 for one that is not stored."""
    found, said = await services.ask("GET", MODELS + path)
    assert found == status
    assert said["error"]
    assert said["code"]


@pytest.mark.parametrize(
    "body", [None, [], {}, {"model": []}, {"model": {"w": [[1], 2]}}, {"model": ONE, "parent": 9}], ids=str
)
async def test_bad_post_is_a_400_and_stores_nothing(services, body):
    """Nothing half-accepted."""
    status, said = await services.ask("POST", MODELS, body)
    assert status == 400
    assert said["error"]
    assert await services.models.versions("global_model") == (0,)


async def test_health(services):
    """What `up` asks."""
    status, said = await services.ask("GET", "http://registry/health")
    assert (status, said["status"]) == (200, "ok")


async def test_latest_and_best_stand_for_a_number(services):
    """The newest; the highest accuracy, else the lowest loss, of equals the last; 404 where there is none."""
    assert (await services.ask("GET", f"{MODELS}/best"))[0] == 404
    assert (await services.ask("GET", f"{MODELS}/none/versions/latest"))[0] == 404
    for number, loss in ((1, 0.5), (2, 0.25), (3, 0.25), (4, 0.75)):
        body = {"model": {"w": [number], "b": 0}, "round_id": f"e-{number}", "metrics": {"loss": loss}}
        assert (await services.ask("POST", MODELS, body))[0] == 201
    assert (await services.ask("GET", f"{MODELS}/latest"))[1]["w"] == [4]
    assert (await services.ask("GET", f"{MODELS}/best"))[1]["w"] == [3]
    assert (await services.ask("GET", f"{MODELS}/global_model/versions/best/info"))[1]["version"] == 3
    body = {"model": {"w": [5], "b": 0}, "round_id": "e-5", "metrics": {"loss": 9, "accuracy": 0.5}}
    await services.ask("POST", MODELS, body)
    assert (await services.ask("GET", f"{MODELS}/best"))[1]["w"] == [5]


async def test_an_evaluation_is_kept_beside_its_version_and_decides_which_is_best(services):
    """By the metric that the newest version names; what is no evaluation is refused and changes nothing."""
    named = {"metric": "mse", "direction": "min"}
    for number in (1, 2, 3):
        body = {
            "model": {"w": [number], "b": 0},
            "metrics": {"mse": 1.0 / number, "accuracy": 0.5},
            "objective": named,
        }
        assert (await services.ask("POST", MODELS, body))[0] == 201
    assert (await services.ask("GET", f"{MODELS}/best"))[1]["w"] == [3]
    for number, mse in ((2, 0.2), (1, 0.4)):
        told = {"round_id": f"e-{number}-eval", "metrics": {"mse": mse}, "samples": 30}
        place = f"{MODELS}/global_model/versions/{number}/evaluation"
        status, info = await services.ask("PUT", place, told)
        assert (status, info["evaluation"]["metrics"], info["objective"]) == (200, {"mse": mse}, named)
    assert (await services.ask("GET", f"{MODELS}/best"))[1]["w"] == [2]
    for wrong in ({**told, "samples": 0}, {**told, "metrics": {}}, {**told, "round_id": "no id"}, {}):
        assert (await services.ask("PUT", place, wrong))[0] == 400
    assert (await services.ask("PUT", f"{MODELS}/global_model/versions/9/evaluation", told))[0] == 404
    shown = (await services.ask("GET", f"{MODELS}/global_model/versions/1/info"))[1]
    assert shown["evaluation"] | {"at": ""} == {**told, "at": ""}
    assert (await services.ask("POST", MODELS, {**body, "objective": {"metric": ""}}))[0] == 400
