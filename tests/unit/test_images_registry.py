"""The embedded registry in parts: paths, repositories, uploads, the index, faults."""

import asyncio
import json

import pytest
from registry_started import Started

from propeller import limits
from propeller.errors import NotFound, StorageBroken, StorageFull
from propeller.images.digest import digest_of
from propeller.images.registry.faults import RegistryFault
from propeller.images.registry.index import FileIndex, MemoryIndex
from propeller.images.registry.repository import HeldManifest, Repository, page
from propeller.images.registry.routes import Resource, match
from propeller.storage.memory_blobs import MemoryBlobs

ONE, TWO, IMAGE = ("sha256:" + digit * 64 for digit in "123")


# --- paths ---


@pytest.mark.parametrize(
    ("path", "resource", "repository", "target"),
    [
        ("/v2/", Resource.ROOT, "", ""),
        ("/v2/_catalog", Resource.CATALOG, "", ""),
        ("/v2/a/b/c/manifests/v1", Resource.MANIFEST, "a/b/c", "v1"),
        (f"/v2/manifests/manifests/{ONE}", Resource.MANIFEST, "manifests", ONE),
        (f"/v2/a/blobs/uploads/blobs/{ONE}", Resource.BLOB, "a/blobs/uploads", ONE),
        ("/v2/a/blobs/blobs/uploads/", Resource.UPLOADS, "a/blobs", ""),
        ("/v2/a/blobs/uploads/1-2", Resource.UPLOAD, "a", "1-2"),
        ("/v2/v2/tags/list", Resource.TAGS, "v2", ""),
        (f"/v2/a/referrers/{ONE}", Resource.REFERRERS, "a", ONE),
    ],
)
def test_paths_are_matched_from_their_end(path, resource, repository, target):
    """Repository names have any number of parts, also ones that look like endpoints."""
    route = match(path)
    assert (route.resource, route.repository, route.target) == (resource, repository, target)


NOWHERE = (
    "",
    "/v1/",
    "/v2x",
    "/v2//tags/list",
    "/v2/../x/tags/list",
    "/v2/a/../../etc/manifests/passwd",
    "/v2/a/manifests/../x",
    "/v2/a\n/tags/list",
    "/v2/a+b/tags/list",
    f"/v2/{'a' * 201}/tags/list",
)


@pytest.mark.parametrize("path", NOWHERE)
def test_paths_that_name_nothing(path):
    """Whatever could climb out of a directory is no repository name."""
    with pytest.raises(RegistryFault):
        match(path)


# --- one repository ---


def test_a_manifest_needs_its_parts_and_keeps_them():
    """A manifest goes in when its blobs are there, and its blobs go out after it."""
    image = HeldManifest(media_type="x/y", size=1, contents=(ONE, TWO))
    held = Repository(name="a").with_blob(ONE, 1)
    with pytest.raises(RegistryFault, match="push them first"):
        held.with_manifest(IMAGE, image, "v1")
    whole = held.with_blob(TWO, 2).with_manifest(IMAGE, image, "v1")
    with pytest.raises(RegistryFault, match="delete those first"):
        whole.without_blob(ONE)
    rest = whole.without_manifest(IMAGE)
    assert rest.tags == {}
    assert rest.without_blob(ONE).without_blob(TWO).is_empty
    assert held.blobs == {ONE: 1}


@pytest.mark.parametrize(
    ("count", "last", "shown", "more"),
    [(2, "", ["a", "b"], True), (3, "", ["a", "b", "c"], False), (1, "a", ["b"], True), (0, "", [], False)],
)
def test_pages(count, last, shown, more):
    """A page is sorted, begins after the last name, and knows whether another follows."""
    assert page({"c", "b", "a"}, count, last) == (shown, more)


# --- the index: one suite for both ---


@pytest.fixture(params=["memory", "file"])
def index(request, tmp_path):
    """An empty index."""
    if request.param == "memory":
        yield MemoryIndex()
        return
    made = FileIndex(tmp_path / "index")
    yield made
    made.close()


WHOLE = (
    Repository(name="a/b-c.d")
    .with_blob(ONE, 7)
    .with_manifest(
        IMAGE, HeldManifest(media_type="x/y", size=3, contents=(ONE,), subject=TWO, artifact_type="z"), "v1"
    )
)


async def test_index_keeps_what_it_was_given(index):
    """Repositories come back equal; the last save counts; a removed one is gone, twice is fine."""
    await index.save(Repository(name="a"))
    await index.save(WHOLE.without_tag("v1"))
    await index.save(WHOLE)
    assert sorted(await index.load(), key=lambda one: one.name) == [Repository(name="a"), WHOLE]
    await index.remove("a")
    await index.remove("a")
    assert await index.load() == [WHOLE]


async def test_file_index_survives_its_process(tmp_path):
    """What was saved is there for the next owner; a half-written temporary file is not."""
    first = FileIndex(tmp_path)
    await first.save(WHOLE)
    first.close()
    (tmp_path / "a+b-c.d.tmp").write_bytes(b'{"half')
    second = FileIndex(tmp_path)
    assert await second.load() == [WHOLE]
    assert list(tmp_path.glob("*.tmp")) == []
    second.close()


def test_file_index_has_one_owner(tmp_path):
    """A second registry on the same directory is refused with words that help."""
    first = FileIndex(tmp_path)
    with pytest.raises(StorageBroken, match="another process uses the registry index"):
        FileIndex(tmp_path)
    first.close()
    FileIndex(tmp_path).close()


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b'{"schema":1,"repos', "not valid"),
        (b"", "not valid"),
        (b'{"schema":99,"repository":{"name":"a"}}', "schema 99"),
        (b'{"schema":1,"repository":{"name":"b"}}', "calls itself 'b'"),
    ],
)
async def test_file_index_refuses_to_guess(tmp_path, record, why):
    """A damaged, newer or foreign record stops the start instead of losing a repository."""
    index = FileIndex(tmp_path)
    (tmp_path / "a.json").write_bytes(record)
    with pytest.raises(StorageBroken, match=why):
        await index.load()
    index.close()


# --- the whole, over its storage ---


async def test_everything_is_there_after_a_restart():
    """Tags, manifests and blobs are those of before; open uploads are not, and say so."""
    blobs, index = MemoryBlobs(), MemoryIndex()
    before = Started(blobs, index)
    await before.push(b"blob")
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/x"}).encode()
    await before("PUT", "/v2/a/manifests/v1", manifest, **{"content-type": "application/x"})
    location = (await before("POST", "/v2/a/blobs/uploads/")).headers["location"]
    after = Started(blobs, index)
    assert (await after("GET", "/v2/a/manifests/v1")).body == manifest
    assert (await after("GET", f"/v2/a/blobs/{digest_of(b'blob')}")).body == b"blob"
    assert (await after("PATCH", location, b"x")).status == 404


async def test_content_goes_with_its_last_link():
    """Deleting in one repository leaves another's; deleting the last one frees the bytes."""
    blobs = MemoryBlobs()
    registry = Started(blobs, MemoryIndex())
    for repo in ("a", "b"):
        await registry.push(b"shared", repo)
    path = f"blobs/{digest_of(b'shared')}"
    await registry("DELETE", f"/v2/a/{path}")
    assert (await registry("GET", f"/v2/b/{path}")).body == b"shared"
    await registry("DELETE", f"/v2/b/{path}")
    assert await blobs.digests() == []


async def test_content_that_is_blob_and_manifest():
    """The same bytes pushed as blob and as manifest are freed when both are gone, not before."""
    blobs = MemoryBlobs()
    registry = Started(blobs, MemoryIndex())
    content = json.dumps({"schemaVersion": 2, "mediaType": "application/x"}).encode()
    await registry.push(content)
    await registry("PUT", "/v2/a/manifests/v1", content, **{"content-type": "application/x"})
    await registry("DELETE", f"/v2/a/manifests/{digest_of(content)}")
    assert (await registry("GET", f"/v2/a/blobs/{digest_of(content)}")).body == content
    await registry("DELETE", f"/v2/a/blobs/{digest_of(content)}")
    assert await blobs.digests() == []


async def test_orphans_are_collected():
    """Content that a crash left without a link is collected; linked content is not."""
    blobs = MemoryBlobs()
    registry = Started(blobs, MemoryIndex())
    await registry.push(b"linked")
    orphan = await blobs.put(b"stored, never linked")
    assert await registry.app.collect() == 1
    with pytest.raises(NotFound):
        await blobs.get(orphan)
    assert await registry.app.collect() == 0


class SlowBlobs(MemoryBlobs):
    """A store whose deletions take a while."""

    async def delete(self, digest):
        """Delete after other things have happened."""
        await asyncio.sleep(0.01)
        await super().delete(digest)


async def test_pushing_while_the_same_content_is_deleted():
    """Whatever the order, a blob that was answered 201 after the deletion is whole."""
    registry = Started(SlowBlobs(), MemoryIndex())
    path = f"blobs/{digest_of(b'same')}"
    for turn in range(20):
        await registry.push(b"same", "a")
        deleting = asyncio.create_task(registry("DELETE", f"/v2/a/{path}"))
        for _ in range(turn):
            await asyncio.sleep(0)
        pushed = await registry.push(b"same", "b")
        assert pushed.status == 201
        assert (await deleting).status == 202
        assert (await registry("GET", f"/v2/b/{path}")).body == b"same"
        await registry("DELETE", f"/v2/b/{path}")


class FullIndex(MemoryIndex):
    """An index on a full disk."""

    full = False

    async def save(self, repository):
        """No room."""
        if self.full:
            raise StorageFull("no room")
        await super().save(repository)


async def test_a_full_disk_is_said_and_changes_nothing():
    """507 with the specification's shape; what was there before is unharmed, and room makes it work again."""
    index = FullIndex()
    registry = Started(MemoryBlobs(), index)
    await registry.push(b"before")
    index.full = True
    answer = await registry.push(b"after")
    assert answer.status == 507
    assert json.loads(answer.body)["errors"][0]["message"] == "no room"
    assert (await registry("HEAD", f"/v2/a/blobs/{digest_of(b'after')}")).status == 404
    assert (await registry("HEAD", f"/v2/a/blobs/{digest_of(b'before')}")).status == 200
    index.full = False
    assert (await registry.push(b"after")).status == 201


async def test_idle_uploads_are_dropped():
    """An upload that received nothing for an hour is gone when the next one begins; an active one is not."""
    registry = Started(MemoryBlobs(), MemoryIndex())
    idle, active = [(await registry("POST", "/v2/a/blobs/uploads/")).headers["location"] for _ in range(2)]
    registry.clock.now_s += limits.OCI_UPLOAD_IDLE_S - 1
    await registry("PATCH", active, b"x")
    registry.clock.now_s += 2
    await registry("POST", "/v2/a/blobs/uploads/")
    assert (await registry("GET", idle)).status == 404
    assert (await registry("GET", active)).status == 204


async def test_upload_ids_are_not_guessable_from_each_other():
    """Ids are distinct UUIDs of the given source of randomness."""
    registry = Started(MemoryBlobs(), MemoryIndex())
    ids = {(await registry("POST", "/v2/a/blobs/uploads/")).headers["docker-upload-uuid"] for _ in range(20)}
    assert len(ids) == 20


async def breaking_off(scope_path, chunks, app):
    """Send chunks of a PATCH and then hang up; what the application answers to nobody."""
    messages = [{"type": "http.request", "body": one, "more_body": True} for one in chunks]
    messages.append({"type": "http.disconnect"})
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "PATCH", "path": scope_path, "raw_path": scope_path.encode()}
    await app(scope | {"query_string": b"", "headers": []}, receive, send)
    return sent


async def test_a_client_that_hangs_up_can_resume():
    """Bytes that arrived before the line broke count; the status says where to go on."""
    registry = Started(MemoryBlobs(), MemoryIndex())
    location = (await registry("POST", "/v2/a/blobs/uploads/")).headers["location"]
    await breaking_off(location, [b"abc", b"de"], registry.app)
    assert (await registry("GET", location)).headers["range"] == "0-4"
    await registry("PATCH", location, b"f", **{"content-range": "5-5"})
    assert (await registry("PUT", f"{location}?digest={digest_of(b'abcdef')}")).status == 201
