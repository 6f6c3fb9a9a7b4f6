import asyncio
import gzip
import json
from random import SystemRandom

import pytest

from propeller.errors import BadInput, NotFound, PeerRefused, PeerUnavailable, StorageBroken, TooLarge
from propeller.http.memory import MemoryHttp
from propeller.images.cache import CachedImages, SingleFlight
from propeller.images.client import OciImages
from propeller.images.digest import digest_of
from propeller.images.manifest import DOCKER_INDEX, IMAGE_INDEX, IMAGE_MANIFEST, TITLE, WASM_LAYER
from propeller.images.reference import Reference
from propeller.images.registry.app import RegistryApp
from propeller.images.registry.index import MemoryIndex
from propeller.ports import Instant, Response
from propeller.storage.memory_blobs import MemoryBlobs

ORIGIN = "http://localhost:5000"
HOST = "localhost:5000"
WASM = b"\0asm\x01\0\0\0" + b"the module"
TAR = "application/vnd.oci.image.layer.v1.tar"


class LoopClock:
    """The running loop's time."""

    def now(self):
        """The present moment."""
        return Instant(asyncio.get_running_loop().time(), 0.0)


class CountingHttp:
    """A `MemoryHttp` that remembers requests, can be cut off, and can lie about one blob."""

    def __init__(self, inner):
        self.inner = inner
        self.asked = []
        self.down = False
        self.lies = {}

    async def request(self, method, url, **named):
        """Pass on, or fail as told."""
        self.asked.append(f"{method} {url.removeprefix(ORIGIN)}")
        await asyncio.sleep(0)
        if self.down:
            raise PeerUnavailable("cut off")
        return self.lies.get(url.rpartition("/")[2]) or await self.inner.request(method, url, **named)


async def at_once(work, *args):
    """An offload that does not leave the loop."""
    return work(*args)


@pytest.fixture
async def http():
    """An empty registry in memory, seen through a counting client."""
    app = RegistryApp(MemoryBlobs(), MemoryIndex(), LoopClock(), SystemRandom())
    memory = MemoryHttp()
    memory.register(ORIGIN, app)
    yield CountingHttp(memory)
    await app.close()


@pytest.fixture
def images(http):
    """A client of that registry."""
    return OciImages(http, offload=at_once)


def ref(text):
    """A reference in the registry of these tests."""
    return Reference.parse(f"{HOST}/{text}")


async def put_blob(http, repo, content):
    """A blob, past our own client."""
    url = f"{ORIGIN}/v2/{repo}/blobs/uploads/?digest={digest_of(content)}"
    assert (await http.inner.request("POST", url, body=content)).status == 201
    return {"digest": digest_of(content), "size": len(content)}


async def put_manifest(http, repo, target, media_type=IMAGE_MANIFEST, **document):
    """A manifest, past our own client; its descriptor."""
    content = json.dumps({"schemaVersion": 2, "mediaType": media_type, **document}).encode()
    url = f"{ORIGIN}/v2/{repo}/manifests/{target or digest_of(content)}"
    answer = await http.inner.request("PUT", url, headers={"content-type": media_type}, body=content)
    assert answer.status == 201, answer.body
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


async def test_push_then_fetch_by_tag_and_digest(images):
    """What is pushed comes back: same bytes, their digest, and the manifest that the tag means.

    Defect 4.20 of the original.
    """
    pushed = await images.push(ref("team/a:v1"), WASM, {"org.example": "yes"})
    for text in ("team/a:v1", f"team/a@{pushed}", f"team/a:other@{pushed}"):
        got = await images.fetch(f"oci://{HOST}/{text}")
        assert (got.content, f"sha256:{got.digest}") == (WASM, digest_of(WASM))
        assert got.manifest_digest == pushed
    assert await images.resolve(ref("team/a:v1")) == pushed
    stored = await images.manifest(ref("team/a:v1"))
    document = json.loads(stored.content)
    assert (stored.digest, stored.media_type) == (pushed, IMAGE_MANIFEST)
    assert document["annotations"] == {"org.example": "yes"}
    assert document["layers"][0]["annotations"] == {TITLE: "module.wasm"}
    assert document["layers"][0]["mediaType"] == WASM_LAYER


async def test_pushing_twice_is_one_image(images, http):
    """The same module is the same digest, and its blobs are not sent again."""
    first = await images.push(ref("a:v1"), WASM)
    http.asked.clear()
    assert await images.push(ref("a:v2"), WASM) == first
    assert [one.split()[0] for one in http.asked] == ["HEAD", "HEAD", "PUT"]
    assert await images.tags(ref("a")) == ["v1", "v2"]
    assert await images.push(ref("a:v3"), WASM, created="2024-01-01T00:00:00Z") != first


async def test_pushing_to_a_digest(images):
    """A pinned reference takes only the image that it names."""
    pushed = await images.push(ref("a:v1"), WASM)
    assert await images.push(Reference.parse(f"{HOST}/b@{pushed}"), WASM) == pushed
    with pytest.raises(BadInput, match="pinned to another image"):
        await images.push(Reference.parse(f"{HOST}/b@{pushed}"), WASM + b"!")


async def test_pushing_something_else(images):
    """Only Wasm is pushed as Wasm."""
    with pytest.raises(BadInput, match="not Wasm"):
        await images.push(ref("a:v1"), b"ELF")


@pytest.mark.parametrize("text", ["a:absent", "nobody:v1", "a@sha256:" + "0" * 64])
async def test_absent_images(images, text):
    """An unknown tag, repository or digest is `NotFound`, with the registry's words."""
    await images.push(ref("a:v1"), WASM)
    with pytest.raises(NotFound, match=r"image localhost:5000/.*answered 404"):
        await images.fetch(f"{HOST}/{text}")


async def test_unlawful_and_unreachable(images, http):
    """A name without a registry is `BadInput`; a registry that does not answer is `PeerUnavailable`."""
    with pytest.raises(BadInput):
        await images.fetch("fl-client:latest")
    http.down = True
    with pytest.raises(PeerUnavailable):
        await images.fetch(f"{HOST}/a:v1")


@pytest.mark.parametrize("packed", [WASM, gzip.compress(WASM, mtime=0)])
async def test_an_artifact_as_oras_pushes_it(images, http, packed):
    """A layer mislabelled as tar, titled *.wasm, is told by its bytes."""
    layer = {**await put_blob(http, "a", packed), "mediaType": TAR, "annotations": {TITLE: "m.wasm"}}
    config = {**await put_blob(http, "a", b"{}"), "mediaType": "application/vnd.unknown.config.v1+json"}
    await put_manifest(http, "a", "v1", config=config, layers=[layer])
    got = await images.fetch(f"{HOST}/a:v1")
    assert (got.content, f"sha256:{got.digest}") == (WASM, digest_of(WASM))


async def test_an_index_with_a_wasm_platform(images, http):
    """Of an index the wasm/wasip1 image is taken; the reference resolves to the index."""
    other = {**await put_blob(http, "a", b"\x1f\x8bnot wasm"), "mediaType": TAR + "+gzip"}
    wasm = {**await put_blob(http, "a", WASM), "mediaType": WASM_LAYER}
    linux = await put_manifest(http, "a", None, layers=[other])
    wasi = await put_manifest(http, "a", None, layers=[wasm])
    children = [
        {**linux, "platform": {"os": "linux", "architecture": "amd64"}},
        {**wasi, "platform": {"os": "wasip1", "architecture": "wasm"}},
    ]
    index = await put_manifest(http, "a", "v1", DOCKER_INDEX, manifests=children)
    got = await images.fetch(f"{HOST}/a:v1")
    assert (got.content, got.manifest_digest) == (WASM, index["digest"])


async def test_an_index_without_platforms(images, http):
    """Without platforms, the first image with a Wasm layer is taken; without any, the error says so."""
    text = {**await put_blob(http, "a", b"text"), "mediaType": "text/plain"}
    wasm = {**await put_blob(http, "a", WASM), "mediaType": WASM_LAYER}
    plain, wasi = [await put_manifest(http, "a", None, layers=[one]) for one in (text, wasm)]
    await put_manifest(http, "a", "both", IMAGE_INDEX, manifests=[plain, wasi])
    await put_manifest(http, "a", "none", IMAGE_INDEX, manifests=[plain])
    assert (await images.fetch(f"{HOST}/a:both")).content == WASM
    with pytest.raises(PeerRefused, match="no Wasm layer"):
        await images.fetch(f"{HOST}/a:none")


async def test_an_index_that_nests_without_end(images, http):
    """Indexes within indexes are followed three deep."""
    inner = await put_manifest(http, "a", None, IMAGE_INDEX, manifests=[])
    for _ in range(4):
        inner = await put_manifest(http, "a", None, IMAGE_INDEX, manifests=[inner])
    with pytest.raises(PeerRefused, match="nested more than 3 deep"):
        await images.fetch(f"{HOST}/a@{inner['digest']}")


async def test_tampered_content_is_refused(images, http):
    """Bytes that do not have their digest are refused: layers, and manifests fetched by digest."""
    pushed = await images.push(ref("a:v1"), WASM)
    http.lies = {digest_of(WASM): Response(200, {}, WASM[:-1] + b"?")}
    with pytest.raises(PeerRefused, match="does not have its digest"):
        await images.fetch(f"{HOST}/a:v1")
    http.lies = {digest_of(WASM): Response(200, {}, WASM + b"?")}
    with pytest.raises(PeerRefused, match="bytes; its manifest says"):
        await images.fetch(f"{HOST}/a:v1")
    http.lies = {pushed: Response(200, {}, b'{"schemaVersion":2}')}
    with pytest.raises(PeerRefused, match="does not have its digest"):
        await images.fetch(f"{HOST}/a@{pushed}")


async def test_a_huge_layer_is_not_even_asked_for(images, http):
    """A layer over the size of a module is refused by its descriptor."""
    layer = {
        "mediaType": WASM_LAYER,
        "digest": digest_of(WASM),
        "size": 10**12,
        "urls": ["https://x.example/"],
    }
    await put_manifest(http, "a", "v1", layers=[layer])
    http.asked.clear()
    with pytest.raises(TooLarge):
        await images.fetch(f"{HOST}/a:v1")
    assert not [one for one in http.asked if "/blobs/" in one]


async def test_tags_of_every_page(images, http):
    """Tag lists are followed over all pages."""
    page = Response(200, {"link": '</v2/a/tags/list?n=1&last=x>; rel="next"'}, b'{"tags":["x"]}')
    http.lies = {"list": page, "list?n=1&last=x": Response(200, {}, b'{"tags":null}')}
    assert await images.tags(ref("a")) == ["x"]


class Downloads:
    """An `Http` with one file."""

    def __init__(self, body, kind):
        self.answer = Response(200, {"content-type": kind} if kind else {}, body)

    async def request(self, _method, _url, **_named):
        """The file."""
        return self.answer


@pytest.mark.parametrize("kind", ["", "application/wasm", "application/octet-stream; x=y"])
async def test_plain_urls(kind):
    """A module behind a plain URL is taken with these content types or none."""
    got = await OciImages(Downloads(WASM, kind), offload=at_once).fetch("https://host/x.wasm")
    assert (got.content, got.manifest_digest, got.reference) == (WASM, "", "https://host/x.wasm")


@pytest.mark.parametrize(("body", "kind"), [(WASM, "text/html"), (b"<html>", ""), (b"", "application/wasm")])
async def test_plain_urls_of_something_else(body, kind):
    """A page is no module, whatever it calls itself."""
    with pytest.raises(PeerRefused):
        await OciImages(Downloads(body, kind), offload=at_once).fetch("https://host/x.wasm")


# --- cache ---


@pytest.fixture
def cached(images):
    """The same client behind a cache."""
    return CachedImages(images, MemoryBlobs(), offload=at_once)


async def test_second_fetch_by_digest_needs_no_network(images, http, cached):
    """What was fetched once by tag is there by digest without one request, also when the registry is gone."""
    pushed = await images.push(ref("a:v1"), WASM)
    await cached.fetch(f"{HOST}/a:v1")
    http.asked.clear()
    http.down = True
    got = await cached.fetch(f"{HOST}/a@{pushed}")
    assert (got.content, got.manifest_digest, http.asked) == (WASM, pushed, [])
    with pytest.raises(PeerUnavailable):
        await cached.fetch(f"{HOST}/a:v1")


async def test_a_tag_is_asked_for_at_every_fetch(images, http, cached):
    """A tag costs one HEAD; if it has moved, the new image is fetched."""
    await images.push(ref("a:v1"), WASM)
    await cached.fetch(f"{HOST}/a:v1")
    http.asked.clear()
    await cached.fetch(f"{HOST}/a:v1")
    assert http.asked == ["HEAD /v2/a/manifests/v1"]
    await images.push(ref("a:v1"), WASM + b"2")
    assert (await cached.fetch(f"{HOST}/a:v1")).content == WASM + b"2"


async def test_what_runs_again_is_not_read_again(images):
    """By its digest a module is in memory: neither the registry nor the disk is asked for it."""
    pushed, blobs = await images.push(ref("a:v1"), WASM), MemoryBlobs()
    cached = CachedImages(images, blobs, offload=at_once)
    first = await cached.fetch(f"{HOST}/a:v1")
    for digest in await blobs.digests():
        await blobs.delete(digest)
    again = await cached.fetch(f"{HOST}/b:v7@{pushed}")
    assert (again.content, again.digest) == (first.content, first.digest)
    assert (first.reference, again.reference) == (f"{HOST}/a:v1", f"{HOST}/b:v7@{pushed}")


async def test_a_registry_without_digest_headers(images, http, cached):
    """Where HEAD does not say the digest, the manifest is fetched to learn it."""
    pushed = await images.push(ref("a:v1"), WASM)
    stored = await images.manifest(ref("a:v1"))
    http.lies = {"v1": Response(200, {"content-type": IMAGE_MANIFEST}, stored.content)}
    assert (await cached.fetch(f"{HOST}/a:v1")).manifest_digest == pushed


async def test_concurrent_fetches_are_one(images, http, cached):
    """Ten fetches of one reference at once ask the registry once."""
    await images.push(ref("a:v1"), WASM)
    http.asked.clear()
    got = await asyncio.gather(*(cached.fetch(f"{HOST}/a:v1") for _ in range(10)))
    assert {one.content for one in got} == {WASM}
    assert len(http.asked) == 3  # HEAD of the tag, GET of the manifest, GET of the layer


class RottenBlobs(MemoryBlobs):
    """A store whose disk damages what it is told to."""

    rotten = ""

    async def get(self, digest):
        """The content, unless it has rotted."""
        if digest == self.rotten:
            raise StorageBroken("damaged")
        return await super().get(digest)

    async def delete(self, digest):
        """Forget it, and with it the damage."""
        self.rotten = ""
        await super().delete(digest)


async def test_damaged_cache_content_is_fetched_anew(images):
    """A cache whose disk has damaged a layer asks the registry again."""
    blobs = RottenBlobs()
    await images.push(ref("a:v1"), WASM)
    await CachedImages(images, blobs, offload=at_once).fetch(f"{HOST}/a:v1")
    blobs.rotten = digest_of(WASM).removeprefix("sha256:")
    assert (await CachedImages(images, blobs, offload=at_once).fetch(f"{HOST}/a:v1")).content == WASM
    assert await blobs.get(digest_of(WASM).removeprefix("sha256:")) == WASM


async def test_single_flight_survives_one_caller_and_ends_with_the_last():
    """One caller giving up disturbs nobody; when all give up the work is cancelled; errors reach all."""
    flights, gate, log = SingleFlight(), asyncio.Event(), []

    async def work():
        log.append("begun")
        try:
            await gate.wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        return "done"

    first, second = (asyncio.create_task(flights.run("key", work)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert await second == "done"
    gate.clear()
    lone = asyncio.create_task(flights.run("key", work))
    await asyncio.sleep(0.01)
    lone.cancel()
    await asyncio.gather(lone, return_exceptions=True)
    await asyncio.sleep(0)
    assert log == ["begun", "begun", "cancelled"]


async def test_single_flight_shares_errors():
    """An error reaches every caller, and the next call tries again."""
    flights, calls = SingleFlight(), []

    async def work():
        calls.append(1)
        await asyncio.sleep(0)
        raise PeerUnavailable("down")

    outcomes = await asyncio.gather(*(flights.run("key", work) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in outcomes] == [PeerUnavailable] * 3
    with pytest.raises(PeerUnavailable):
        await flights.run("key", work)
    assert len(calls) == 2
