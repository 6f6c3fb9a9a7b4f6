"""Versions rendered once for many readers, within a bound."""

import asyncio

import numpy as np
import pytest

from propeller.errors import StorageBroken
from propeller.federation.model_registry.content import initial
from propeller.federation.model_registry.rendered import Rendered
from propeller.federation.offload import inline
from propeller.fl.tensors import Tensors
from propeller.fl.versions import Proposal
from propeller.storage.model_memory import MemoryModelStore


class CountingStore(MemoryModelStore):
    """A store that takes its time to read, and counts how often."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    async def content(self, name, version):
        """See `stores.ModelStore`."""
        self.reads += 1
        await asyncio.sleep(0)
        return await super().content(name, version)


async def stored(store, value):
    """A version whose three weights are `value`."""
    proposal, content = initial(Tensors({"w": np.full(3, value)}))
    return (await store.add(Proposal(name="m", sha256=proposal.sha256), content, created_at_s=0))[0]


async def test_many_readers_one_rendering():
    """A round's participants ask together; the work is done once, and once more is none."""
    store = CountingStore()
    version, rendered = await stored(store, 1.5), Rendered(store, inline)
    answers = await asyncio.gather(*(rendered.json(version) for _ in range(50)))
    assert {*answers, await rendered.json(version)} == {b'{"w":[1.5,1.5,1.5]}'}
    assert store.reads == 1


async def test_memory_is_bounded_and_the_longest_unused_goes_first():
    """Three fit; the fourth takes the place of the one not asked for lately."""
    store = CountingStore()
    rendered = Rendered(store, inline, bytes_max=3 * len(b'{"w":[1.0,1.0,1.0]}'))
    one, two, three, four = [await stored(store, float(n)) for n in (1, 2, 3, 4)]
    for version in (one, two, three, one, four, one, three):
        await rendered.json(version)
    assert store.reads == 4
    await rendered.json(two)
    assert store.reads == 5


async def test_reader_who_hangs_up_does_not_fail_the_others():
    """The rendering belongs to all who wait for it."""
    store = CountingStore()
    version, rendered = await stored(store, 1.0), Rendered(store, inline)
    first, second = (asyncio.create_task(rendered.json(version)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == b'{"w":[1.0,1.0,1.0]}'
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_failure_is_not_remembered():
    """Every reader of broken content is told, and none later once it is restored."""
    store, broken = MemoryModelStore(), b"\xff" * 16
    version, _ = await store.add(Proposal(name="m", sha256="0" * 64), broken, created_at_s=0)
    rendered = Rendered(store, inline)
    for _ in range(2):
        with pytest.raises(StorageBroken):
            await rendered.json(version)
