"""The workflows of the OCI distribution specification v1.1: pull, push, discovery, management.

Written from the specification, run against the embedded registry in memory and, on files, behind a real port.
"""

import asyncio
import hashlib
import json
from random import SystemRandom

import pytest

from propeller import limits
from propeller.http.client import AiohttpHttp
from propeller.http.listen import bind, port_of, serve
from propeller.http.memory import MemoryHttp
from propeller.http.server import create_app
from propeller.images.registry.app import RegistryApp, create_registry_app
from propeller.images.registry.index import FileIndex, MemoryIndex
from propeller.ports import Instant
from propeller.storage.blobs import FileBlobs
from propeller.storage.memory_blobs import MemoryBlobs
from propeller.telemetry.metrics import RoleMetrics

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
REPO = "team/fl/trainer"
OCTETS = {"content-type": "application/octet-stream"}
ABSENT = "sha256:" + "0" * 64


class LoopClock:
    """The running loop's time."""

    def now(self):
        """The present moment."""
        return Instant(asyncio.get_running_loop().time(), 0.0)


def digest(content):
    """The SHA-256 digest of bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Caller:
    """Requests to one registry, as a client would write them."""

    def __init__(self, http, origin):
        self.http = http
        self.origin = origin

    async def __call__(self, method, path, body=b"", **headers):
        """One request; `content_range="0-3"` becomes the header of that name."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = path if path.startswith("http") else self.origin + path
        return await self.http.request(method, url, headers=named, body=body)

    async def push_blob(self, content, repo=REPO):
        """A blob, in one session."""
        opened = await self("POST", f"/v2/{repo}/blobs/uploads/")
        answer = await self(
            "PUT", f"{opened.headers['location']}?digest={digest(content)}", content, **OCTETS
        )
        assert answer.status == 201
        return {"mediaType": "application/octet-stream", "digest": digest(content), "size": len(content)}

    async def push_image(self, tag, layers=(b"layer",), repo=REPO, **more):
        """An image with these layers; its bytes and digest."""
        config = {
            **await self.push_blob(b"{}", repo),
            "mediaType": "application/vnd.oci.image.config.v1+json",
        }
        held = [await self.push_blob(one, repo) for one in layers]
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": held, **more}
        content = json.dumps(document).encode()
        target = tag or digest(content)
        answer = await self("PUT", f"/v2/{repo}/manifests/{target}", content, content_type=MANIFEST)
        assert answer.status == 201, answer.body
        return content, digest(content)


def code_of(answer):
    """The error code of an answer in the specification's shape."""
    (error,) = json.loads(answer.body)["errors"]
    assert error["message"]
    assert "detail" in error
    return error["code"]


@pytest.fixture(params=["memory", "port"])
async def registry(request, tmp_path):
    """A caller of an empty registry: in memory, and on files behind a real port beside other routes."""
    if request.param == "memory":
        app = RegistryApp(MemoryBlobs(), MemoryIndex(), LoopClock(), SystemRandom())
        http = MemoryHttp()
        http.register("http://registry:5000", app)
        yield Caller(http, "http://registry:5000")
        await app.close()
        return
    index = FileIndex(tmp_path / "index")
    app = RegistryApp(FileBlobs(tmp_path / "blobs"), index, LoopClock(), SystemRandom())
    whole = create_app("registry", [create_registry_app(app)], RoleMetrics("registry"), dict)
    socket = bind("127.0.0.1", 0, "--port")
    server = asyncio.create_task(serve(whole, socket))
    http = AiohttpHttp()
    yield Caller(http, f"http://127.0.0.1:{port_of(socket)}")
    await http.close()
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)
    await app.close()
    index.close()


# --- determining support ---


async def test_v2_says_this_is_a_registry(registry):
    """end-1: `GET /v2/` answers 200, and Docker's header that old clients look for."""
    for path in ("/v2/", "/v2"):
        answer = await registry("GET", path)
        assert answer.status == 200
        assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


async def test_web_pages_of_other_origins_change_nothing(registry):
    """A browser posts for any page without asking; such a request carries the page's origin and is DENIED."""
    path = f"/v2/{REPO}/blobs/uploads/?digest={digest(b'x')}"
    answer = await registry("POST", path, b"x", origin="https://evil.example", content_type="text/plain")
    assert (answer.status, code_of(answer)) == (403, "DENIED")
    assert (await registry("POST", path, b"x", origin=registry.origin)).status == 201


# --- pull ---


async def test_manifest_by_tag_and_digest(registry):
    """end-3: the bytes as pushed, with type, digest and length, by tag and digest; HEAD without the body."""
    content, name = await registry.push_image("v1")
    for target in ("v1", name, name.replace(":", "%3A")):
        got = await registry("GET", f"/v2/{REPO}/manifests/{target}")
        assert (got.status, got.body) == (200, content)
        seen = await registry("HEAD", f"/v2/{REPO}/manifests/{target}")
        assert (seen.status, seen.body) == (200, b"")
        for answer in (got, seen):
            assert answer.headers["docker-content-digest"] == name
            assert answer.headers["content-type"] == MANIFEST
            assert answer.headers["content-length"] == str(len(content))


async def test_blob_whole_and_in_ranges(registry):
    """end-2: a blob whole, HEAD, a byte range (RFC 9110), the end of it, and 416 past it."""
    content = bytes(range(256)) * 9000  # over two read buffers
    path = f"/v2/{REPO}/blobs/{(await registry.push_blob(content))['digest']}"
    got = await registry("GET", path)
    assert (got.status, got.body) == (200, content)
    assert got.headers["docker-content-digest"] == digest(content)
    seen = await registry("HEAD", path)
    assert (seen.status, seen.body, seen.headers["content-length"]) == (200, b"", str(len(content)))
    for header, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=1048570-1048600", 1048570, 1048601),
        ("bytes=2303000-", 2303000, len(content)),
        ("bytes=-7", len(content) - 7, len(content)),
        ("bytes=5-99999999", 5, len(content)),
    ):
        part = await registry("GET", path, range=header)
        assert (part.status, part.body) == (206, content[start:end]), header
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(content)}"
    past = await registry("GET", path, range=f"bytes={len(content)}-")
    assert past.status == 416
    assert past.headers["content-range"] == f"bytes */{len(content)}"


async def test_empty_blob(registry):
    """A blob of no bytes is a blob."""
    name = (await registry.push_blob(b""))["digest"]
    got = await registry("GET", f"/v2/{REPO}/blobs/{name}")
    assert (got.status, got.body) == (200, b"")


REFUSALS = (
    (f"/v2/{REPO}/manifests/absent", 404, "MANIFEST_UNKNOWN"),
    (f"/v2/{REPO}/manifests/{ABSENT}", 404, "MANIFEST_UNKNOWN"),
    (f"/v2/{REPO}/blobs/{ABSENT}", 404, "BLOB_UNKNOWN"),
    (f"/v2/nobody/manifests/{ABSENT}", 404, "NAME_UNKNOWN"),
    (f"/v2/nobody/blobs/{ABSENT}", 404, "NAME_UNKNOWN"),
    ("/v2/nobody/tags/list", 404, "NAME_UNKNOWN"),
    ("/v2/Nobody/tags/list", 400, "NAME_INVALID"),
    ("/v2/a//b/tags/list", 400, "NAME_INVALID"),
    (f"/v2/{REPO}/blobs/sha256:zz", 400, "DIGEST_INVALID"),
    (f"/v2/{REPO}/blobs/sha256:..%2F..%2Fetc", 404, "UNSUPPORTED"),
    (f"/v2/{REPO}/manifests/sha256:zz", 400, "DIGEST_INVALID"),
    (f"/v2/{REPO}/manifests/-bad-", 400, "MANIFEST_INVALID"),
    (f"/v2/{REPO}/referrers/notadigest", 400, "DIGEST_INVALID"),
    (f"/v2/{REPO}/blobs/uploads/nosuch", 404, "BLOB_UPLOAD_UNKNOWN"),
    (f"/v2/{REPO}/nonsense", 404, "UNSUPPORTED"),
    (f"/v2/{REPO}/tags/list?n=-1", 400, "UNSUPPORTED"),
)


async def test_errors_have_the_shape_and_codes_of_the_specification(registry):
    """Every refusal is `{"errors":[{"code","message","detail"}]}` with a code of the list and its status."""
    await registry.push_blob(b"something, so that the repository exists")
    for path, status, code in REFUSALS:
        answer = await registry("GET", path)
        assert (answer.status, code_of(answer)) == (status, code), path


async def test_methods_that_are_not_offered(registry):
    """Another method is 405 and says which there are."""
    answer = await registry("POST", f"/v2/{REPO}/tags/list")
    assert (answer.status, code_of(answer), answer.headers["allow"]) == (405, "UNSUPPORTED", "GET")


# --- push: blobs ---


async def test_blob_in_a_single_post(registry):
    """end-4b: `POST ?digest=` with the content stores it at once."""
    content = b"single post"
    answer = await registry("POST", f"/v2/{REPO}/blobs/uploads/?digest={digest(content)}", content, **OCTETS)
    assert (answer.status, answer.headers["docker-content-digest"]) == (201, digest(content))
    assert (await registry("GET", answer.headers["location"])).body == content


async def test_blob_by_post_then_put(registry):
    """end-4a, end-6: a session, then the whole content with its digest; the location is pullable."""
    content = b"post then put"
    opened = await registry("POST", f"/v2/{REPO}/blobs/uploads/")
    assert opened.status == 202
    closed = await registry(
        "PUT", f"{opened.headers['location']}?digest={digest(content)}", content, **OCTETS
    )
    assert closed.status == 201
    assert (await registry("GET", closed.headers["location"])).body == content
    again = await registry("PUT", f"{opened.headers['location']}?digest={digest(content)}", content, **OCTETS)
    assert (again.status, code_of(again)) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_blob_in_chunks(registry):
    """end-5, end-13: chunks in order with Content-Range; status at any time; the last chunk in the PUT."""
    opened = await registry("POST", f"/v2/{REPO}/blobs/uploads/")
    location = opened.headers["location"]
    fresh = await registry("GET", location)
    assert (fresh.status, fresh.headers["range"]) == (204, "0-0")
    first = await registry("PATCH", location, b"chunk", content_range="0-4", **OCTETS)
    assert (first.status, first.headers["range"]) == (202, "0-4")
    status = await registry("GET", first.headers["location"])
    assert (status.status, status.headers["range"]) == (204, "0-4")
    second = await registry("PATCH", status.headers["location"], b"chunk", content_range="5-9", **OCTETS)
    assert (second.status, second.headers["range"]) == (202, "0-9")
    whole = b"chunkchunkend"
    closed = await registry(
        "PUT",
        f"{second.headers['location']}?digest={digest(whole)}",
        b"end",
        content_range="10-12",
        **OCTETS,
    )
    assert closed.status == 201
    assert (await registry("GET", closed.headers["location"])).body == whole


async def test_chunks_out_of_order_are_416(registry):
    """A chunk that does not begin where the upload ends is 416, and the upload goes on from where it is."""
    location = (await registry("POST", f"/v2/{REPO}/blobs/uploads/")).headers["location"]
    early = await registry("PATCH", location, b"second", content_range="5-10", **OCTETS)
    assert early.status == 416
    await registry("PATCH", location, b"first", content_range="0-4", **OCTETS)
    twice = await registry("PATCH", location, b"first", content_range="0-4", **OCTETS)
    assert (twice.status, twice.headers["range"], twice.headers["location"]) == (416, "0-4", location)
    nonsense = await registry("PATCH", location, b"x", content_range="bytes 5-5/*", **OCTETS)
    assert nonsense.status == 416
    closed = await registry("PUT", f"{location}?digest={digest(b'first')}")
    assert closed.status == 201


async def test_chunk_of_another_length_than_it_says(registry):
    """Content-Range and body must agree; the upload is unharmed."""
    location = (await registry("POST", f"/v2/{REPO}/blobs/uploads/")).headers["location"]
    wrong = await registry("PATCH", location, b"four", content_range="0-9", **OCTETS)
    assert (wrong.status, code_of(wrong)) == (400, "SIZE_INVALID")
    assert (await registry("GET", location)).headers["range"] == "0-0"


async def test_streamed_upload_without_ranges(registry):
    """Docker clients PATCH without Content-Range: the bytes are appended."""
    location = (await registry("POST", f"/v2/{REPO}/blobs/uploads/")).headers["location"]
    for part in (b"one", b"two"):
        assert (await registry("PATCH", location, part)).status == 202
    assert (await registry("PUT", f"{location}?digest={digest(b'onetwo')}")).status == 201


async def test_wrong_digest_stores_nothing(registry):
    """A blob whose content has another digest is DIGEST_INVALID, by both ways, and is not to be had."""
    content, other = b"content", digest(b"something else")
    location = (await registry("POST", f"/v2/{REPO}/blobs/uploads/")).headers["location"]
    for answer in (
        await registry("PUT", f"{location}?digest={other}", content),
        await registry("POST", f"/v2/{REPO}/blobs/uploads/?digest={other}", content),
        await registry("POST", f"/v2/{REPO}/blobs/uploads/?digest=sha512:{'0' * 128}", content),
    ):
        assert (answer.status, code_of(answer)) == (400, "DIGEST_INVALID")
    for name in (other, digest(content)):
        assert (await registry("HEAD", f"/v2/{REPO}/blobs/{name}")).status == 404


async def test_put_without_digest(registry):
    """Closing a session needs the digest; the session survives the mistake."""
    location = (await registry("POST", f"/v2/{REPO}/blobs/uploads/")).headers["location"]
    answer = await registry("PUT", location, b"x")
    assert (answer.status, code_of(answer)) == (400, "DIGEST_INVALID")
    assert (await registry("PUT", f"{location}?digest={digest(b'x')}", b"x")).status == 201


async def test_cancelled_upload(registry):
    """end-14: a cancelled session is gone."""
    location = (await registry("POST", f"/v2/{REPO}/blobs/uploads/")).headers["location"]
    await registry("PATCH", location, b"half")
    assert (await registry("DELETE", location)).status == 204
    assert (await registry("GET", location)).status == 404


async def test_a_session_belongs_to_its_repository(registry):
    """An upload id does not work under another repository's name."""
    location = (await registry("POST", f"/v2/{REPO}/blobs/uploads/")).headers["location"]
    assert (await registry("PATCH", location.replace(REPO, "other"), b"x")).status == 404


async def test_open_uploads_are_bounded(registry):
    """Over the limit a new session is 429, and there is room again when one ends."""
    held = [await registry("POST", "/v2/a/blobs/uploads/") for _ in range(limits.OCI_UPLOADS_MAX)]
    refused = await registry("POST", "/v2/a/blobs/uploads/")
    assert (refused.status, code_of(refused)) == (429, "TOOMANYREQUESTS")
    await registry("DELETE", held[0].headers["location"])
    assert (await registry("POST", "/v2/a/blobs/uploads/")).status == 202


async def test_mounting_a_blob(registry):
    """end-11: a blob of another repository is linked without sending it; else an upload begins."""
    blob = await registry.push_blob(b"shared", "one")
    path = f"/v2/two/blobs/uploads/?mount={blob['digest']}"
    elsewhere = await registry("POST", f"{path}&from=three")
    assert (elsewhere.status, elsewhere.headers["range"]) == (202, "0-0")
    assert (await registry("HEAD", f"/v2/two/blobs/{blob['digest']}")).status == 404
    mounted = await registry("POST", f"{path}&from=one")
    assert (mounted.status, mounted.headers["location"]) == (201, f"/v2/two/blobs/{blob['digest']}")
    assert (await registry("GET", mounted.headers["location"])).body == b"shared"
    anywhere = await registry("POST", f"/v2/four/blobs/uploads/?mount={blob['digest']}")
    assert anywhere.status == 201


# --- push: manifests ---


async def test_manifest_by_digest_must_match(registry):
    """A manifest pushed by digest has that digest, or is DIGEST_INVALID."""
    content, _ = await registry.push_image("v1")
    answer = await registry("PUT", f"/v2/{REPO}/manifests/{ABSENT}", content, content_type=MANIFEST)
    assert (answer.status, code_of(answer)) == (400, "DIGEST_INVALID")
    _, name = await registry.push_image(None, [b"untagged"])
    assert (await registry("HEAD", f"/v2/{REPO}/manifests/{name}")).status == 200


async def test_manifest_whose_parts_are_missing(registry):
    """MANIFEST_BLOB_UNKNOWN names what to push first; blobs of another repository do not count."""
    content, _ = await registry.push_image("v1", repo="elsewhere")
    answer = await registry("PUT", f"/v2/{REPO}/manifests/v1", content, content_type=MANIFEST)
    assert (answer.status, code_of(answer)) == (400, "MANIFEST_BLOB_UNKNOWN")
    missing = json.loads(answer.body)["errors"][0]["detail"]["digests"]
    assert missing == [digest(b"{}"), digest(b"layer")]
    assert (await registry("GET", f"/v2/{REPO}/tags/list")).status == 404


async def test_manifest_with_a_wrong_size(registry):
    """SIZE_INVALID names the part whose size is not the one that the manifest says; nothing is stored."""
    layer, config = await registry.push_blob(b"layer"), await registry.push_blob(b"{}")
    content, name = await registry.push_image(None)
    child = {"mediaType": MANIFEST, "digest": name, "size": len(content)}
    image = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
    wrong = [
        (MANIFEST, layer, {**image, "layers": [layer, {**layer, "size": 6}]}),
        (MANIFEST, config, {**image, "config": {**config, "size": 0}}),
        (INDEX, child, {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**child, "size": 1}]}),
    ]
    for kind, part, document in wrong:
        path = f"/v2/{REPO}/manifests/wrong"
        answer = await registry("PUT", path, json.dumps(document).encode(), content_type=kind)
        assert (answer.status, code_of(answer)) == (400, "SIZE_INVALID")
        assert json.loads(answer.body)["errors"][0]["detail"] == {
            "digest": part["digest"],
            "size": part["size"],
        }
        assert (await registry("GET", path)).status == 404


MALFORMED = (
    (b"not json", MANIFEST),
    (b"{}", MANIFEST),
    (b'{"schemaVersion":1}', MANIFEST),
    (b'{"schemaVersion":2,"mediaType":"application/a"}', "application/b"),
    (b'{"schemaVersion":2}', ""),
    (b'{"schemaVersion":2,"layers":[],"manifests":[]}', MANIFEST),
)


async def test_malformed_manifests(registry):
    """What is no manifest, or clashes with its Content-Type, is MANIFEST_INVALID."""
    for content, content_type in MALFORMED:
        answer = await registry("PUT", f"/v2/{REPO}/manifests/v1", content, content_type=content_type)
        assert (answer.status, code_of(answer)) == (400, "MANIFEST_INVALID"), content


async def test_manifest_size_limit(registry):
    """A manifest of 4 MiB is taken; one byte more is 413."""
    start = b'{"schemaVersion":2,"mediaType":"application/x","annotations":{"a":"'
    fill = limits.OCI_MANIFEST_BYTES_MAX - len(start) - 3
    content = start + b"a" * fill + b'"}}'
    path = f"/v2/{REPO}/manifests/v1"
    assert (await registry("PUT", path, content, content_type="application/x")).status == 201
    over = await registry("PUT", path, content + b" ", content_type="application/x; charset=utf-8")
    assert (over.status, code_of(over)) == (413, "SIZE_INVALID")


async def test_image_index(registry):
    """An index of manifests that are here is a manifest; one of a manifest that is not is refused."""
    content, name = await registry.push_image(None)
    child = {"mediaType": MANIFEST, "digest": name, "size": len(content)}
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}
    answer = await registry(
        "PUT", f"/v2/{REPO}/manifests/all", json.dumps(document).encode(), content_type=INDEX
    )
    assert answer.status == 201
    child["digest"] = ABSENT
    refused = await registry(
        "PUT", f"/v2/{REPO}/manifests/all", json.dumps(document).encode(), content_type=INDEX
    )
    assert code_of(refused) == "MANIFEST_BLOB_UNKNOWN"


# --- content discovery ---


async def test_tags_sorted_and_paged(registry):
    """end-8: tags in byte order; `n` and `last` page them, and the Link header leads through all."""
    for tag in ("v2", "V1", "v10", "latest", "_x"):
        await registry.push_image(tag)
    everything = ["V1", "_x", "latest", "v10", "v2"]
    whole = await registry("GET", f"/v2/{REPO}/tags/list")
    assert json.loads(whole.body) == {"name": REPO, "tags": everything}
    assert "link" not in whole.headers
    seen, path = [], f"/v2/{REPO}/tags/list?n=2"
    while path:
        answer = await registry("GET", path)
        seen += json.loads(answer.body)["tags"]
        link = answer.headers.get("link", "")
        assert not link or link.endswith('; rel="next"')
        path = link.partition(">")[0].removeprefix("<")
    assert seen == everything
    after = await registry("GET", f"/v2/{REPO}/tags/list?last=latest")
    assert json.loads(after.body)["tags"] == ["v10", "v2"]
    none = await registry("GET", f"/v2/{REPO}/tags/list?n=0")
    assert json.loads(none.body)["tags"] == []
    assert "link" not in none.headers


async def test_a_tag_moves(registry):
    """Pushing a tag again points it at the new manifest; the old one stays by digest."""
    old, name = await registry.push_image("v1", [b"old"])
    new, _ = await registry.push_image("v1", [b"new"])
    assert (await registry("GET", f"/v2/{REPO}/manifests/v1")).body == new
    assert (await registry("GET", f"/v2/{REPO}/manifests/{name}")).body == old


async def test_catalog(registry):
    """`_catalog` lists every repository, paged like tags."""
    for repo in ("b/c", "a", "b"):
        await registry.push_blob(b"x", repo)
    whole = await registry("GET", "/v2/_catalog")
    assert json.loads(whole.body) == {"repositories": ["a", "b", "b/c"]}
    page = await registry("GET", "/v2/_catalog?n=2")
    assert json.loads(page.body) == {"repositories": ["a", "b"]}
    assert page.headers["link"] == '</v2/_catalog?n=2&last=b>; rel="next"'


async def test_referrers(registry):
    """end-12: manifests with a subject are listed with type and annotations, filtered by artifactType."""
    content, name = await registry.push_image("v1")
    subject = {"mediaType": MANIFEST, "digest": name, "size": len(content)}
    empty = await registry("GET", f"/v2/{REPO}/referrers/{name}")
    assert (empty.status, empty.headers["content-type"]) == (200, INDEX)
    assert json.loads(empty.body)["manifests"] == []
    signed, signature = await registry.push_image(
        None, [b"sig"], subject=subject, artifactType="application/sig", annotations={"by": "me"}
    )
    _, plain = await registry.push_image(None, [b"sbom"], subject=subject)
    listed = json.loads((await registry("GET", f"/v2/{REPO}/referrers/{name}")).body)["manifests"]
    assert [one["digest"] for one in listed] == sorted([signature, plain])
    by_digest = {one["digest"]: one for one in listed}
    assert by_digest[signature] == {
        "mediaType": MANIFEST,
        "digest": signature,
        "size": len(signed),
        "artifactType": "application/sig",
        "annotations": {"by": "me"},
    }
    assert by_digest[plain]["artifactType"] == "application/vnd.oci.image.config.v1+json"
    filtered = await registry("GET", f"/v2/{REPO}/referrers/{name}?artifactType=application/sig")
    assert filtered.headers["oci-filters-applied"] == "artifactType"
    assert [one["digest"] for one in json.loads(filtered.body)["manifests"]] == [signature]


async def test_subject_that_does_not_exist_yet(registry):
    """A referrer may be pushed before its subject; the answer shows that the subject was understood."""
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    document["subject"] = {"mediaType": MANIFEST, "digest": ABSENT, "size": 2}
    answer = await registry(
        "PUT", f"/v2/{REPO}/manifests/ref", json.dumps(document).encode(), content_type=INDEX
    )
    assert (answer.status, answer.headers["oci-subject"]) == (201, ABSENT)
    (listed,) = json.loads((await registry("GET", f"/v2/{REPO}/referrers/{ABSENT}")).body)["manifests"]
    assert "artifactType" not in listed


async def test_referrers_of_an_unknown_repository(registry):
    """A registry with the referrers API never answers 404 there."""
    assert (await registry("GET", f"/v2/nobody/referrers/{ABSENT}")).status == 200


async def test_many_referrers_are_paged(registry):
    """A list longer than a manifest may be comes in pages, each an image index, led by Link."""
    fill = "a" * (limits.OCI_MANIFEST_BYTES_MAX // 2)
    for number in range(3):
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
        document |= {"annotations": {"n": str(number), "fill": fill}}
        document["subject"] = {"mediaType": MANIFEST, "digest": ABSENT, "size": 2}
        await registry(
            "PUT", f"/v2/{REPO}/manifests/r{number}", json.dumps(document).encode(), content_type=INDEX
        )
    seen, path = set(), f"/v2/{REPO}/referrers/{ABSENT}"
    while path:
        answer = await registry("GET", path)
        assert len(answer.body) <= limits.OCI_MANIFEST_BYTES_MAX + 1000
        seen |= {one["annotations"]["n"] for one in json.loads(answer.body)["manifests"]}
        path = answer.headers.get("link", "").partition(">")[0].removeprefix("<")
    assert seen == {"0", "1", "2"}


# --- content management ---


async def test_deleting_a_tag_keeps_the_manifest(registry):
    """end-9 by tag: the tag is gone, its manifest and other tags are not."""
    content, name = await registry.push_image("v1")
    await registry.push_image("v2")
    assert (await registry("DELETE", f"/v2/{REPO}/manifests/v1")).status == 202
    assert (await registry("GET", f"/v2/{REPO}/manifests/v1")).status == 404
    assert (await registry("GET", f"/v2/{REPO}/manifests/v2")).body == content
    assert (await registry("GET", f"/v2/{REPO}/manifests/{name}")).body == content
    again = await registry("DELETE", f"/v2/{REPO}/manifests/v1")
    assert (again.status, code_of(again)) == (404, "MANIFEST_UNKNOWN")


async def test_deleting_a_manifest_deletes_its_tags(registry):
    """end-9 by digest: manifest and every tag that points at it are gone; other manifests are not."""
    _, name = await registry.push_image("v1")
    await registry.push_image("v2")
    await registry.push_image("other", [b"other"])
    assert (await registry("DELETE", f"/v2/{REPO}/manifests/{name}")).status == 202
    for target in ("v1", "v2", name):
        assert (await registry("GET", f"/v2/{REPO}/manifests/{target}")).status == 404
    assert json.loads((await registry("GET", f"/v2/{REPO}/tags/list")).body)["tags"] == ["other"]


async def test_deleting_a_blob(registry):
    """end-10: refused while a manifest here needs it; then gone here, and whole elsewhere."""
    _, name = await registry.push_image("v1")
    blob = digest(b"layer")
    await registry("POST", f"/v2/other/blobs/uploads/?mount={blob}&from={REPO}")
    path = f"/v2/{REPO}/blobs/{blob}"
    used = await registry("DELETE", path)
    assert (used.status, code_of(used)) == (405, "UNSUPPORTED")
    assert json.loads(used.body)["errors"][0]["detail"] == {"manifests": [name]}
    await registry("DELETE", f"/v2/{REPO}/manifests/{name}")
    assert (await registry("DELETE", path)).status == 202
    assert (await registry("GET", path)).status == 404
    gone = await registry("DELETE", path)
    assert (gone.status, code_of(gone)) == (404, "BLOB_UNKNOWN")
    assert (await registry("GET", f"/v2/other/blobs/{blob}")).body == b"layer"


async def test_a_repository_ends_with_its_last_content(registry):
    """When nothing is left in a repository, it is unknown again, and may be begun anew."""
    blob = await registry.push_blob(b"alone", "brief")
    assert (await registry("DELETE", f"/v2/brief/blobs/{blob['digest']}")).status == 202
    assert (await registry("GET", "/v2/brief/tags/list")).status == 404
    assert json.loads((await registry("GET", "/v2/_catalog")).body) == {"repositories": []}
    await registry.push_blob(b"alone", "brief")
    assert (await registry("GET", f"/v2/brief/blobs/{blob['digest']}")).body == b"alone"


async def test_deleting_where_nothing_is(registry):
    """Deleting in an unknown repository is NAME_UNKNOWN."""
    answer = await registry("DELETE", f"/v2/nobody/manifests/{ABSENT}")
    assert (answer.status, code_of(answer)) == (404, "NAME_UNKNOWN")
