"""From a start message to a job: what the guest gets, and why an attempt fails when something is missing."""

import base64
import hashlib
from random import Random

import pytest
from proplet_fakes import (
    COORDINATOR,
    DATA,
    MANAGER,
    MODEL,
    MODULE,
    REGISTRY,
    STORE,
    FakeHttp,
    FakeImages,
    in_virtual_time,
    supply,
    unavailable,
)

from propeller import limits
from propeller.errors import NotFound, PeerRefused, StorageBroken, StorageFull, TooLarge
from propeller.ports import GuestLimits, Response
from propeller.proplet.failure import AttemptFailed
from propeller.proplet.job import limits_of, prepare
from propeller.proplet.services import Patience, origin
from propeller.proplet.settings import ServiceUrls
from propeller.storage.memory_blobs import MemoryBlobs
from propeller.wire.messages import ModuleRef, Start, TaskLimits

SHA = hashlib.sha256(MODULE).hexdigest()
ROUND = {"ROUND_ID": "r-1", "MODEL_URI": "fl/models/global_model_v0", "HYPERPARAMS": '{"lr": 0.1}'}


def start(**fields):
    """A start message that asks for an image, unless the fields say otherwise."""
    given = {"id": "t", "name": "n", "image_url": "localhost:5000/x:latest", "run": 1, "attempt": 1}
    return Start(**(given | fields))


def job_of(message, from_supply=None, wall_s=60.0):
    """The job, and the virtual seconds it took to make."""

    async def main(clock):
        patience = Patience(clock, Random(1), wall_s)  # noqa: S311 - jitter
        job, _ = await prepare(message, from_supply or supply(), patience)
        return job, clock.now().mono_s

    return in_virtual_time(main)


def failure_of(message, from_supply=None, wall_s=60.0):
    """Why there is no job."""
    with pytest.raises(AttemptFailed) as caught:
        job_of(message, from_supply, wall_s)
    return caught.value


# --- module ----------------------------------------------------------------------------------------------


def test_an_image_comes_from_the_registry():
    """The plain case: module, name, arguments, inputs, environment and identity."""
    message = start(env={"A": "1"}, inputs=["2", "3"], cli_args=["-v"], seed=7)
    job, _ = job_of(message)
    assert (job.module, job.digest, job.name) == (MODULE, SHA, "n")
    assert (tuple(job.args), tuple(job.inputs)) == (("-v",), ("2", "3"))
    assert job.env == {"A": "1", "PROPLET_ID": "p-1", "SEED": "7"}
    assert job.host_strings == {"proplet_id": "p-1", "model_data": "", "dataset_data": ""}


def test_the_tasks_own_names_win():
    """What the user wrote into the environment is not overwritten."""
    job, _ = job_of(start(env={"PROPLET_ID": "x", "SEED": "1"}, seed=7))
    assert job.env == {"PROPLET_ID": "x", "SEED": "1"}


def test_an_inline_module_is_decoded():
    """`file` is base64; it wins over an image."""
    images = FakeImages()
    job, _ = job_of(start(file=base64.b64encode(b"wasm").decode()), supply(images=images))
    assert (job.module, job.digest, images.asked) == (b"wasm", hashlib.sha256(b"wasm").hexdigest(), [])


def test_a_referenced_module_is_fetched_and_verified():
    """By URL at the manager, with its hash checked."""
    http = FakeHttp()
    http.answers[f"GET {MANAGER}/blobs/x"] = MODULE
    ref = ModuleRef(sha256=SHA.upper(), url=f"{MANAGER}/blobs/x")
    job, _ = job_of(start(module=ref), supply(http))
    assert job.module == MODULE
    http.answers[f"GET {MANAGER}/blobs/x"] = MODULE + b"!"
    failed = failure_of(start(module=ref), supply(http))
    assert (failed.kind, SHA.upper() in failed.message) == ("image", True)


def test_a_referenced_module_is_fetched_once():
    """A task that runs again asks the manager for nothing; another digest is another module."""
    http = FakeHttp()
    http.answers[f"GET {MANAGER}/blobs/x"] = MODULE
    mine = supply(http)
    ref = ModuleRef(sha256=SHA, url=f"{MANAGER}/blobs/x")
    for _ in range(2):
        job, _ = job_of(start(module=ref), mine)
        assert (job.module, job.digest) == (MODULE, SHA)
    assert len(http.asked) == 1
    assert failure_of(start(module=ModuleRef(sha256="0" * 64, url=ref.url)), mine).kind == "image"


class BadDisk(MemoryBlobs):
    """Has no room, or gives back what is not what it took."""

    def __init__(self, error):
        super().__init__()
        self.error = error
        self.deleted = []

    async def put(self, content):
        """Fail if that is how it is bad."""
        if isinstance(self.error, StorageFull):
            raise self.error
        return await super().put(content)

    async def get(self, digest):
        """Fail if that is how it is bad, and there is something."""
        content = await super().get(digest)
        if isinstance(self.error, StorageBroken):
            raise self.error
        return content

    async def delete(self, digest):
        """Note it."""
        self.deleted.append(digest)
        await super().delete(digest)


def test_a_referenced_module_is_on_the_devices_own_disk_afterwards():
    """The next process asks nobody (N8); a damaged copy is fetched anew, a full disk costs only that."""
    http, disk = FakeHttp(), MemoryBlobs()
    http.answers[f"GET {MANAGER}/blobs/x"] = MODULE
    ref = ModuleRef(sha256=SHA.upper(), url=f"{MANAGER}/blobs/x")
    job_of(start(module=ref), supply(http, modules=disk))
    job, _ = job_of(start(module=ref), supply(FakeHttp(), modules=disk))
    assert (job.module, job.digest) == (MODULE, SHA)
    for error in (StorageBroken("it lies"), StorageFull("no room")):
        bad = BadDisk(error)
        for _ in range(2):
            job, _ = job_of(start(module=ref), supply(http, modules=bad))
            assert job.module == MODULE
        assert bad.deleted == ([SHA] if isinstance(error, StorageBroken) else [])


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"file": "not base64!"}, "image", "base64"),
        ({"image_url": ""}, "image", "no module"),
        ({"module": ModuleRef(sha256=SHA, url=f"{MANAGER}/none")}, "image", "404"),
        ({"module": ModuleRef(sha256=SHA, url="http://evil:1/x")}, "configuration", "http://evil:1"),
        ({"module": ModuleRef(sha256=SHA, url="file:///etc/passwd")}, "configuration", "not an http"),
        ({"encrypted": True}, "configuration", "TEE"),
        ({"latent": True, "daemon": True}, "configuration", "latent"),
    ],
)
def test_what_cannot_be_fetched_says_why(fields, kind, says):
    """Every failure has its kind and names the culprit."""
    failed = failure_of(start(**fields))
    assert failed.kind == kind
    assert says in failed.message


@pytest.mark.parametrize("error", [NotFound("no such tag"), PeerRefused("no wasm"), TooLarge("big")])
def test_an_image_that_will_never_come_fails_at_once(error):
    """Definite answers are not tried again."""
    images = FakeImages(error)
    failed = failure_of(start(), supply(images=images))
    assert (failed.kind, len(images.asked)) == ("image", 1)
    assert error.message in failed.message


def test_an_unreachable_registry_is_tried_again():
    """Silence is waited out."""
    images = FakeImages(unavailable(), unavailable())
    job, took_s = job_of(start(), supply(images=images))
    assert job.module == MODULE
    assert took_s > 0


def test_a_registry_that_stays_away_fails_at_the_wall_limit():
    """The attempt's time bounds the waiting."""
    images = FakeImages(*[unavailable("registry away")] * 1000)
    failed = failure_of(start(), supply(images=images), wall_s=30.0)
    assert failed.kind == "image"
    assert "registry away" in failed.message
    assert 3 < len(images.asked) < 100


# --- federated tasks -------------------------------------------------------------------------------------


def test_a_federated_task_gets_model_and_data_as_served():
    """Both texts byte for byte, in the environment and for the host functions."""
    http = FakeHttp()
    job, _ = job_of(start(env=ROUND), supply(http))
    assert job.env["MODEL_DATA"] == MODEL.decode() == job.host_strings["model_data"]
    assert job.env["DATASET_DATA"] == DATA.decode() == job.host_strings["dataset_data"]
    assert job.env["HYPERPARAMS"] == ROUND["HYPERPARAMS"]
    assert [url for _, url, _, _ in http.asked] == [f"{REGISTRY}/models/0", f"{STORE}/datasets/p-1"]


def test_a_data_set_that_has_not_changed_does_not_travel_again():
    """The store is asked with the tag it gave; what it then sends instead of 304 replaces what was known."""
    http = FakeHttp()
    url = f"GET {STORE}/datasets/p-1"
    given, sets = supply(http), []
    for answer in (Response(200, {"etag": '"1"'}, DATA), Response(304, {}, b""), Response(200, {}, b"new")):
        http.answers[url] = answer
        sets.append(job_of(start(env=ROUND), given)[0].env["DATASET_DATA"])
    assert sets == [DATA.decode(), DATA.decode(), "new"]
    asked = [headers for method, where, headers, _ in http.asked if f"{method} {where}" == url]
    assert asked == [{}, {"if-none-match": '"1"'}, {"if-none-match": '"1"'}]
    http.answers[url] = Response(304, {}, b"")
    assert failure_of(start(env=ROUND), given).kind == "data"  # what has no tag is not kept


def test_a_named_model_has_its_own_path():
    """`{name}_v{N}` is fetched from that model's versions."""
    http = FakeHttp()
    http.answers[f"GET {REGISTRY}/models/heart-v2/versions/12"] = b"{}"
    job, _ = job_of(start(env=ROUND | {"MODEL_URI": "fl/models/heart-v2_v12"}), supply(http))
    assert job.env["MODEL_DATA"] == "{}"


def test_a_plain_task_fetches_neither():
    """No ROUND_ID: no model, no data set, whatever services are known."""
    http = FakeHttp()
    job, _ = job_of(start(env={"DATA_STORE_URL": STORE}), supply(http))
    assert http.asked == []
    assert "DATASET_DATA" not in job.env


def test_the_devices_own_data_come_before_a_store(tmp_path):
    """With `--data` nobody is asked."""
    (tmp_path / "d.csv").write_text("a,y\n1,0\n")
    http = FakeHttp()
    job, _ = job_of(start(env=ROUND), supply(http, data=tmp_path))
    assert '"x":[1.0]' in job.env["DATASET_DATA"]
    assert http.count("GET") == 1


@pytest.mark.parametrize(
    ("env", "kind", "says"),
    [
        ({"MODEL_URI": ""}, "configuration", "needs MODEL_URI"),
        ({"MODEL_URI": "nonsense"}, "model", "nonsense"),
        ({"MODEL_URI": "fl/models/global_model_v9"}, "model", "404"),
        ({"ROUND_ID": "a/b+#"}, "configuration", "ROUND_ID"),
        ({"PROPLET_ID": "other"}, "configuration", "PROPLET_ID"),
        ({"COORDINATOR_URL": "http://evil:80"}, "configuration", "PROPLET_ALLOWED_ORIGINS"),
        ({"MODEL_REGISTRY_URL": "http://svc:1"}, "configuration", "http://svc:1"),
        ({"DATA_STORE_URL": "http://svc@evil:8083"}, "configuration", "http://evil:8083"),
        ({"DATA_STORE_URL": "gopher://svc:8083"}, "configuration", "not an http"),
    ],
)
def test_a_federated_task_that_cannot_train_fails_with_the_reason(env, kind, says):
    """Nothing is made up: each lack is a failure of its kind."""
    failed = failure_of(start(env=ROUND | env))
    assert failed.kind == kind
    assert says in failed.message


def test_a_missing_data_set_fails_and_nothing_runs(tmp_path):
    """Neither the store nor the device's own path has one."""
    http = FakeHttp()
    http.answers[f"GET {STORE}/datasets/p-1"] = 404
    assert failure_of(start(env=ROUND), supply(http)).kind == "data"
    failed = failure_of(start(env=ROUND), supply(data=tmp_path / "none"))
    assert (failed.kind, "does not exist" in failed.message) == ("data", True)


def test_unconfigured_services_are_named():
    """Without a URL anywhere the setting is named (defect 4.14)."""
    bare = supply(urls=ServiceUrls())
    failed = failure_of(start(env=ROUND), bare)
    assert (failed.kind, "COORDINATOR_URL" in failed.message) == ("configuration", True)


def test_the_tasks_urls_win_if_allowed():
    """A task may bring its services; both names of the coordinator's count."""
    http = FakeHttp()
    http.answers["GET http://other:1/models/0"] = b"{}"
    allowed = supply(http, allowed=("http://other:1",))
    env = ROUND | {"MODEL_REGISTRY_URL": "http://other:1/", "MANAGER_COORDINATOR_URL": "http://other:1"}
    job, _ = job_of(start(env=env), allowed)
    assert job.env["MODEL_DATA"] == "{}"


def test_a_star_allows_every_origin():
    """An operator may open a device on purpose."""
    http = FakeHttp()
    http.answers["GET http://any:9/models/0"] = b"{}"
    job, _ = job_of(start(env=ROUND | {"MODEL_REGISTRY_URL": "http://any:9"}), supply(http, allowed=("*",)))
    assert job.env["MODEL_DATA"] == "{}"


@pytest.mark.parametrize("trouble", [unavailable(), 500, 503, 429])
def test_passing_trouble_is_waited_out(trouble):
    """No answer, 5xx and 429 are tried again."""
    http = FakeHttp()
    http.answers[f"GET {REGISTRY}/models/0"] = [trouble, trouble, MODEL]
    job, took_s = job_of(start(env=ROUND), supply(http))
    assert job.env["MODEL_DATA"] == MODEL.decode()
    assert took_s > 0


def test_lasting_trouble_fails_with_the_last_reason():
    """At the wall limit the attempt says what it met."""
    http = FakeHttp()
    http.answers[f"GET {STORE}/datasets/p-1"] = 503
    failed = failure_of(start(env=ROUND), supply(http), wall_s=20.0)
    assert failed.kind == "data"
    assert "503" in failed.message


def test_a_model_that_is_no_text_is_refused():
    """Bytes that are not UTF-8 cannot be an environment."""
    http = FakeHttp()
    http.answers[f"GET {REGISTRY}/models/0"] = Response(200, {}, b"\xff")
    assert failure_of(start(env=ROUND), supply(http)).kind == "model"


# --- limits and origins ----------------------------------------------------------------------------------


def test_limits_are_the_tasks_within_the_systems():
    """Absent or zero ones are the proplet's own; huge ones are cut to the system's."""
    own = GuestLimits(wall_s=5.0)
    assert limits_of(start(), own) == own
    asked = TaskLimits(wall_s=1e9, cpu_s=0, memory_bytes=1 << 60)
    got = limits_of(start(limits=asked), own)
    assert (got.wall_s, got.cpu_s) == (limits.GUEST_WALL_S_MAX, own.cpu_s)
    assert got.memory_bytes == limits.GUEST_MEMORY_BYTES_MAX


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("http://Svc/x", "http://svc:80"),
        ("https://svc/x?y", "https://svc:443"),
        ("http://[::1]:5/x", "http://[::1]:5"),
        ("http://user:pw@svc:1", "http://svc:1"),
        ("http://svc:99999", ""),
        ("http://", ""),
        ("ftp://svc", ""),
        ("svc:80", ""),
        ("http://[::1", ""),
    ],
)
def test_origins_have_one_spelling(url, same):
    """Case, default ports and credentials do not make another origin."""
    assert origin(url) == same


def test_the_coordinator_is_known_to_the_fakes():
    """The services of these tests are the proplet's own, so that refusals come from the task."""
    supply().services.check(COORDINATOR, "it")
