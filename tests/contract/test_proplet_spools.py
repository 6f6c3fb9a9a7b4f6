"""What every spool promises, on files and in memory, and what only files can break."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest
from msgspec import Raw

from propeller.errors import Conflict, StorageBroken, StorageFull
from propeller.proplet.agent import TOMBSTONES_MAX
from propeller.proplet.offload import in_thread
from propeller.proplet.records import AttemptState, Held
from propeller.proplet.spool import FileSpool, MemorySpool
from propeller.wire.messages import AttemptKey, ModuleRef, Start, TaskLimits, Usage


def key(task="t", run=1, attempt=1):
    """An attempt."""
    return AttemptKey(task_id=task, run=run, attempt=attempt)


def live(which, order=1, **changes):
    """A record with every kind of field filled."""
    start = Start(
        id=which.task_id,
        name="n",
        env={"A": "ü"},
        run=which.run,
        attempt=which.attempt,
        module=ModuleRef(sha256="0" * 64, url="http://h/x"),
        limits=TaskLimits(wall_s=1.5),
        seed=2**62,
        parent_results={"parent": Raw(b'{"said": [1.5, "\\u00fc"]}')},
    )
    return Held(key=which, state=AttemptState.ACCEPTED, order=order, start=start, **changes)


class Files:
    """Spools over one directory, each as a new process would open it."""

    def __init__(self, directory):
        self.directory = directory

    def open(self):
        """A spool of a new process."""
        return FileSpool(self.directory, offload=in_thread)


class Memory:
    """The same object again and again: the memory is what survives."""

    def __init__(self):
        self.spool = MemorySpool()

    def open(self):
        """The spool, as a new process finds it."""
        return self.spool


@pytest.fixture(params=["files", "memory"])
def place(request, tmp_path):
    """Where spools are opened, one after the other."""
    return Files(tmp_path / "spool") if request.param == "files" else Memory()


async def test_what_is_saved_is_there_for_the_next_process(place):
    """Records come back equal, in the order of their starts."""
    records = [
        live(key("b.1.1"), 1, update=b"\x00{}" * 10, usage=Usage(wall_s=2.0, memory_bytes=7)),
        live(key("a"), 2),
        Held(key=key("c"), state=AttemptState.FINISHED, order=3, finished=b'{"x":1}'),
    ]
    spool = place.open()
    assert (await spool.load()).held == ()
    for record in reversed(records):
        await spool.save(record)
    spool.close()
    spool = place.open()
    loaded = await spool.load()
    assert sorted(loaded.held, key=lambda held: held.order) == records
    assert loaded.broken == ()
    spool.close()


async def test_saving_again_replaces(place):
    """One record per attempt, the last one."""
    spool = place.open()
    await spool.load()
    await spool.save(live(key()))
    await spool.save(live(key(), update=b"{}"))
    spool.close()
    spool = place.open()
    (held,) = (await spool.load()).held
    assert held.update == b"{}"
    spool.close()


async def test_what_is_buried_is_gone_and_remembered(place):
    """The record goes, the key stays; burying what was never there is fine."""
    spool = place.open()
    await spool.load()
    await spool.save(live(key("a")))
    await spool.bury(key("a"))
    await spool.bury(key("never"))
    spool.close()
    spool = place.open()
    loaded = await spool.load()
    assert (loaded.held, loaded.done) == ((), (key("a"), key("never")))
    spool.close()


async def test_the_memory_of_the_buried_is_bounded(place):
    """Only the latest keys are kept, over restarts too."""
    spool = place.open()
    await spool.load()
    for number in range(2 * TOMBSTONES_MAX + 10):
        await spool.bury(key(f"t{number}"))
    spool.close()
    spool = place.open()
    done = (await spool.load()).done
    assert len(done) == TOMBSTONES_MAX
    assert done[-1] == key(f"t{2 * TOMBSTONES_MAX + 9}")
    spool.close()


async def test_one_identity_is_used_once(place):
    """A second user of the same spool is refused until the first has closed it."""
    first = place.open()
    await first.load()
    with pytest.raises(Conflict, match="in use"):
        await place.open().load()
    first.close()
    second = place.open()
    await second.load()
    second.close()


@contextmanager
def file_size_limit(limit_bytes):
    """While inside, no file of this process may grow over the limit: the nearest thing to a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


async def test_a_full_disk_keeps_the_last_record_whole(place):
    """A record without room is refused, the one before it stays, and later there is room again."""
    spool = place.open()
    await spool.load()
    await spool.save(live(key()))
    large = live(key(), update=b"x" * 10_000)
    if isinstance(spool, MemorySpool):
        spool.room_bytes = 5_000
        with pytest.raises(StorageFull):
            await spool.save(large)
        spool.room_bytes = 50_000
    else:
        with file_size_limit(5_000), pytest.raises(StorageFull, match="free some space"):
            await spool.save(large)
    spool.close()
    spool = place.open()
    assert (await spool.load()).held == (live(key()),)
    await spool.save(large)
    spool.close()


async def test_a_group_is_saved_and_buried_together(place):
    """Several records in one call, all or none; so with the keys of what is done."""
    spool = place.open()
    await spool.load()
    await spool.save(live(key("a")), live(key("b"), 2))
    await spool.save(
        Held(key=key("a"), state=AttemptState.FINISHED, order=1, finished=b"{}"), live(key("c"), 3)
    )
    await spool.bury(key("a"), key("b"))
    spool.close()
    spool = place.open()
    loaded = await spool.load()
    assert ([held.key.task_id for held in loaded.held], loaded.done) == (["c"], (key("a"), key("b")))
    spool.close()


def rows(directory, statement):
    """Change the stored rows behind the spool's back."""
    with closing(sqlite3.connect(directory / "spool.db")) as connection, connection:
        connection.execute(statement)


DAMAGE = {
    "cut": "body = substr(body, 1, length(body) - 1)",
    "flipped": "body = CAST(substr(body, 1, length(body) - 1) || x'ff' AS BLOB)",
    "empty": "body = x''",
    "renamed": "name = 'bad.1.2'",
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_broken_record_is_moved_aside_and_reported(tmp_path, damage):
    """What does not match its checksum or its name is never believed, and never in the way again."""
    place = Files(tmp_path)
    spool = place.open()
    await spool.load()
    await spool.save(live(key("bad")), live(key("good"), 2))
    spool.close()
    rows(tmp_path, f"UPDATE held SET {DAMAGE[damage]} WHERE name = 'bad.1.1'")  # noqa: S608 - ours
    spool = place.open()
    loaded = await spool.load()
    spool.close()
    assert [held.key.task_id for held in loaded.held] == ["good"]
    (aside,) = loaded.broken
    assert aside.startswith(str(tmp_path / "bad.1."))
    spool = place.open()
    assert (await spool.load()).broken == ()
    spool.close()


@pytest.mark.parametrize("content", [b"no database", bytes(8192)])
async def test_a_file_that_is_no_spool_is_moved_aside_and_reported(tmp_path, content):
    """A rotten file costs what it held, not the device."""
    (tmp_path / "spool.db").write_bytes(content)
    spool = Files(tmp_path).open()
    loaded = await spool.load()
    (aside,) = loaded.broken
    assert (loaded.held, aside) == ((), str(tmp_path / "spool.db.broken-1"))
    await spool.save(live(key()))
    spool.close()
    spool = Files(tmp_path).open()
    assert (await spool.load()).held == (live(key()),)
    spool.close()


async def test_a_transaction_that_was_cut_off_is_left_out(tmp_path):
    """A crash in the middle of a write costs what was being written, and nothing before it."""
    place = Files(tmp_path)
    spool = place.open()
    await spool.load()
    await spool.save(live(key("a")))
    await spool.save(live(key("b"), 2))
    wal = (tmp_path / "spool.db-wal").read_bytes()
    database = (tmp_path / "spool.db").read_bytes()
    spool.close()
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    (crashed / "spool.db").write_bytes(database)
    (crashed / "spool.db-wal").write_bytes(wal[:-100])
    spool = Files(crashed).open()
    loaded = await spool.load()
    assert ([held.key.task_id for held in loaded.held], loaded.broken) == (["a"], ())
    spool.close()


async def test_an_unusable_directory_is_a_clear_error(tmp_path):
    """A file where the directory should be is named."""
    (tmp_path / "spool").write_text("x")
    with pytest.raises(StorageBroken, match="spool"):
        await FileSpool(tmp_path / "spool", offload=in_thread).load()


async def test_a_killed_process_leaves_no_lock(tmp_path):
    """The lock dies with its process, however it ends."""
    code = (
        "import asyncio, sys, pathlib\n"
        "from propeller.proplet.spool import FileSpool\n"
        "from propeller.proplet.offload import at_once\n"
        "spool = FileSpool(pathlib.Path(sys.argv[1]), offload=at_once)\n"
        "asyncio.run(spool.load()); print('locked', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(  # noqa: ASYNC220 - the other process is the subject
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(Conflict, match=str(other.pid)):
            await FileSpool(tmp_path, offload=in_thread).load()
        os.kill(other.pid, signal.SIGKILL)
    spool = FileSpool(tmp_path, offload=in_thread)
    await spool.load()
    spool.close()
