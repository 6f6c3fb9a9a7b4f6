"""The aggregator's routes over memory."""

import pytest

from federation_world import Services

URL = "http://aggregator/aggregate"
BODY = {
    "updates": [
        {"num_samples": 1, "update": {"w": [1, 2], "b": 0}},
        {"num_samples": 3, "update": {"w": [2, 4], "b": 1}},
    ]
}


@pytest.fixture
def services():
    """Fresh ones."""
    return Services()


async def test_documented_body_gives_the_bare_weighted_mean(services):
    """The published command: w and b, nothing around them."""
    assert await services.ask("POST", URL, BODY) == (200, {"w": [1.75, 3.5], "b": 0.75})


async def test_curl_without_a_content_type_works(services):
    """`curl -d` says that it sends a form."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert (await services.ask("POST", URL, BODY, **form))[0] == 200


async def test_body_of_the_coordinator_works(services):
    """Strategy, options and base beside the updates, and what else a full update holds."""
    update = {"round_id": "r", "proplet_id": "p", "metrics": {"loss": 1}, "received_at": "now"}
    body = {
        "updates": [{**update, **BODY["updates"][0]}],
        "strategy": "fedavg",
        "options": {},
        "base": {"w": [0, 0], "b": 0},
    }
    assert await services.ask("POST", URL, body) == (200, {"w": [1, 2], "b": 0})


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'{"updates":[]}', b"\xff\xfe", b"[" * 100_000])
async def test_bad_body_is_a_400_in_json(services, body):
    """The original answered plain text; every error here has a message and a code."""
    answer = await services.raw("POST", URL, body)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    assert b'"error"' in answer.body
    assert b'"code"' in answer.body


async def test_refusal_names_update_and_tensor(services):
    """The coordinator's log should say whose update was wrong."""
    bad = {"updates": [BODY["updates"][0], {"num_samples": 1, "update": {"w": [1], "b": 0}}]}
    status, said = await services.ask("POST", URL, bad)
    assert status == 400
    assert "updates[1]" in said["error"]
    assert "'w'" in said["error"]


async def test_updates_inside_a_body_of_references_are_refused_clearly(services):
    """The content type says what the body is; it is not guessed at."""
    kind = {"content-type": "application/vnd.propeller.aggregate+json"}
    status, said = await services.ask("POST", URL, BODY, **kind)
    assert (status, said["code"]) == (400, "undecodable")


async def test_health_and_metrics(services):
    """What `up` and Prometheus ask."""
    status, said = await services.ask("GET", "http://aggregator/health")
    assert (status, said["status"]) == (200, "ok")
    metrics = await services.raw("GET", "http://aggregator/metrics")
    assert b'role="aggregator"' in metrics.body


async def test_other_methods_and_paths_are_4xx_in_json(services):
    """405 and 404 in the one shape of errors."""
    assert (await services.ask("GET", URL))[0] == 405
    assert (await services.ask("POST", "http://aggregator/nowhere", {}))[0] == 404
