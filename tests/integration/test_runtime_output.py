"""What a guest prints is told while it runs, kept when it is killed; services, loading, folders."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import runtime_guests as g

from propeller.errors import BadInput
from propeller.ports import Folder, GuestDone, GuestFailed, GuestLimits
from propeller.runtime.pool import WorkerPool

WASI = g.WASI
WRITE = f'(import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
POLL = f'(import "{WASI}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))'
SAY_THEN = """(module {imports} (memory (export "memory") 20) (data (i32.const 100) "begun\\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 100)) (i32.store (i32.const 4) (i32.const 6))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    {then}))"""
SAY_AND_LOOP = SAY_THEN.format(imports=WRITE, then="(loop (br 0))")
SLEEP = """(i32.store (i32.const 16) (i32.const 1)) (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 200) (i32.const 1) (i32.const 300)))"""
SAY_AND_SLEEP = SAY_THEN.format(
    imports=WRITE + POLL, then=f"(memory.fill (i32.const 0) (i32.const 0) (i32.const 64)) {SLEEP}"
)
FLOOD = f"""(module {WRITE} (memory (export "memory") 20) (func (export "_start")
  (i32.store (i32.const 4) (i32.const 65536))
  (loop (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br 0))))"""
OPEN = f"""(module
  (import "{WASI}" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 100) "PATH")
  (func (export "main") (param $fd i32) (param $create i32) (param $rights i64) (result i32)
    (call $open (local.get $fd) (i32.const 1) (i32.const 100) (i32.const SIZE)
      (local.get $create) (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 16))))"""
READ, CREATE = ("0", "2"), ("1", "64")
"""Creation flag and rights: to read what is there, to make and write what is not."""
NOT_PERMITTED = 63


def opens(path: str, fd: int, how: tuple[str, str], **fields):
    """A guest that opens `path` below its preopened directory `fd` and answers WASI's error number."""
    text = OPEN.replace("PATH", path).replace("SIZE", str(len(path)))
    return g.guest(text, inputs=(str(fd), *how), **fields)


class Reader:
    """Whoever reads along."""

    def __init__(self):
        self.told = []
        self.news = asyncio.Event()

    def __call__(self, stream, data, skipped):
        """One piece."""
        self.told.append((stream, data, skipped))
        self.news.set()

    def text(self, stream):
        """All of one stream."""
        return b"".join(data for name, data, _ in self.told if name == stream)


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[WorkerPool]:
    """A pool of one."""
    made = WorkerPool(tmp_path / "compiled", 1)
    yield made
    await made.close()


async def test_output_is_told_while_the_guest_runs(pool):
    """A guest that never ends is heard within moments, on both streams, and can then be killed."""
    reader = Reader()
    running = asyncio.create_task(pool.run(g.guest(SAY_AND_LOOP, on_output=reader)))
    async with asyncio.timeout(20):
        while not (reader.text("stdout") and reader.text("stderr")):
            reader.news.clear()
            await reader.news.wait()
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert reader.text("stdout") == reader.text("stderr") == b"begun\n"


async def test_a_short_guest_is_told_whole(pool):
    """Everything printed comes before the end, also by a guest that is over at once."""
    reader = Reader()
    done = await pool.run(g.guest(SAY_THEN.format(imports=WRITE, then=""), on_output=reader))
    assert isinstance(done, GuestDone)
    assert done.stdout.encode() == reader.text("stdout") == b"begun\n"


async def test_a_killed_guest_keeps_what_it_printed(pool):
    """A guest blocked in a host call dies with its worker; its output up to then is in the failure."""
    failed = await pool.run(g.guest(SAY_AND_SLEEP, limits=GuestLimits(wall_s=0.5)))
    assert isinstance(failed, GuestFailed)
    assert (failed.kind, failed.stdout, failed.stderr) == ("timeout", "begun\n", "begun\n")


async def test_an_endless_guest_outlives_its_limits(pool):
    """A service has no wall or processor limit, whatever its job says."""
    job = g.guest(SAY_AND_LOOP, endless=True, limits=GuestLimits(wall_s=0.1, cpu_s=0.1))
    running = asyncio.create_task(pool.run(job))
    await asyncio.wait({running}, timeout=1.5)
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})


async def test_a_flood_of_an_endless_guest_is_skipped_not_kept(pool):
    """A service that prints without end neither dies of it nor fills anybody's memory: its log has gaps."""
    reader = Reader()
    running = asyncio.create_task(pool.run(g.guest(FLOOD, endless=True, on_output=reader)))
    async with asyncio.timeout(20):
        while sum(skipped for *_, skipped in reader.told) < 4 << 20:
            reader.news.clear()
            await reader.news.wait()
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
    assert max(len(data) for _, data, _ in reader.told) <= 64 * 1024


async def test_loading_compiles_and_enters_nothing(pool):
    """A module is made ready without its guest running, and one that is no module is refused."""
    loaded = await pool.run(g.guest(g.LOOP, load_only=True))
    assert isinstance(loaded, GuestDone)
    refused = await pool.run(g.guest(b"\0asm\1\0\0\0\xff\xff", load_only=True))
    assert isinstance(refused, GuestFailed)
    assert refused.kind == "invalid_module"


async def test_the_worker_of_a_guest_is_named(pool):
    """Whoever measures a guest learns which process it is, unless it is over before it is worth a look."""
    pids = []
    await pool.run(g.guest(g.LOOP, on_worker=pids.append, limits=GuestLimits(wall_s=0.2)))
    assert set(pids) == set(pool.workers())
    pids.clear()
    await pool.run(g.guest(g.HEALTHY))
    await pool.run(g.guest(g.HEALTHY, on_worker=pids.append))
    assert set(pids) <= set(pool.workers())


async def test_a_warm_pool_keeps_a_worker(tmp_path):
    """An idle worker is not retired while warmth is wanted, and one that dies is replaced ahead of need."""
    pool = WorkerPool(tmp_path / "compiled", 1, idle_s=0.05)
    pool.keep_warm(1)
    await pool.run(g.guest(g.HEALTHY))
    (first,) = pool.workers()
    await asyncio.sleep(0.3)
    assert pool.workers() == (first,)
    pool.keep_warm(0)
    async with asyncio.timeout(10):
        while pool.workers():  # noqa: ASYNC110 - another process ends, no event tells
            await asyncio.sleep(0.02)
    await pool.close()


@pytest.mark.parametrize(
    ("path", "how", "errno"),
    [
        ("there", READ, 0),
        ("made", CREATE, 0),
        ("../outside", READ, NOT_PERMITTED),
        ("link", READ, NOT_PERMITTED),
        ("/etc/passwd", READ, NOT_PERMITTED),
    ],
)
async def test_a_folder_is_open_and_nothing_beside_it(pool, tmp_path, path, how, errno):
    """A writable folder can be read and written; `..`, links and absolute paths lead nowhere."""
    (tmp_path / "outside").write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "there").write_text("ours")
    (folder / "link").symlink_to(tmp_path / "outside")
    done = await pool.run(opens(path, 3, how, folders=(Folder(host=folder, guest="/d", writable=True),)))
    assert isinstance(done, GuestDone), done
    assert int(done.value) == errno
    assert (folder / "made").exists() == (path == "made")


async def test_a_folder_is_read_only_unless_said(pool, tmp_path):
    """Without leave to write, nothing is made and nothing is changed."""
    (tmp_path / "there").write_text("ours")
    folders = (Folder(host=tmp_path, guest="/d"),)
    made = await pool.run(opens("made", 3, CREATE, folders=folders))
    changed = await pool.run(opens("there", 3, ("0", "64"), folders=folders))
    read = await pool.run(opens("there", 3, READ, folders=folders))
    assert int(made.value) != 0
    assert int(changed.value) != 0
    assert int(read.value) == 0
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("guest", ["relative", "", "/fl", "/a\0b"])
async def test_a_folder_needs_a_lawful_name(pool, tmp_path, guest):
    """A path that no guest can see, or the one that is taken, is refused before a worker starts."""
    with pytest.raises(BadInput):
        await pool.run(g.guest(g.HEALTHY, folders=(Folder(host=tmp_path, guest=guest),)))
    assert pool.workers() == ()
