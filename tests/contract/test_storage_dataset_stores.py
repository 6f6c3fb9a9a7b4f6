"""What every `stores.DatasetStore` promises."""

import asyncio
import hashlib

import pytest

from postgres_server import opened
from propeller import limits
from propeller.errors import StorageBroken
from propeller.storage.blobs import FileBlobs
from propeller.storage.dataset_store import ROLE, MemoryDatasetStore, SqlDatasetStore
from propeller.storage.memory_blobs import MemoryBlobs
from propeller.storage.sqlite import Database

SMALL = b'{"data":[]}'
LARGE = b"1234567890abcdef" * (limits.BLOB_INLINE_BYTES_MAX // 16 + 1)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request, tmp_path):
    """One store of each kind."""
    if request.param == "memory":
        yield MemoryDatasetStore()
        return
    database = await opened(request.param, tmp_path, role=ROLE, base="m/d/c/c")
    yield SqlDatasetStore(database, FileBlobs(tmp_path / "blobs"))
    await database.close()


async def test_empty_store_has_nothing(store):
    """An unknown proplet is None, not an error: only the caller knows what that means."""
    assert await store.ids() == ()
    assert await store.get("p1") is None


@pytest.mark.parametrize("document", [SMALL, LARGE], ids=["small", "large"])
async def test_document_comes_back_whole(store, document):
    """Every byte, under its own id only."""
    await store.put("p1", document)
    assert await store.get("p1") == document
    assert await store.get("p2") is None


@pytest.mark.parametrize("before", [SMALL, LARGE, LARGE + b"x"], ids=["small", "large", "larger"])
@pytest.mark.parametrize("after", [SMALL, LARGE], ids=["small", "large"])
async def test_put_replaces(store, before, after):
    """Between row and file and back, and with the same content again."""
    await store.put("p1", before)
    await store.put("p1", after)
    assert await store.get("p1") == after
    assert await store.ids() == ("p1",)


@pytest.mark.parametrize("document", [SMALL, LARGE], ids=["small", "large"])
async def test_put_if_absent_keeps_what_is_there(store, document):
    """Seeding never overwrites a device's own data."""
    assert await store.put_if_absent("p1", document)
    assert not await store.put_if_absent("p1", b"other")
    assert await store.get("p1") == document


@pytest.mark.parametrize("document", [SMALL, LARGE], ids=["small", "large"])
async def test_the_digest_is_that_of_the_latest_document(store, document):
    """By it a reader knows whether what it has is still the data set; nobody's is None."""
    await store.put("p1", b"before")
    await store.put("p1", document)
    assert await store.digest("p1") == hashlib.sha256(document).hexdigest()
    assert await store.digest("p2") is None


async def test_ids_are_in_order(store):
    """The list does not depend on when data came."""
    for one in ("b", "c", "a"):
        await store.put(one, SMALL)
    assert await store.ids() == ("a", "b", "c")


async def test_two_proplets_with_equal_content_do_not_share_its_fate(store):
    """Replacing one may not take the other's file away."""
    await store.put("p1", LARGE)
    await store.put("p2", LARGE)
    await store.put("p1", SMALL)
    assert await store.get("p2") == LARGE


async def test_readers_see_a_whole_document_while_writers_replace_it(store):
    """Old or new, never a mixture and never nothing."""
    versions = [bytes([n]) * (limits.BLOB_INLINE_BYTES_MAX + n) for n in range(1, 9)]
    await store.put("p1", versions[0])

    async def read():
        for _ in range(20):
            assert await store.get("p1") in versions
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(read())
        for version in versions:
            group.create_task(store.put("p1", version))
    assert await store.get("p1") in versions


@pytest.fixture
async def on_blobs(tmp_path):
    """A SQLite store and its blobs, to look behind it."""
    database, blobs = await Database.open(tmp_path / "data.db", role=ROLE, base="b"), MemoryBlobs()
    yield SqlDatasetStore(database, blobs), blobs
    await database.close()


async def test_sqlite_deletes_the_file_that_was_replaced(on_blobs):
    """What a site withdrew is gone, and not merely unnamed."""
    store, blobs = on_blobs
    await store.put("p1", LARGE)
    await store.put("p1", LARGE + b"x")
    assert len(await blobs.digests()) == 1
    await store.put("p1", SMALL)
    assert await blobs.digests() == []


async def test_sqlite_sweeps_what_a_crash_left(on_blobs):
    """A file that no row names goes at the next start; a named one stays."""
    store, blobs = on_blobs
    await store.put("p1", LARGE)
    await blobs.put(b"left over")
    await store.sweep(await blobs.digests())
    assert len(await blobs.digests()) == 1
    assert await store.get("p1") == LARGE


async def test_sqlite_says_whose_file_is_lost(on_blobs):
    """A hole in the blob store is not the same as no data set."""
    store, blobs = on_blobs
    await store.put("p1", LARGE)
    for digest in await blobs.digests():
        await blobs.delete(digest)
    with pytest.raises(StorageBroken, match="'p1' has lost its file"):
        await store.get("p1")


async def test_sqlite_tells_a_large_digest_without_the_file(on_blobs):
    """Who asks whether a data set changed costs no reading of it."""
    store, blobs = on_blobs
    await store.put("p1", LARGE)
    for digest in await blobs.digests():
        await blobs.delete(digest)
    assert await store.digest("p1") == hashlib.sha256(LARGE).hexdigest()


async def test_sqlite_keeps_data_sets_over_a_restart(tmp_path):
    """What was answered 201 is there for the next process."""
    for _ in range(2):
        database = await Database.open(tmp_path / "data.db", role=ROLE, base="b")
        store = SqlDatasetStore(database, FileBlobs(tmp_path / "blobs"))
        assert await store.get("p1") in {None, LARGE}
        await store.put("p1", LARGE)
        assert await store.get("p1") == LARGE
        await database.close()
