"""A cache of blobs stays within its limit and forgets what was not read for the longest time."""

import os

import pytest

from propeller.errors import NotFound
from propeller.storage.blob_cache import FileBlobCache


async def test_the_longest_unread_go_first(tmp_path):
    """Reading counts as use; the newest always stays, however large."""
    blobs = FileBlobCache(tmp_path, 3000)
    kept, forgotten = await blobs.put(b"a" * 1000), await blobs.put(b"b" * 1000)
    for age, digest in enumerate((kept, forgotten)):
        os.utime(blobs.path(digest), (1000 + age, 1000 + age))
    await blobs.get(kept)
    newest = await blobs.put(b"c" * 1500)
    assert set(await blobs.digests()) == {kept, newest}
    with pytest.raises(NotFound):
        await blobs.get(forgotten)
    huge = await blobs.put(b"d" * 5000)
    assert await blobs.digests() == [huge]
    assert await blobs.get(huge) == b"d" * 5000
