"""What every `stores.ModelStore` promises."""

import asyncio
import contextlib
import os
import sqlite3
from dataclasses import replace

import pytest

from postgres_server import opened
from propeller import limits
from propeller.errors import BadInput, Conflict, NotFound, StorageBroken
from propeller.fl.versions import Artifact, Measured, Objective, Proposal
from propeller.storage.blobs import FileBlobs
from propeller.storage.memory_blobs import MemoryBlobs
from propeller.storage.model_memory import MemoryModelStore
from propeller.storage.model_store import ROLE, SqlModelStore
from propeller.storage.sqlite import Database

SMALL = b"small content"
LARGE = bytes(range(256)) * (limits.BLOB_INLINE_BYTES_MAX // 256 + 1)


def proposal(sha="a", **more):
    """A version of the model m whose content hash is 64 times `sha`."""
    return Proposal(**{"name": "m", "sha256": sha * 64, **more})


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request, tmp_path):
    """One store of each kind."""
    if request.param == "memory":
        yield MemoryModelStore()
        return
    database = await opened(request.param, tmp_path, role=ROLE, base="m/d/c/c")
    yield SqlModelStore(database, FileBlobs(tmp_path / "blobs"))
    await database.close()


async def test_empty_store_has_nothing(store):
    """Unknown names are empty, not errors; unknown content is."""
    assert await store.names() == ()
    assert await store.versions("m") == ()
    assert await store.find("m", 0) is None
    with pytest.raises(NotFound, match="no version 0"):
        await store.content("m", 0)


@pytest.mark.parametrize("content", [SMALL, LARGE, b""], ids=["small", "large", "empty"])
async def test_stored_version_comes_back_whole(store, content):
    """Every field and every byte."""
    await store.add(proposal("b"), b"base", created_at_s=1.0)
    wanted = proposal(
        parent=0,
        round_id="r1",
        strategy_json='{"name":"fedavg"}',
        participants=("p1", "p2"),
        metrics={"loss": 0.1},
        objective=Objective(metric="mse", direction="min"),
    )
    stored, new = await store.add(wanted, content, created_at_s=12.5)
    assert new
    assert stored == await store.find("m", 1)
    assert (stored.name, stored.version, stored.sha256, stored.parent) == ("m", 1, "a" * 64, 0)
    assert (stored.round_id, stored.strategy_json) == ("r1", '{"name":"fedavg"}')
    assert (stored.participants, stored.metrics) == (("p1", "p2"), {"loss": 0.1})
    assert (stored.created_at_s, stored.content_bytes) == (12.5, len(content))
    assert (stored.objective, stored.evaluation) == (wanted.objective, None)
    assert await store.content("m", 1) == content


async def test_numbers_count_up_per_model_and_follow_explicit_ones(store):
    """Two models do not share numbers; a gap stays a gap."""
    for sha, name, version in (("a", "m", None), ("b", "m", 7), ("c", "m", None), ("d", "n", None)):
        await store.add(proposal(sha, name=name, version=version), SMALL, created_at_s=0)
    assert await store.versions("m") == (0, 7, 8)
    assert await store.versions("n") == (0,)
    assert await store.names() == ("m", "n")


async def test_round_repeated_is_one_version(store):
    """The coordinator's retry after a lost answer finds what it stored, also with the clock moved on."""
    first = await store.add(proposal(round_id="r"), SMALL, created_at_s=1)
    again = await store.add(proposal(round_id="r"), SMALL, created_at_s=2)
    assert first == (await store.find("m", 0), True)
    assert again == (await store.find("m", 0), False)


async def test_same_round_of_another_model_is_another_version(store):
    """A round id is a key inside one model."""
    await store.add(proposal(round_id="r"), SMALL, created_at_s=0)
    _, new = await store.add(proposal(round_id="r", name="n"), SMALL, created_at_s=0)
    assert new


async def test_clashes_are_refused_and_change_nothing(store):
    """Other content for a known round or number, and a parent that is not there."""
    await store.add(proposal(round_id="r"), SMALL, created_at_s=0)
    with pytest.raises(Conflict):
        await store.add(proposal("b", round_id="r"), b"other", created_at_s=0)
    with pytest.raises(Conflict):
        await store.add(proposal("b", version=0), b"other", created_at_s=0)
    with pytest.raises(BadInput):
        await store.add(proposal("b", parent=5), b"other", created_at_s=0)
    assert await store.versions("m") == (0,)
    assert await store.content("m", 0) == SMALL


async def test_same_number_with_same_content_is_accepted(store):
    """The published walk posts version 0 twice."""
    await store.add(proposal(version=0), SMALL, created_at_s=0)
    stored, new = await store.add(proposal(version=0), SMALL, created_at_s=1)
    assert (stored.created_at_s, new) == (0, False)


async def test_many_at_once_get_one_number_each(store):
    """Allocation is atomic: twenty writers, twenty numbers, and one version for a round posted five times."""
    writers = [store.add(proposal(round_id=f"r{i % 20}"), SMALL, created_at_s=0) for i in range(100)]
    results = await asyncio.gather(*writers)
    assert await store.versions("m") == tuple(range(20))
    assert sum(new for _, new in results) == 20
    by_round = {(stored.round_id, stored.version) for stored, _ in results}
    assert len(by_round) == 20


async def test_same_large_content_twice_is_readable_under_both_numbers(store):
    """One file may serve two versions."""
    await store.add(proposal(), LARGE, created_at_s=0)
    await store.add(proposal(), LARGE, created_at_s=0)
    assert await store.content("m", 0) == await store.content("m", 1) == LARGE


async def test_sqlite_keeps_versions_over_a_restart(tmp_path):
    """Small and large content, links and numbers are there for the next process."""
    blobs = FileBlobs(tmp_path / "blobs")
    for turn in range(2):
        database = await Database.open(tmp_path / "registry.db", role=ROLE, base="b")
        store = SqlModelStore(database, blobs)
        for round_id, content in (("r0", SMALL), ("r1", LARGE)):
            _, new = await store.add(proposal(round_id=round_id), content, created_at_s=turn)
            assert new == (turn == 0)
        assert [await store.content("m", number) for number in (0, 1)] == [SMALL, LARGE]
        await database.close()


async def test_sqlite_leaves_no_file_of_what_it_refuses(tmp_path):
    """A conflict costs no disk; a repetition no second file."""
    blobs = MemoryBlobs()
    database = await Database.open(tmp_path / "registry.db", role=ROLE, base="b")
    store = SqlModelStore(database, blobs)
    await store.add(proposal(version=0), LARGE, created_at_s=0)
    await store.add(proposal(version=0), LARGE, created_at_s=0)
    with pytest.raises(Conflict):
        await store.add(proposal("b", version=0), LARGE + b"x", created_at_s=0)
    assert len(await blobs.digests()) == 1
    await database.close()


async def test_sqlite_says_which_version_lost_its_file(tmp_path):
    """A hole in the blob store is the registry's fault, not an unknown version."""
    blobs = MemoryBlobs()
    database = await Database.open(tmp_path / "registry.db", role=ROLE, base="b")
    store = SqlModelStore(database, blobs)
    await store.add(proposal(), LARGE, created_at_s=0)
    for digest in await blobs.digests():
        await blobs.delete(digest)
    with pytest.raises(StorageBroken, match="version 0 of model 'm' has lost its file"):
        await store.content("m", 0)
    await database.close()


@pytest.mark.parametrize("state", [SMALL, LARGE], ids=["small", "large"])
async def test_state_is_kept_with_the_version_it_came_with(store, state):
    """Whole, once: a repetition changes nothing; a version without state has none, nor has an unknown one."""
    await store.add(proposal(round_id="r0"), SMALL, state=state, created_at_s=0)
    await store.add(proposal(round_id="r0"), SMALL, state=b"other", created_at_s=0)
    await store.add(proposal(round_id="r1"), SMALL, created_at_s=0)
    assert [await store.state("m", number) for number in (0, 1, 2)] == [state, b"", b""]


async def test_a_deleted_version_leaves_its_number_and_lineage(store):
    """Content and state are gone, its record stays, and nothing is stored under its number or round again."""
    await store.add(proposal(round_id="r0"), LARGE, state=SMALL, created_at_s=1.0)
    await store.add(proposal("b", parent=0), SMALL, created_at_s=2.0)
    assert await store.delete("m", 0, at_s=9.0)
    assert not await store.delete("m", 0, at_s=10.0)
    assert not await store.delete("m", 7, at_s=10.0)
    assert await store.versions("m") == (1,)
    assert (await store.find("m", 0)).deleted_at_s == 9.0
    assert [(one.version, one.deleted_at_s) for one in await store.records()] == [(0, 9.0), (1, None)]
    assert await store.state("m", 0) == b""
    with pytest.raises(NotFound):
        await store.content("m", 0)
    for again in (proposal(version=0), proposal(round_id="r0")):
        with pytest.raises(Conflict, match="was deleted"):
            await store.add(again, SMALL, created_at_s=3.0)
    stored, _ = await store.add(proposal("c", parent=0), SMALL, created_at_s=3.0)
    assert stored.version == 2


async def test_files_go_once_nobody_names_them_and_nobody_is_storing_them(tmp_path):
    """A file shared by two versions stays for the second; one that is just being stored is no stray."""
    database = await Database.open(tmp_path / "registry.db", role=ROLE, base="b")
    blobs = FileBlobs(tmp_path / "blobs")
    store = SqlModelStore(database, blobs)
    await store.add(proposal(), LARGE, created_at_s=0)
    await store.add(proposal(parent=0), LARGE, created_at_s=0)
    (file,) = await blobs.digests()
    os.utime(blobs.path(file), (0, 0))
    await store.delete("m", 0, at_s=1.0)
    assert await store.content("m", 1) == LARGE
    assert await store.delete("m", 1, at_s=1.0)
    assert await blobs.digests() == []
    async with store.open_writer() as writer:
        await writer.write(b"about to be a version")
        fresh = await writer.commit()
    assert (await store.sweep(), await blobs.digests()) == (0, [fresh])
    os.utime(blobs.path(fresh), (0, 0))
    await blobs.put(b"about to be a version")
    assert await store.sweep() == 0, "stored again is young again"
    os.utime(blobs.path(fresh), (0, 0))
    assert (await store.sweep(), await blobs.digests()) == (1, [])
    await database.close()


async def test_artefacts_are_written_down_with_their_versions(store):
    """Where a version is, which version an artefact is, and what is not where all are to be pushed."""
    await store.add(proposal(), SMALL, created_at_s=1.0)
    pushed = Artifact(
        kind="pushed", reference="oci://h:5/m:v0@sha256:1", digest="sha256:1", target="h:5", at_s=2.0
    )
    await store.note("m", 0, pushed)
    await store.note("m", 0, pushed)
    async with store.open_writer() as writer:
        await writer.write(SMALL)
        file = await writer.commit()
    pulled = Artifact(kind="pulled", reference="oci://h:5/x:v1@sha256:2", digest="sha256:2", at_s=3.0)
    stored, _ = await store.adopt(proposal("b"), file, created_at_s=3.0, pulled=pulled)
    assert await store.artifacts("m", 0) == (pushed,)
    assert await store.artifacts("m", 1) == (pulled,)
    assert (await store.of_artifact("m", "sha256:2"), await store.of_artifact("n", "sha256:2")) == (
        stored,
        None,
    )
    assert (await store.unpublished("h:5"), await store.unpublished("x")) == (
        [("m", 1)],
        [("m", 0), ("m", 1)],
    )
    await store.delete("m", 1, at_s=4.0)
    assert (await store.of_artifact("m", "sha256:2"), await store.unpublished("h:5")) == (None, [])
    with pytest.raises(NotFound):
        await store.note("m", 9, pushed)


async def test_the_last_evaluation_is_written_beside_its_version(store):
    """Repeated it changes nothing, not even its time; another one takes its place; the content stays."""
    await store.add(proposal(metrics={"loss": 0.5}), SMALL, created_at_s=1.0)
    first = Measured(round_id="r1-eval", metrics={"accuracy": 0.75}, samples=12, at_s=2.0)
    judged = await store.evaluated("m", 0, first)
    assert (judged, judged.evaluation) == (await store.find("m", 0), first)
    again = await store.evaluated("m", 0, replace(first, at_s=3.0))
    assert again.evaluation == first
    second = replace(first, round_id="look-1", metrics={"accuracy": 0.25}, at_s=4.0)
    await store.evaluated("m", 0, second)
    [found] = await store.records()
    assert (found.evaluation, found.metrics) == (second, {"loss": 0.5})
    assert await store.content("m", 0) == SMALL
    with pytest.raises(NotFound):
        await store.evaluated("m", 1, first)


async def test_sqlite_registry_of_the_first_schema_takes_states(tmp_path):
    """A file from before states and evaluations had a place is brought forward, with all its versions."""
    path = tmp_path / "registry.db"
    database = await Database.open(path, role=ROLE, base="b")
    await SqlModelStore(database, MemoryBlobs()).add(proposal(), SMALL, created_at_s=0)
    await database.close()
    with contextlib.closing(sqlite3.connect(path)) as older:
        older.execute("DROP TABLE model_states")
        older.execute("DROP TABLE model_artifacts")
        for column in ("deleted_at_s", "objective", "evaluation"):
            older.execute(f"ALTER TABLE model_versions DROP COLUMN {column}")
        older.execute("UPDATE meta SET value = '1' WHERE name = 'schema'")
        older.commit()
    database = await Database.open(path, role=ROLE, base="b")
    store = SqlModelStore(database, MemoryBlobs())
    await store.add(proposal(round_id="r1"), SMALL, state=SMALL, created_at_s=0)
    assert (await store.content("m", 0), await store.state("m", 1)) == (SMALL, SMALL)
    measured = Measured(round_id="r-eval", metrics={"loss": 1.0}, samples=1, at_s=2.0)
    assert (await store.evaluated("m", 0, measured)).objective is None
    await database.close()
