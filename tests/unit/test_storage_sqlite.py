import asyncio
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from propeller.errors import Bug, Conflict, EnvironmentError_, StorageBroken, StorageFull
from propeller.storage.sqlite import Database

BASE = "m/domain/c/channel"


@pytest.fixture
def migrations(tmp_path):
    """A folder with one migration: a table of unique names."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_things.sql").write_text(
        "-- Things; a comment with a ; in it\nCREATE TABLE things (name TEXT PRIMARY KEY, content BLOB);\n"
        "CREATE TRIGGER no_empty BEFORE INSERT ON things WHEN new.name = ''\n"
        "BEGIN SELECT raise(ABORT, 'empty'); END;\n"
    )
    return folder


@pytest.fixture
def path(tmp_path):
    """Where the database is; its folder does not exist yet."""
    return tmp_path / "data" / "tester.db"


@pytest.fixture
def open_database(path, migrations):
    """Open the database of this test; options override."""

    async def opened(**options):
        return await Database.open(
            path, **{"role": "tester", "base": BASE, "migrations": migrations} | options
        )

    return opened


@pytest.fixture
async def database(open_database):
    """An open database, closed at the end."""
    database = await open_database()
    yield database
    await database.close()


def add(name, content=None):
    """A write of one row."""
    return lambda connection: connection.execute("INSERT INTO things VALUES (?, ?)", (name, content)).rowcount


def names(connection):
    """A read of every name."""
    return [row["name"] for row in connection.execute("SELECT name FROM things ORDER BY name")]


def hold(seconds):
    """A write that keeps the lane busy, so that others gather behind it."""
    return lambda _connection: time.sleep(seconds)


async def test_a_write_returns_its_result_and_is_read_at_once(database):
    """What `write` returned is what the function returned, and the next read sees it."""
    assert await database.write(add("a")) == 1
    assert await database.read(names) == ["a"]


async def test_many_writes_share_a_commit(database):
    """Writes that wait together are committed together, and all are there."""
    commits = []
    await database.write(
        lambda connection: connection.set_trace_callback(
            lambda sql: commits.append(sql) if sql == "COMMIT" else None
        )
    )
    commits.clear()
    await asyncio.gather(database.write(hold(0.05)), *(database.write(add(f"{n:03}")) for n in range(200)))
    assert len(commits) <= 3
    assert len(await database.read(names)) == 200


async def test_one_failing_write_hurts_nobody_else(database):
    """In one group, a constraint, an error of the function and a trigger each reach their own caller only."""

    def half_done(connection):
        connection.execute("INSERT INTO things (name) VALUES ('half')")
        raise Conflict("changed my mind")

    results = await asyncio.gather(
        database.write(hold(0.05)),
        database.write(add("a")),
        database.write(add("a")),
        database.write(half_done),
        database.write(add("")),
        database.write(lambda connection: connection.execute("SELECT nonsense")),
        database.write(add("b")),
        return_exceptions=True,
    )
    kinds = [type(result) for result in results]
    assert kinds[1] is int
    assert kinds[6] is int
    assert kinds[2:6] == [sqlite3.IntegrityError, Conflict, sqlite3.IntegrityError, sqlite3.OperationalError]
    assert await database.read(names) == ["a", "b"]


async def test_a_cancelled_caller_does_not_stop_the_lane(database):
    """The write of a caller that gave up is kept, and later ones are answered."""
    first = asyncio.create_task(database.write(hold(0.05)))
    second = asyncio.create_task(database.write(add("a")))
    await asyncio.sleep(0.01)
    second.cancel()
    await first
    await database.write(add("b"))
    assert await database.read(names) == ["a", "b"]


@pytest.mark.parametrize(
    "end",
    [
        lambda connection: connection.commit(),
        lambda connection: connection.rollback(),
        lambda connection: connection.executescript("SELECT 1;"),
        lambda connection: connection.__enter__(),
    ],
    ids=["commit", "rollback", "executescript", "with"],
)
async def test_a_function_cannot_end_the_group(database, end):
    """A function that would commit for everybody is a bug, and only its own."""
    results = await asyncio.gather(
        database.write(hold(0.03)), database.write(add("a")), database.write(end), return_exceptions=True
    )
    assert isinstance(results[2], Bug)
    assert await database.read(names) == ["a"]


async def test_reads_cannot_write(database):
    """A read that writes is refused, and reading goes on."""
    with pytest.raises(EnvironmentError_):
        await database.read(add("a"))
    assert await database.read(names) == []


async def test_a_read_sees_one_state(database):
    """Writes between two statements of one read are not seen by the second."""
    await database.write(add("a"))
    started, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(connection):
        before = names(connection)
        loop.call_soon_threadsafe(started.set)
        go_on.wait(5)
        return before, names(connection)

    reading = asyncio.create_task(database.read(slow))
    await started.wait()
    await database.write(add("b"))
    go_on.set()
    assert await reading == (["a"], ["a"])


async def test_no_room_is_an_error_and_the_database_stays_usable(database):
    """Without room the writer that needs it learns so, its neighbours are kept, and room makes all well."""
    await database.write(lambda c: c.execute("PRAGMA max_page_count = 30").fetchall())
    results = await asyncio.gather(
        database.write(hold(0.05)),
        database.write(add("a", b"small")),
        database.write(add("b", bytes(1_000_000))),
        database.write(add("c", b"small")),
        return_exceptions=True,
    )
    assert isinstance(results[2], StorageFull)
    assert await database.read(names) == ["a", "c"]
    await database.write(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchall())
    await database.write(add("b", bytes(1_000_000)))
    assert await database.read(names) == ["a", "b", "c"]


async def test_data_survive_closing_and_opening(open_database):
    """A closed database opens again with what it had; closing twice is harmless."""
    first = await open_database()
    await first.write(add("a"))
    await first.close()
    await first.close()
    with pytest.raises(EnvironmentError_, match="closed"):
        await first.write(add("b"))
    second = await open_database()
    assert await second.read(names) == ["a"]
    await second.close()


async def test_closing_finishes_what_was_asked_for(open_database):
    """Writes that are queued when `close` is called are kept and answered."""
    database = await open_database()
    writes = [asyncio.create_task(database.write(add(str(n)))) for n in range(20)]
    await asyncio.sleep(0)
    await database.close()
    assert await asyncio.gather(*writes) == [1] * 20


async def test_a_second_opener_is_refused(database, open_database):
    """While one has the file nobody else opens it, and the message names the owner."""
    with pytest.raises(StorageBroken, match=r"in use by another process \(pid \d+\)") as caught:
        await open_database()
    assert caught.value.reason == "storage_in_use"


CRASHER = """
    import asyncio, os, signal, sys
    from pathlib import Path
    from propeller.storage.sqlite import Database

    async def main():
        database = await Database.open(
            Path(sys.argv[1]), role="tester", base="m/domain/c/channel", migrations=Path(sys.argv[2])
        )
        async def one(number):
            await database.write(lambda c: c.execute("INSERT INTO things (name) VALUES (?)", (str(number),)))
            sys.stdout.write(f"{number}\\n")
            sys.stdout.flush()
        number = 0
        while True:
            await asyncio.gather(*(one(number + n) for n in range(16)))
            number += 16

    asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill_9(path, migrations, open_database):
    """Every write that returned before SIGKILL is there afterwards, and the lock is free."""
    process = subprocess.Popen(  # noqa: ASYNC220 - the database runs in threads, and the test only waits
        [sys.executable, "-c", textwrap.dedent(CRASHER), str(path), str(migrations)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        told = [process.stdout.readline().strip() for _ in range(200)]
        with pytest.raises(StorageBroken, match=f"pid {process.pid}"):
            await open_database()
    finally:
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=10)
    told += [line for line in rest.split("\n")[:-1] if line]
    database = await open_database()
    assert set(told) <= set(await database.read(names))
    await database.close()


async def test_another_base_is_refused(open_database):
    """Data of one domain and channel are not opened for another."""
    await (await open_database()).close()
    with pytest.raises(StorageBroken, match="belongs to m/domain/c/channel, not m/other/c/channel"):
        await open_database(base="m/other/c/channel")
    await (await open_database()).close()


async def test_another_role_is_refused(open_database):
    """The file of one role is not opened by another."""
    await (await open_database()).close()
    with pytest.raises(StorageBroken, match="belongs to the role tester"):
        await open_database(role="stranger")


async def test_migrations_run_forward_once(open_database, migrations):
    """A newer release brings an older file forward, keeping its rows; opening again changes nothing."""
    database = await open_database()
    await database.write(add("a"))
    await database.close()
    (migrations / "0002_colour.sql").write_text("ALTER TABLE things ADD COLUMN colour TEXT DEFAULT 'red';")
    for _ in range(2):
        database = await open_database()
        rows = await database.read(lambda c: [tuple(r) for r in c.execute("SELECT name, colour FROM things")])
        assert rows == [("a", "red")]
        await database.close()


async def test_a_failing_migration_changes_nothing(open_database, migrations):
    """A migration that fails half way leaves the file as the older release wrote it."""
    await (await open_database()).close()
    bad = migrations / "0002_bad.sql"
    bad.write_text("CREATE TABLE extra (x);\nINSERT INTO nowhere VALUES (1);")
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        await open_database()
    bad.unlink()
    database = await open_database()
    assert (
        await database.read(
            lambda c: c.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'extra'").fetchone()[0]
        )
        == 0
    )
    await database.close()


async def test_a_newer_file_is_refused(open_database, migrations):
    """An older release does not touch what a newer one wrote."""
    extra = migrations / "0002_more.sql"
    extra.write_text("CREATE TABLE more (x);")
    await (await open_database()).close()
    extra.unlink()
    with pytest.raises(StorageBroken, match=r"use that release or a newer one"):
        await open_database()


async def test_migrations_without_order_are_a_bug(open_database, migrations):
    """A gap in the numbers is found at once."""
    (migrations / "0003_gap.sql").write_text("CREATE TABLE gap (x);")
    with pytest.raises(Bug, match=r"0003_gap\.sql is not number 0002"):
        await open_database()


@pytest.fixture
async def full_file(open_database, path):
    """A closed database of many pages."""
    database = await open_database()
    for number in range(50):
        await database.write(add(f"{number}", bytes([number]) * 5000))
    await database.close()
    return path


@pytest.mark.parametrize("keep", [0, 1, 50, 100, 4096, 5000, 0.5, 0.9])
async def test_a_truncated_file_is_refused(full_file, open_database, keep):
    """Wherever a file was cut, it is refused and left as it is."""
    content = full_file.read_bytes()
    cut = content[: keep if isinstance(keep, int) else int(len(content) * keep)]
    full_file.write_bytes(cut)
    with pytest.raises(StorageBroken, match="restore it from a backup"):
        await open_database()
    assert full_file.read_bytes() == cut


@pytest.mark.parametrize("page", range(1, 12, 2))
async def test_a_damaged_page_is_refused(full_file, open_database, page):
    """A page whose head was overwritten is found at opening."""
    content = bytearray(full_file.read_bytes())
    start = page * 4096
    content[start : start + 64] = b"\xa5" * 64
    full_file.write_bytes(content)
    with pytest.raises(StorageBroken):
        await open_database()


@pytest.mark.parametrize("content", [b"not a database at all", bytes(8192)], ids=["text", "zeros"])
async def test_a_file_that_is_no_database_is_refused(open_database, path, content):
    """Any other file under the name is refused and left as it is."""
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StorageBroken):
        await open_database()
    assert path.read_bytes() == content


async def test_a_strangers_database_is_refused(open_database, path):
    """Somebody else's SQLite file is not taken over."""
    path.parent.mkdir()
    stranger = sqlite3.connect(path)
    stranger.execute("CREATE TABLE theirs (x)")
    stranger.commit()
    stranger.close()
    with pytest.raises(StorageBroken, match="none of ours"):
        await open_database()


async def test_an_empty_file_is_a_new_database(open_database, path):
    """A file that a crash left empty before its first commit is simply begun."""
    path.parent.mkdir()
    path.touch()
    database = await open_database()
    assert await database.read(names) == []
    await database.close()
