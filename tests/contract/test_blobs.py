import asyncio
import hashlib
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from propeller.errors import BadInput, Conflict, NotFound, StorageBroken, TooLarge
from propeller.storage.blobs import FileBlobs
from propeller.storage.memory_blobs import MemoryBlobs

CONTENTS = [b"", b"x", bytes(range(256)) * 9000]


def digest_of(content):
    """The digest that a store must return."""
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(params=["file", "memory"])
def blobs(request, tmp_path):
    """Each store that promises `ports.Blobs`."""
    return FileBlobs(tmp_path / "deep" / "blobs") if request.param == "file" else MemoryBlobs()


@pytest.mark.parametrize("content", CONTENTS, ids=len)
async def test_what_was_put_is_got(blobs, content):
    """Content comes back whole under its SHA-256; putting again is one copy."""
    digest = await blobs.put(content)
    assert digest == digest_of(content)
    assert await blobs.put(content) == digest
    assert await blobs.get(digest) == content
    assert await blobs.has(digest)
    assert await blobs.size(digest) == len(content)
    assert await blobs.digests() == [digest]


@pytest.mark.parametrize("content", CONTENTS, ids=len)
async def test_a_writer_stores_what_came_in_pieces(blobs, content):
    """Pieces of any size make the same blob as one put."""
    async with blobs.open_writer() as writer:
        for start in range(0, len(content), 100_000):
            await writer.write(content[start : start + 100_000])
        assert writer.size == len(content)
        digest = await writer.commit(digest_of(content))
    assert await blobs.get(digest) == content
    assert b"".join([chunk async for chunk in blobs.read_chunks(digest, 70_000)]) == content


async def test_absent_content_is_not_found(blobs):
    """Every way of reading what is not there says so; deleting it is fine."""
    absent = digest_of(b"absent")
    assert not await blobs.has(absent)
    assert await blobs.digests() == []
    await blobs.delete(absent)
    for reading in (blobs.get, blobs.size):
        with pytest.raises(NotFound):
            await reading(absent)
    with pytest.raises(NotFound):
        await anext(blobs.read_chunks(absent))


async def test_deleted_content_is_gone(blobs):
    """After delete nothing is found, and the same content can be put again."""
    digest = await blobs.put(b"x")
    await blobs.delete(digest)
    assert not await blobs.has(digest)
    await blobs.put(b"x")
    assert await blobs.get(digest) == b"x"


@pytest.mark.parametrize(
    "digest", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "/" * 64]
)
async def test_what_is_no_digest_is_refused(blobs, digest):
    """No name but a digest reaches the disk."""
    for use in (blobs.get, blobs.has, blobs.size, blobs.delete):
        with pytest.raises(BadInput):
            await use(digest)


async def test_content_other_than_announced_is_refused(blobs):
    """A commit with another digest stores nothing and ends the writer."""
    writer = blobs.open_writer()
    await writer.write(b"x")
    with pytest.raises(Conflict) as caught:
        await writer.commit(digest_of(b"y"))
    assert caught.value.reason == "digest_mismatch"
    assert await blobs.digests() == []
    with pytest.raises(Conflict):
        await writer.write(b"more")


async def test_a_writer_is_bounded(blobs):
    """A piece over the limit is refused; what fits is still good."""
    async with blobs.open_writer(limit_bytes=10) as writer:
        await writer.write(b"x" * 10)
        with pytest.raises(TooLarge):
            await writer.write(b"x")
        assert await writer.commit() == digest_of(b"x" * 10)


async def test_an_abandoned_writer_leaves_nothing(blobs):
    """Leaving without commit forgets the content; ending twice is harmless."""
    async with blobs.open_writer() as writer:
        await writer.write(b"x")
    await writer.abort()
    assert await blobs.digests() == []
    with pytest.raises(Conflict):
        await writer.commit()


async def test_many_writers_of_one_content_make_one_copy(blobs):
    """Concurrent puts of the same content all succeed."""
    digests = await asyncio.gather(*(blobs.put(b"same" * 1000) for _ in range(20)))
    assert len(set(digests)) == 1
    assert await blobs.digests() == [digests[0]]


async def test_a_damaged_file_is_not_served_and_heals(tmp_path):
    """Content that the disk changed is refused on reading, and putting it again repairs it."""
    blobs = FileBlobs(tmp_path)
    digest = await blobs.put(b"whole")
    blobs.path(digest).write_bytes(b"whoLe")
    with pytest.raises(StorageBroken, match="damaged on disk"):
        await blobs.get(digest)
    with pytest.raises(StorageBroken):
        [chunk async for chunk in blobs.read_chunks(digest)]
    await blobs.put(b"whole")
    assert await blobs.get(digest) == b"whole"


async def test_what_a_crash_left_is_cleared(tmp_path):
    """Half-written files of the last life are no blobs, and are removed at start."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "half").write_bytes(b"half")
    blobs = FileBlobs(tmp_path)
    assert await blobs.digests() == []
    await blobs.clear_unfinished()
    assert not (tmp_path / "tmp").exists()
    await blobs.put(b"x")
    assert list((tmp_path / "tmp").iterdir()) == []


FILLER = """
    import asyncio, resource, signal, sys
    from pathlib import Path
    from propeller.errors import StorageFull
    from propeller.storage.blobs import FileBlobs

    async def main():
        blobs = FileBlobs(Path(sys.argv[1]))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        for attempt in ("put", "write"):
            try:
                if attempt == "put":
                    await blobs.put(bytes(200_000))
                else:
                    async with blobs.open_writer() as writer:
                        await writer.write(bytes(200_000))
            except StorageFull as error:
                print(attempt, error.http_status)
        await blobs.get(await blobs.put(b"small"))
        print("left", len(list(Path(sys.argv[1], "tmp").iterdir())), len(await blobs.digests()))

    asyncio.run(main())
"""


def test_no_room_is_an_error_that_leaves_nothing(tmp_path):
    """When the system refuses to write, both ways say 507, leave no file, and small content still fits."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FILLER), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n") == ["put 507", "write 507", "left 0 1", ""]


class Slow(ThreadPoolExecutor):
    """A thread whose work has begun, and goes no further before `go` is set: as if the disk took its time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(1)
        self._loop = loop
        self.go = threading.Event()
        self.go.set()
        self.begun = asyncio.Event()

    def submit(self, work, /, *args, **kwargs):
        """See `ThreadPoolExecutor`."""

        def slowly():
            self._loop.call_soon_threadsafe(self.begun.set)
            assert self.go.wait(20)
            return work(*args, **kwargs)

        return super().submit(slowly)


@pytest.mark.parametrize("ends", ["write", "commit"])
async def test_who_is_cancelled_leaves_no_thread_at_anothers_file(tmp_path, ends):
    """The descriptor may be somebody else's by the time that the thread uses it; nothing is kept either."""
    blobs = FileBlobs(tmp_path / "blobs")
    disk = Slow(asyncio.get_running_loop())
    asyncio.get_running_loop().set_default_executor(disk)

    async def upload():
        async with blobs.open_writer() as writer:
            await writer.write(b"begun")
            disk.go.clear()
            disk.begun.clear()
            await (writer.write(b" and gone on") if ends == "write" else writer.commit())

    uploading = asyncio.create_task(upload())
    await asyncio.sleep(0)
    while disk.go.is_set():  # noqa: ASYNC110 - the writer begins in its own time
        await asyncio.sleep(0)
    await disk.begun.wait()
    uploading.cancel()
    for _ in range(20):
        # All that does not wait for the thread is done before another file is opened.
        await asyncio.sleep(0)
    with (tmp_path / "another").open("wb", buffering=0) as another:
        disk.go.set()
        with pytest.raises(asyncio.CancelledError):
            await uploading
        await asyncio.get_running_loop().shutdown_default_executor()
        another.write(b"whole")
    assert (tmp_path / "another").read_bytes() == b"whole"
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []
