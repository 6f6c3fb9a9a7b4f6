"""Updates and copies of base models with the same bytes: whoever goes first leaves the others theirs."""

import asyncio
import hashlib
import tarfile

import numpy as np
import pytest
from test_coordinator_formats import packed
from test_coordinator_formats import send as send_as
from test_coordinator_large import FILE, lived, made, model, register, send

from propeller.federation.coordinator.arriving import Arriving
from propeller.fl.tensors import to_safetensors
from propeller.roles.backup import backup, restore
from propeller.roles.layout import DataDir
from propeller.storage.coordinator_memory import MemoryCoordinatorStore
from propeller.storage.memory_blobs import MemoryBlobs

ZERO = to_safetensors(model(0))
"""The bytes of the base model."""


async def difference(world, round_id, participant="p1", value=1.0, base=0.0):
    """Have `participant` send a difference, for which the base is copied; the answer's status."""
    content = packed(model(value), "f32-delta", model(base), round_id, participant)
    status, _ = await send_as(world, participant, content, "f32-delta", round_id)
    return status


async def crowd_out(world):
    """Have two other base models copied, so that those copied before must go."""
    for name, value in (("other", 7), ("third", 8)):
        content = to_safetensors(model(value))
        await world.services.raw("POST", f"http://registry/models?name={name}", content, **FILE)
        await register(world, name, model_ref=f"fl/models/{name}_v0")
        assert await difference(world, name, base=value) == 200


@pytest.mark.parametrize("restarted", [False, True])
def test_an_update_equal_to_its_base_outlives_the_copy_of_it(tmp_path, restarted):
    """Of two updates one is the base itself; the copy of the base is evicted, the round has both."""

    async def scenario(world):
        await register(world)
        await register(world, "r2")
        if restarted:
            assert await send(world, "p2", ZERO) == (200, {"status": "accepted"})
            await world.kill()
            await world.start()
        assert await difference(world, "r2") == 200, "the base is copied"
        if not restarted:
            assert await send(world, "p2", ZERO) == (200, {"status": "accepted"})
        await crowd_out(world)
        assert (await send(world, "p1", model(1)))[0] == 200
        done = await world.settle()
        assert done["model_version"] == 1, done
        np.testing.assert_allclose((await made(world, 1))["w"], model(0.5)["w"])

    lived(scenario, tmp_path)


def test_a_refused_update_leaves_the_copy_of_the_base_with_the_same_bytes(tmp_path):
    """The next difference from that base is added up all the same."""

    async def scenario(world):
        await register(world)
        assert await difference(world, "r1") == 200
        assert (await send(world, "p2", ZERO, x_base_hash="0" * 64))[1]["code"] == "wrong_base"
        assert await difference(world, "r1", "p2", 3.0) == 200
        assert (await world.settle())["model_version"] == 1
        assert await made(world, 1) == model(2)

    lived(scenario, tmp_path)


def test_versions_with_the_same_bytes_share_a_copy(tmp_path):
    """It goes with the last of them."""

    async def scenario(world):
        await world.services.raw("POST", "http://registry/models?name=twin", ZERO, **FILE)
        await world.services.raw(
            "POST", "http://registry/models?name=other", to_safetensors(model(7)), **FILE
        )
        for name, value in (("big", 0), ("twin", 0), ("other", 7)):
            await register(world, name, model_ref=f"fl/models/{name}_v0")
            assert await difference(world, name, base=value) == 200
        assert await difference(world, "twin", "p2") == 200
        assert len(await world.copies.digests()) == 2

    lived(scenario, tmp_path)


def test_copies_of_an_earlier_life_are_deleted_at_start(tmp_path):
    """Nobody remembers of which version they are; wanted again, they are fetched anew."""

    async def scenario(world):
        await register(world)
        assert await difference(world, "r1") == 200
        assert len(await world.copies.digests()) == 1
        await world.kill()
        await world.start()
        assert await world.copies.digests() == []
        assert await difference(world, "r1", "p2") == 200
        assert len(await world.copies.digests()) == 1
        assert (await world.settle())["model_version"] == 1

    lived(scenario, tmp_path)


class HeldUp(MemoryCoordinatorStore):
    """A store whose commits wait until `go` is set."""

    def __init__(self):
        super().__init__()
        self.go = asyncio.Event()
        self.go.set()

    async def commit(self, changes):
        """See `stores.CoordinatorStore`."""
        await self.go.wait()
        await super().commit(changes)


@pytest.mark.parametrize("form", ["json", "file"])
def test_a_refused_update_leaves_an_equal_one_that_is_being_decided(tmp_path, form):
    """However that one came; also after a restart."""

    async def scenario(world):
        await world.kill()
        world.store = HeldUp()
        await world.start()
        await register(world)
        world.store.go.clear()
        tensors = {name: array.tolist() for name, array in model(1).items()}
        sending = asyncio.create_task(
            send(world, "p1", model(1))
            if form == "file"
            else world.submit("p1", update=tensors, base_model_uri="")
        )
        await asyncio.sleep(1)
        kept = [hashlib.sha256(to_safetensors(model(1))).hexdigest()]
        assert await world.blobs.digests() == kept
        assert (await send(world, "p2", model(1), x_base_hash="0" * 64))[1]["code"] == "wrong_base"
        assert await world.blobs.digests() == kept
        world.store.go.set()
        assert (await sending)[0] == 200
        await world.kill()
        await world.start()
        assert (await send(world, "p2", model(1), x_base_hash="0" * 64))[1]["code"] == "wrong_base"
        assert (await send(world, "p2", model(3)))[0] == 200
        assert (await world.settle())["model_version"] == 1
        assert await made(world, 1) == model(2)

    lived(scenario, tmp_path)


async def test_a_file_whose_sender_gave_up_stays_for_its_decision():
    """The decision was asked for, and may yet be written down."""
    blobs = MemoryBlobs()
    arriving = Arriving(blobs, MemoryCoordinatorStore())

    async def given_up():
        with arriving.held(await arriving.put(b"same")):
            await asyncio.Event().wait()

    sending = asyncio.create_task(given_up())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    refused = await arriving.put(b"same")
    with arriving.held(refused):
        await arriving.drop(refused)
    assert await blobs.has(refused)


class SlowToGo(MemoryBlobs):
    """A store that is in the middle of a deletion for a while."""

    async def delete(self, digest):
        """See `ports.Blobs`."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await super().delete(digest)


async def test_a_file_that_comes_during_the_deletion_of_an_equal_one_stays():
    """At whatever turn of the deletion it comes."""
    for turns in range(6):
        blobs = SlowToGo()
        arriving = Arriving(blobs, MemoryCoordinatorStore())
        digest = await arriving.put(b"same")
        going = asyncio.create_task(arriving.drop(digest))
        for _ in range(turns):
            await asyncio.sleep(0)
        await arriving.put(b"same")
        await going
        assert await blobs.has(digest), turns


def test_a_backup_is_without_copies_of_base_models(tmp_path):
    """They are fetched anew; updates are in it."""
    data = DataDir(tmp_path / "data")
    for folder in ("blobs", "base-blobs"):
        place = data.role("coordinator") / folder / "ab"
        place.mkdir(parents=True)
        (place / ("ab" * 32)).write_bytes(b"x")
    data.config.write_text("x = 1\n")
    backup(data, tmp_path / "b.tar")
    with tarfile.open(tmp_path / "b.tar") as held:
        assert [one for one in held.getnames() if "blobs" in one] == [f"coordinator/blobs/ab/{'ab' * 32}"]
    restore(tmp_path / "b.tar", DataDir(tmp_path / "back"))
    assert not (tmp_path / "back" / "coordinator" / "base-blobs").exists()
