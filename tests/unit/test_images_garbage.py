"""Garbage of the embedded registry: what goes, when, and what a push in progress never loses."""

import asyncio
import json

from registry_started import Started

from propeller import limits
from propeller.core.retention import Keep
from propeller.images.digest import digest_of
from propeller.images.registry.index import MemoryIndex
from propeller.storage.memory_blobs import MemoryBlobs

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
HOUR = 3600.0
NOTHING = Keep(last=0, max_age_s=2 * HOUR)


def manifest_of(content, **more):
    """A manifest of one layer, and its bytes."""
    layer = {"mediaType": "application/wasm", "digest": digest_of(content), "size": len(content)}
    whole = {"schemaVersion": 2, "mediaType": MANIFEST, "config": layer, "layers": [layer], **more}
    return json.dumps(whole).encode()


class Swept(Started):
    """A registry whose process has run for a while, and that can be swept."""

    def __init__(self):
        self.blobs, self.index = MemoryBlobs(), MemoryIndex()
        super().__init__(self.blobs, self.index)
        self.later(2 * HOUR)

    def later(self, seconds):
        """Time goes by."""
        self.clock.now_s += seconds

    async def image(self, content, tag=None, **more):
        """Push an image, by tag or by digest, and return its digest."""
        await self.push(content)
        manifest = manifest_of(content, **more)
        target = tag or digest_of(manifest)
        answer = await self("PUT", f"/v2/a/manifests/{target}", manifest, **{"content-type": MANIFEST})
        assert answer.status == 201, answer.body
        return digest_of(manifest)

    async def sweep(self, *, dry=False):
        """What a sweep of all that is loose for two hours takes."""
        return (await self.app.sweep(NOTHING, dry=dry))["images"]

    async def there(self, digest):
        """Whether a manifest is."""
        return (await self("HEAD", f"/v2/a/manifests/{digest}")).status == 200


async def test_untagged_images_go_after_a_while_with_all_that_only_they_needed():
    """Moving a tag makes the old image loose: it stays for the policy's time, counted from then."""
    registry = Swept()
    old = await registry.image(b"old", "v1")
    registry.later(100 * HOUR)
    assert await registry.sweep() == 0
    new = await registry.image(b"new", "v1")
    assert (await registry.sweep(), await registry.there(old)) == (0, True)
    registry.later(HOUR)
    assert (await registry.sweep(), await registry.there(old)) == (0, True)
    registry.later(2 * HOUR)
    assert await registry.sweep(dry=True) == 2
    assert await registry.there(old)
    assert (await registry.sweep(), await registry.there(old), await registry.there(new)) == (2, False, True)
    assert len(await registry.blobs.digests()) == 2
    again = await registry.image(b"old", "v2")
    assert (again, await registry.there(old)) == (old, True)


async def test_what_an_index_lists_and_what_is_said_of_an_image_stay_with_it():
    """Untagged children of a tagged index, and referrers of a tagged image, are needed; later they go too."""
    registry = Swept()
    child = await registry.image(b"child")
    listed = {"mediaType": MANIFEST, "digest": child, "size": len(manifest_of(b"child"))}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [listed]}).encode()
    kind = {"content-type": INDEX}
    assert (await registry("PUT", "/v2/a/manifests/all", index, **kind)).status == 201
    subject = {"mediaType": INDEX, "digest": digest_of(index), "size": len(index)}
    signature = await registry.image(b"signature", subject=subject)
    for _ in range(3):
        registry.later(10 * HOUR)
        assert await registry.sweep() == 0
    assert await registry.there(child)
    assert await registry.there(signature)
    assert (await registry("DELETE", "/v2/a/manifests/all")).status == 202
    for _ in range(6):
        registry.later(10 * HOUR)
        await registry.sweep()
    assert not await registry.there(child)
    assert not await registry.there(signature)
    assert await registry.blobs.digests() == []


async def test_a_push_in_progress_loses_nothing_whenever_it_is_swept():
    """Between blobs and manifest, before an old blob is asked for or after: 201, and the image is whole."""
    for turn in range(25):
        registry = Swept()
        await registry.push(b"layer")
        registry.later(100 * HOUR)

        async def push(registry=registry):
            held = await registry("HEAD", f"/v2/a/blobs/{digest_of(b'layer')}")
            if held.status != 200:
                await registry.push(b"layer")
            manifest = manifest_of(b"layer")
            return await registry("PUT", "/v2/a/manifests/v1", manifest, **{"content-type": MANIFEST})

        pushing = asyncio.create_task(push())
        for _ in range(turn):
            await asyncio.sleep(0)
        await registry.sweep()
        assert (await pushing).status == 201, turn
        assert (await registry("GET", f"/v2/a/blobs/{digest_of(b'layer')}")).body == b"layer"
        await registry.sweep()
        assert (await registry("GET", f"/v2/a/blobs/{digest_of(b'layer')}")).body == b"layer"


async def test_after_a_start_nobody_knows_what_was_asked_for_so_blobs_stay_for_a_while():
    """A blob without an image survives the first hour of a process, and not the second."""
    before = Swept()
    await before.push(b"alone")
    registry = Started(before.blobs, before.index)
    assert (await registry.app.sweep(NOTHING))["images"] == 0
    registry.clock.now_s += 2 * HOUR
    assert (await registry.app.sweep(NOTHING))["images"] == 1
    assert await before.blobs.digests() == []


async def test_abandoned_uploads_are_closed_by_a_sweep():
    """A session that nobody works on ends with its bytes, though nobody begins another."""
    registry = Swept()
    opened = await registry("POST", "/v2/a/blobs/uploads/")
    await registry("PATCH", opened.headers["location"], b"half of it")
    assert (await registry.app.sweep(NOTHING))["uploads"] == 0
    registry.later(limits.OCI_UPLOAD_IDLE_S + 1)
    assert (await registry.app.sweep(NOTHING))["uploads"] == 1
    assert (await registry("GET", opened.headers["location"])).status == 404
