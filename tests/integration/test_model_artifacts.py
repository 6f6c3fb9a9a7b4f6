"""Model versions as artefacts of an OCI registry: pushed, pulled, and the base of experiments."""

import asyncio
import contextlib
from random import Random

import pytest
from manager_world import echo, in_world, with_data

from federation_world import StoppedClock
from propeller.errors import BadInput, NotFound, PeerRefused
from propeller.federation.model_registry import app as model_registry
from propeller.federation.model_registry.exchange import Exchange, reference_in
from propeller.federation.model_registry.publisher import Publisher
from propeller.federation.offload import inline
from propeller.fl.versions import ModelVersion, Proposal
from propeller.http.memory import MemoryHttp
from propeller.images.client import OciImages
from propeller.images.models import MODEL_ARTIFACT, MODEL_CONFIG, MODEL_LAYER, OciModels
from propeller.images.reference import Reference
from propeller.images.registry.app import RegistryApp
from propeller.images.registry.index import MemoryIndex
from propeller.simulation.world.guests import TRAINER_IMAGE
from propeller.simulation.world.loop import VirtualLoop, run_virtual
from propeller.simulation.world.world import OCI, REGISTRY
from propeller.storage.memory_blobs import MemoryBlobs
from propeller.storage.model_memory import MemoryModelStore
from propeller.wire import codec

HOST = "localhost:5000"


class Site:
    """A model registry that reaches an OCI registry, which can be taken away."""

    def __init__(self, http=None):
        self.http = http or MemoryHttp()
        self.oci = RegistryApp(MemoryBlobs(), MemoryIndex(), StoppedClock(), Random(1))  # noqa: S311 - a seed
        self.models = MemoryModelStore()
        self.artifacts = OciModels(self.http, offload=inline)
        self.exchange = Exchange(self.models, self.artifacts, StoppedClock(), inline)
        self.back()

    def back(self):
        """The OCI registry answers."""
        self.http.register(f"http://{HOST}", self.oci)

    def away(self):
        """Nobody answers for it."""
        self.http.unregister(f"http://{HOST}")

    async def seed(self):
        """Version 0 of the global model, which it returns."""
        await model_registry.seed(self.models, StoppedClock())
        return await self.models.find("global_model", 0)


async def test_a_version_is_an_artefact_that_says_where_it_came_from():
    """Media types, the safetensors layer and the lineage are as documented; again is the same digest."""
    site = Site()
    version = await site.seed()
    pushed = await site.exchange.push(version, f"{HOST}/models/global_model:v0")
    again = await site.exchange.push(version, f"oci://{HOST}/models/global_model:other")
    assert pushed.digest == again.digest
    assert pushed.reference == f"oci://{HOST}/models/global_model:v0@{pushed.digest}"
    stored = await OciImages(site.http).manifest(Reference.parse(pushed.reference))
    manifest = codec.decode(dict, stored.content, what="the manifest")
    assert manifest["artifactType"] == MODEL_ARTIFACT
    assert manifest["config"]["mediaType"] == MODEL_CONFIG
    assert [layer["mediaType"] for layer in manifest["layers"]] == [MODEL_LAYER]
    assert manifest["annotations"]["dev.propeller.model.sha256"] == version.sha256
    assert manifest["annotations"]["dev.propeller.model.version"] == "0"
    assert [one.reference for one in await site.models.artifacts("global_model", 0)] == [
        again.reference,
        pushed.reference,
    ]


async def test_an_artefact_becomes_a_version_once_with_state_and_lineage():
    """By tag and by digest; what the strategy keeps comes with it; the same again is the same version."""
    here, there = Site(), Site()
    base = await here.seed()
    model = await here.models.content("global_model", 0)
    proposal = Proposal(
        name="global_model",
        sha256=base.sha256,
        parent=0,
        round_id="r1",
        strategy_json='{"name":"fedavgm","version":1,"options":{}}',
        participants=("p1", "p2"),
        metrics={"loss": 0.5},
    )
    version, _ = await here.models.add(proposal, model, state=model, created_at_s=1.0)
    pushed = await here.exchange.push(version, f"{HOST}/m:v1")
    there.http.register(f"http://{HOST}", here.oci)
    found, reference, new = await there.exchange.pull(f"oci://{HOST}/m:v1")
    assert (new, reference, found.name, found.version) == (True, pushed.reference, "global_model", 0)
    assert (found.sha256, found.parent, found.metrics) == (version.sha256, None, {"loss": 0.5})
    assert found.strategy_json == proposal.strategy_json
    assert await there.models.content("global_model", 0) == model
    assert await there.models.state("global_model", 0) == model
    for again in (f"{HOST}/m:v1", f"{HOST}/m@{pushed.digest}"):
        assert (await there.exchange.pull(again))[0] == found
    other, _, new = await there.exchange.pull(f"{HOST}/m:v1", "another")
    assert (other.name, new) == ("another", True)
    back, _, new = await here.exchange.pull(f"{HOST}/m:v1", "global_model")
    assert (back.version, new) == (1, False), "what was pushed from here is here"


async def test_what_is_no_model_is_refused_and_leaves_nothing():
    """An image of Wasm, a layer that is no safetensors file, a tag that is not there."""
    site = Site()
    await OciImages(site.http, offload=inline).push(Reference.parse(f"{HOST}/wasm:v1"), b"\0asm\x01\0\0\0")
    with pytest.raises(PeerRefused, match="application/wasm"):
        await site.exchange.pull(f"{HOST}/wasm:v1")
    empty = memoryview(b"")
    await site.artifacts.push(
        f"{HOST}/bad:v1", memoryview(b"not a model"), state=empty, about=b"{}", annotations={}
    )
    with pytest.raises(PeerRefused, match="is no model"):
        await site.exchange.pull(f"{HOST}/bad:v1")
    with pytest.raises(NotFound):
        await site.exchange.pull(f"{HOST}/none:v1")
    with pytest.raises(BadInput):
        await site.exchange.pull("no-registry")
    assert await site.models.names() == ()


def test_every_version_is_pushed_however_long_its_registry_is_away():
    """Versions wait while nobody answers, `/health` says for what, and none is left out or lost."""
    loop = VirtualLoop()

    async def main():
        site = Site()
        await site.seed()
        site.away()
        publisher = Publisher(f"{HOST}/models", site.models, site.exchange, Random(2))  # noqa: S311 - a seed
        running = asyncio.create_task(publisher.run())
        await asyncio.sleep(300)
        assert (publisher.health()["unpublished"], HOST in publisher.health()["waits_for"]) == (1, True)
        site.back()
        await asyncio.sleep(120)
        assert publisher.health() == {"publishing_to": f"{HOST}/models", "unpublished": 0}
        content = await site.models.content("global_model", 0)
        await site.models.add(
            Proposal(name="global_model", sha256="b" * 64, parent=0), content, created_at_s=2.0
        )
        publisher.wake()
        await asyncio.sleep(1)
        assert await OciImages(site.http).tags(Reference.parse(f"{HOST}/models/global_model")) == ["v0", "v1"]
        elsewhere = await site.models.unpublished(f"{HOST}/elsewhere")
        assert sorted(elsewhere) == [("global_model", 0), ("global_model", 1)]
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    run_virtual(main(), loop)


def test_names_that_no_repository_may_have_stay_apart():
    """Upper case and lower case are two models, and two repositories; a lawful name is itself."""

    def at(name):
        version = ModelVersion(
            name=name, version=3, sha256="a" * 64, parent=None, round_id=None, strategy_json=None,
            participants=(), metrics={}, created_at_s=0.0, content_bytes=0,
        )  # fmt: skip
        return reference_in(f"{HOST}/models/", version)

    assert at("global_model") == f"{HOST}/models/global_model:v3"
    found = {at(name) for name in ("hospital", "Hospital", "HOSPITAL", "a..b", "a.b")}
    assert len(found) == 5
    for reference in found:
        Reference.parse(reference)


def body(model_ref, **more):
    """An experiment of one round."""
    return {
        "experiment_id": "exp",
        "round_id": "r1",
        "model_ref": model_ref,
        "participants": ["proplet-1", "proplet-2"],
        "task_wasm_image": TRAINER_IMAGE,
        "timeout_s": 60,
        **more,
    }


async def _pushed(api):
    order = {"reference": f"{OCI}/models/global_model:v0"}
    url = f"{REGISTRY}/models/global_model/versions/0/push"
    answer = await api.world.calm_http.request("POST", url, body=codec.encode(order))
    return codec.decode(dict, answer.body, what="the answer")["reference"]


def test_an_experiment_begins_from_an_artefact_and_its_record_says_which():
    """The round trains from the version made of it; the digest is in the record; the same request repeats."""

    async def story(api):
        reference = await _pushed(api)
        await with_data(api, "proplet-1", "proplet-2")
        asked = body(f"oci://{OCI}/models/global_model:v0")
        assert (await api.ask("POST", "/fl/experiments", asked))[0] == 200
        await asyncio.sleep(60)
        found = await api.good("GET", "/fl/rounds/r1")
        assert (found["state"], found["base_source"]) == ("completed", reference)
        assert (found["base_model"], found["base_version"]) == ("global_model", 0)
        tasks = (await api.good("GET", "/tasks"))["tasks"]
        assert {task["env"]["MODEL_URI"] for task in tasks} == {"fl/models/global_model_v0"}
        assert (await api.ask("POST", "/fl/experiments", asked))[0] == 200
        status, said = await api.ask("POST", "/fl/experiments", body("fl/models/global_model_v0"))
        assert (status, said["code"]) == (409, "round_exists")
        drawn = body(
            f"oci://{OCI}/models/global_model:v0", participants=None, round_id="r2", selector={"clients": 2}
        )
        assert (await api.ask("POST", "/fl/experiments", drawn))[0] == 200
        assert (await api.good("GET", "/fl/rounds/r2"))["base_source"] == reference

    in_world(story)


def test_while_the_registry_is_away_the_caller_is_told_and_nothing_begins():
    """503 that names the registry, no task and no round; the same request works once it is back."""

    async def story(api):
        await _pushed(api)
        origin = f"http://{OCI}"
        oci = api.world.http._apps[origin]
        api.world.http.unregister(origin)
        asked = body(f"oci://{OCI}/models/global_model:v0", experiment_id="later", round_id="later-1")
        status, said = await api.ask("POST", "/fl/experiments", asked)
        assert (status, OCI in said["error"]) == (503, True)
        assert (await api.good("GET", "/tasks"))["total"] == 0
        assert (await api.ask("GET", "/fl/rounds/later-1"))[0] == 404
        api.world.http.register(origin, oci)
        assert (await api.ask("POST", "/fl/experiments", asked))[0] == 200

    in_world(story)


def test_bad_sources_are_refused_by_name():
    """No such artefact, a source that was made up, an artefact where a version is wanted."""

    async def story(api):
        status, said = await api.ask("POST", "/fl/experiments", body(f"oci://{OCI}/none:v9"))
        assert (status, said["code"]) == (400, "missing_model")
        made_up = body("fl/models/global_model_v0", model_source=f"oci://{OCI}/x:v1@sha256:{'0' * 64}")
        status, said = await api.ask("POST", "/fl/experiments", made_up)
        assert (status, said["code"]) == (400, "bad_model_source")
        task = echo(
            "by-hand", env={"ROUND_ID": "by-hand", "MODEL_URI": f"oci://{OCI}/models/global_model:v0"}
        )
        await api.good("POST", "/tasks", task)
        await api.good("POST", "/tasks/by-hand/start")
        ended = await api.ended("by-hand")
        assert (ended["state"], "models pull" in str(ended)) == (4, True), ended

    in_world(story)
