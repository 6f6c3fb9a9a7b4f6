import asyncio
import threading

import msgspec
import pytest
from litestar import Request, get, post
from litestar.params import FromPath, FromQuery

from propeller import limits
from propeller.errors import Bug, Conflict, NotFound, PeerRefused, StorageFull, Unsupported
from propeller.http.memory import MemoryHttp
from propeller.http.server import create_app, json_body
from propeller.telemetry.metrics import RoleMetrics

ORIGIN = "http://role:1"


class Pet(msgspec.Struct, kw_only=True):
    """A body with a required field."""

    name: str
    legs: int = 4


@post("/pets")
async def add_pet(request: Request) -> Pet:
    """Decode with our own helper."""
    return await json_body(request, Pet, "the pet")


@get("/pets")
async def list_pets(limit: FromQuery[int] = 10) -> dict[str, int]:
    """A typed query parameter."""
    return {"limit": limit}


@get("/pets/{name:str}")
async def show_pet(name: FromPath[str]) -> Pet:
    """An item route that raises what its name says."""
    errors = {
        "absent": NotFound("no pet of that name"),
        "taken": Conflict("two of a kind", code="already_there"),
        "odd": Unsupported("no such kind"),
        "peer": PeerRefused("the shelter said no"),
        "full": StorageFull("the shelter is full"),
        "bug": Bug("half a pet"),
        "crash": ZeroDivisionError("hunter2 of nobody's business"),
    }
    if name in errors:
        raise errors[name]
    return Pet(name=name)


@pytest.fixture
async def ask():
    """Ask the application of this file; returns status and decoded body."""
    metrics = RoleMetrics("keeper")
    offloaded = []

    async def offload(work, *args):
        offloaded.append(work)
        return work(*args)

    app = create_app("keeper", [add_pet, list_pets, show_pet], metrics, lambda: {"pets": 2}, offload=offload)
    http = MemoryHttp()
    http.register(ORIGIN, app)

    async def request(method, path, **options):
        answer = await http.request(method, ORIGIN + path, **options)
        kind = answer.headers.get("content-type", "")
        return answer.status, msgspec.json.decode(answer.body) if "json" in kind else answer.body

    request.offloaded = offloaded
    request.metrics = metrics
    yield request
    await http.close()


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("absent", 404, "not_found"),
        ("taken", 409, "already_there"),
        ("odd", 400, "unsupported"),
        ("peer", 502, "peer_refused"),
        ("full", 507, "storage_full"),
        ("bug", 500, "bug"),
        ("crash", 500, "bug"),
    ],
)
async def test_errors_keep_their_status_and_code(ask, name, status, code):
    """Each error of the tree answers with its own status and code, an unknown one as a bug."""
    given, body = await ask("GET", f"/pets/{name}")
    assert (given, body["code"]) == (status, code)
    assert set(body) == {"error", "code"}


async def test_an_unknown_exception_tells_the_caller_nothing(ask):
    """What an unforeseen exception says stays in the log."""
    assert "hunter2" not in str(await ask("GET", "/pets/crash"))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("DELETE", "/pets", 405, "method_not_allowed"),
        ("PUT", "/pets/rex/", 405, "method_not_allowed"),
        ("GET", "/pets?limit=ten", 400, "bad_input"),
        ("GET", "/pets?limit=%ff", 400, "bad_input"),
        ("GET", "/pets?limit=" + "9" * 5000, 400, "bad_input"),
        ("GET", "/pets/a/b/c", 404, "not_found"),
        ("BREW", "/pets", 405, "method_not_allowed"),
    ],
)
async def test_faults_that_the_framework_finds_have_our_shape(ask, method, path, status, code):
    """Unknown paths, wrong methods and bad parameters are 4xx with `error` and `code`, never a 500."""
    given, body = await ask(method, path)
    assert (given, body["code"]) == (status, code)
    assert body["error"]


async def test_a_bad_parameter_is_named(ask):
    """The message says which parameter was wrong."""
    _, body = await ask("GET", "/pets?limit=ten")
    assert "limit" in body["error"]


@pytest.mark.parametrize("path", ["/pets", "/pets/", "/pets/rex", "/pets/rex/", "/health/", "/metrics/"])
async def test_a_trailing_slash_changes_nothing(ask, path):
    """Collections and items answer with and without it."""
    assert (await ask("GET", path))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"Content-Type": "application/json; charset=utf-8"},
        {"content-type": "application/vnd.propeller+json"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/x-www-form-urlencoded", "origin": "http://role:1"},
        {"content-type": "application/json", "origin": "http://elsewhere"},
    ],
)
async def test_json_is_read_whatever_curl_calls_it(ask, headers):
    """No content type, JSON, and the form type that curl -d sends by itself are all read as JSON."""
    status, body = await ask("POST", "/pets", body=b'{"name": "rex"}', headers=headers)
    assert (status, body) == (201, {"name": "rex", "legs": 4})


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/jsonx"},
        {"content-type": "application/x-www-form-urlencoded", "origin": "http://elsewhere"},
        {"origin": "null"},
    ],
)
async def test_other_content_types_and_foreign_pages_are_refused(ask, headers):
    """Another type is 400, and so is undeclared JSON from a web page of another origin."""
    status, body = await ask("POST", "/pets", body=b'{"name": "rex"}', headers=headers)
    assert (status, body["code"]) == (400, "content_type")
    assert "unsupported content type" in body["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{",
        b"[]",
        b"null",
        b'{"name": 3}',
        b'{"legs": 3}',
        b'{"name": "a", "legs": NaN}',
        b'{"name": "\xff"}',
        b'{"x":' * 10_000,
        b"[" * 1_000_000,
        b'{"name": "a"} trailing',
        b"\x00" * 100,
    ],
    ids=range(13),
)
async def test_a_bad_body_is_400_and_named(ask, body):
    """No body, however broken, is more than a 400 that names what was expected."""
    status, answer = await ask("POST", "/pets", body=body)
    assert status == 400
    assert answer["error"].startswith("the pet is")


async def test_a_large_body_is_decoded_elsewhere(ask):
    """Over the offload bound the decoding leaves the loop; below it does not."""
    await ask("POST", "/pets", body=b'{"name": "small"}')
    assert ask.offloaded == []
    name = "x" * limits.HTTP_JSON_OFFLOAD_BYTES
    status, body = await ask("POST", "/pets", body=msgspec.json.encode({"name": name}))
    assert (status, body["name"] == name, len(ask.offloaded)) == (201, True, 1)


async def test_a_body_over_the_limit_is_413(ask):
    """One byte over the limit of every route is refused by its announced length."""
    status, body = await ask(
        "POST", "/pets", body=b"{}", headers={"content-length": str(limits.HTTP_BODY_BYTES_MAX + 1)}
    )
    assert (status, body["code"]) == (413, "too_large")


async def test_health_always_has_a_status(ask):
    """The role's own facts come with a status that reads as healthy."""
    status, body = await ask("GET", "/health")
    assert (status, body["status"], body["pets"]) == (200, "pass", 2)


async def test_an_unhealthy_role_says_503():
    """A role that reports failure is not 200 to a probe."""
    http = MemoryHttp()
    http.register(ORIGIN, create_app("keeper", [], RoleMetrics("keeper"), lambda: {"status": "fail"}))
    assert (await http.request("GET", ORIGIN + "/health")).status == 503
    await http.close()


async def test_metrics_are_the_type_that_prometheus_demands():
    """Its third version scrapes nothing whose type is odd: each parameter stands there once."""
    http = MemoryHttp()
    http.register(ORIGIN, create_app("keeper", [], RoleMetrics("keeper"), lambda: {"status": "pass"}))
    answer = await http.request("GET", ORIGIN + "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    await http.close()


async def test_requests_are_counted_by_route(ask):
    """Counters carry the route's template, so that ids and nonsense cannot make new series."""
    for path in ("/pets/a", "/pets/b", "/nowhere/1", "/nowhere/2"):
        await ask("GET", path)
    _, text = await ask("GET", "/metrics")
    assert b'propeller_http_requests_total{method="GET",route="/pets/{name}",status="200"} 2.0' in text
    assert b'propeller_http_requests_total{method="GET",route="unmatched",status="404"} 2.0' in text


async def test_the_openapi_document_names_our_error_shape(ask):
    """Every route's 400 in /schema is the body that is really sent."""
    status, document = await ask("GET", "/schema")
    assert status == 200
    assert document["info"]["title"] == "Propeller keeper"
    content = document["paths"]["/pets"]["get"]["responses"]["400"]["content"]["application/json"]
    name = content["schema"]["$ref"].rpartition("/")[2]
    assert set(document["components"]["schemas"][name]["properties"]) == {"error", "code"}


async def test_answering_takes_no_thread(ask):
    """Requests of every kind are served by the loop alone, so a simulated world can run them."""
    before = threading.active_count()
    for method, path in (("GET", "/pets/rex"), ("GET", "/health"), ("GET", "/metrics"), ("GET", "/schema")):
        await ask(method, path)
    await ask("POST", "/pets", body=b'{"name": "rex"}')
    assert threading.active_count() == before


def test_a_handler_that_needs_a_thread_is_refused():
    """A synchronous handler is a bug of the wiring, found at once."""

    @get("/slow", sync_to_thread=True)
    def slow() -> None:
        """Would run in a thread."""

    with pytest.raises(Bug, match="not async"):
        create_app("keeper", [slow], RoleMetrics("keeper"), dict)


async def test_a_handler_that_outlives_its_caller_goes_on():
    """A caller that gives up does not undo what its request began."""
    done = asyncio.Event()

    @post("/slow")
    async def slow() -> None:
        await asyncio.sleep(0.02)
        done.set()

    http = MemoryHttp()
    http.register(ORIGIN, create_app("keeper", [slow], RoleMetrics("keeper"), dict))
    asking = asyncio.create_task(http.request("POST", ORIGIN + "/slow"))
    await asyncio.sleep(0.005)
    asking.cancel()
    async with asyncio.timeout(1):
        await done.wait()
    await http.close()
