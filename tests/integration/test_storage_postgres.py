"""PostgreSQL under a role: one owner, a server that goes away and comes back, data that are not mixed up."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

import postgres_server
from postgres_server import new_database
from propeller.errors import BadInput, EnvironmentError_, StorageBroken
from propeller.storage.manager_store import ROLE
from propeller.storage.opening import open_database
from propeller.storage.postgres import PostgresDatabase, check_url, shown

BASE = "m/d/c/c"
INSERT = "INSERT INTO proplets (id, registered, body) VALUES (:id, :registered, :body)"


def adds(proplet_id: str):
    """A write of one row."""
    row = {"id": proplet_id, "registered": 1.5, "body": b"\0x%"}
    return lambda connection: connection.execute(INSERT, row)


async def ids(database: PostgresDatabase) -> list[str]:
    """What is there."""
    return await database.read(
        lambda connection: [row["id"] for row in connection.execute("SELECT id FROM proplets ORDER BY id")]
    )


def cut_off(url: str) -> None:
    """End every connection of ours at the server, and wait until they have ended."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE application_name LIKE 'propeller%'"
        )


async def test_one_owner_at_a_time():
    """A second process is refused while the first lives, and finds everything after."""
    url = new_database()
    first = await PostgresDatabase.open(url, role=ROLE, base=BASE)
    await first.write(adds("b"))
    await first.write(adds("a"))
    with pytest.raises(StorageBroken, match="in use by another process"):
        await PostgresDatabase.open(url, role=ROLE, base=BASE)
    other_role = await PostgresDatabase.open(url, role="registry", base=BASE)
    await other_role.close()
    await first.close()
    second = await PostgresDatabase.open(url, role=ROLE, base=BASE)
    assert await ids(second) == ["a", "b"]
    await second.close()
    with pytest.raises(StorageBroken, match="belongs to m/d/c/c"):
        await PostgresDatabase.open(url, role=ROLE, base="m/other/c/c")


async def test_a_lost_connection_is_said_and_made_again():
    """A write that had not begun goes through; a read is told, and the next one goes through."""
    url = new_database()
    database = await PostgresDatabase.open(url, role=ROLE, base=BASE)
    await database.write(adds("a"))
    cut_off(url)
    await database.write(adds("b"))
    with pytest.raises(EnvironmentError_, match="cannot be used"):
        await ids(database)
    await database.write(adds("c"))
    assert await ids(database) == ["a", "b", "c"]
    with pytest.raises(StorageBroken, match="in use"):
        await PostgresDatabase.open(url, role=ROLE, base=BASE)
    await database.close()


async def test_a_commit_that_may_have_been_kept_is_said_and_not_made_twice():
    """The connection ends between a write and its commit: its callers are told, and nobody runs it again."""
    url = new_database()
    database = await PostgresDatabase.open(url, role=ROLE, base=BASE)
    calls = []

    def write_and_lose(connection):
        calls.append(1)
        adds("a")(connection)
        cut_off(url)

    with pytest.raises(EnvironmentError_, match="cannot be used"):
        await database.write(write_and_lose)
    assert calls == [1]
    await database.write(adds("b"))
    await database.close()


async def test_what_fails_undoes_itself_alone():
    """A constraint that is broken in one write of a group leaves the others."""
    database = await PostgresDatabase.open(new_database(), role=ROLE, base=BASE)
    await database.write(adds("a"))
    with pytest.raises(psycopg.IntegrityError):
        await database.write(adds("a"))
    await database.write(adds("b"))
    assert await ids(database) == ["a", "b"]
    await database.close()


async def test_nobody_begins_anew_beside_what_there_is(tmp_path):
    """A role that had its data in PostgreSQL refuses to start on an empty file, and the other way round."""
    url, path = new_database(), tmp_path / "role" / "manager.db"
    await (await open_database(url, path, role=ROLE, base=BASE)).close()
    with pytest.raises(StorageBroken, match="name it with --database"):
        await open_database("", path, role=ROLE, base=BASE)
    other = tmp_path / "manager.db"
    await (await open_database("", other, role=ROLE, base=BASE)).close()
    with pytest.raises(StorageBroken, match="leave --database out"):
        await open_database(url, other, role=ROLE, base=BASE)


@pytest.mark.parametrize("url", ["mysql://h/x", "postgresql://h", "x", "postgresql://h:99999/x"])
def test_what_is_no_url_is_refused(url):
    """With the form that is wanted."""
    with pytest.raises(BadInput, match="postgresql://"):
        check_url(url)


async def test_a_server_that_is_not_there():
    """It is said where, and never with the password."""
    url = "postgresql://ann:secret@127.0.0.1:1/x"
    with pytest.raises(EnvironmentError_, match=r"127\.0\.0\.1:1/x") as caught:
        await PostgresDatabase.open(url, role=ROLE, base=BASE)
    assert "secret" not in caught.value.message
    assert shown(url) == "127.0.0.1:1/x"


def test_a_server_for_tests_ends_with_a_killed_process():
    """However the tests end, no server is left; and the next one removes what it had on disk."""
    code = "import postgres_server, time; print(postgres_server.server(), flush=True); time.sleep(60)"
    where = {"PYTHONPATH": os.pathsep.join([str(Path(postgres_server.__file__).parent), *sys.path])}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | where) as process:
        assert process.stdout is not None
        home = Path(process.stdout.readline().strip())
        server = int((home / "data" / "postmaster.pid").read_text().split()[0])
        process.kill()
    give_up_s = time.monotonic() + 20
    while Path("/proc", str(server)).exists():
        assert time.monotonic() < give_up_s, f"process {server} is left"
        time.sleep(0.02)
    postgres_server.remove_leftovers()
    assert not home.exists()
