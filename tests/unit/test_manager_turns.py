"""Turns by key, and work for many that leaves nobody behind."""

import asyncio

import pytest

from propeller.errors import StorageFull
from propeller.manager.turns import TOGETHER, Turns, each


async def test_one_at_a_time_for_each_key():
    """Who comes second waits for the first; another key is free; nothing is kept of a key that nobody has."""
    turns, order = Turns(), []

    async def hold(key, name):
        async with turns.of(key):
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            order.append(f"{name} ends")

    await asyncio.gather(hold("a", "1"), hold("a", "2"), hold("b", "3"))
    assert order == ["1 begins", "3 begins", "1 ends", "3 ends", "2 begins", "2 ends"]
    assert not turns._locks


async def test_a_failure_is_raised_when_all_have_ended():
    """The first in order counts, not the first in time; the others are neither cancelled nor left behind."""
    ended = []

    async def work(number):
        for _ in range(10 - number):
            await asyncio.sleep(0)
        if number in {2, 5}:
            raise StorageFull(f"no room for {number}")
        ended.append(number)

    with pytest.raises(StorageFull, match="no room for 2"):
        await each(range(8), work)
    assert sorted(ended) == [0, 1, 3, 4, 6, 7]


async def test_who_is_cancelled_leaves_nobody_at_work():
    """All that had begun have ended when the cancellation comes through; the others never begin."""
    begun, ended, full = [], [], asyncio.Event()

    async def work(number):
        begun.append(number)
        if len(begun) == TOGETHER:
            full.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    whole = asyncio.create_task(each(range(TOGETHER + 10), work))
    await full.wait()
    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole
    assert begun == ended == list(range(TOGETHER))
