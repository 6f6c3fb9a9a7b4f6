"""A manager's database of the first release is brought forward with everything in it (E10)."""

import sqlite3

import msgspec

from propeller.core.proplet import Proplet
from propeller.core.run import Run
from propeller.core.task import Task
from propeller.ports import Instant
from propeller.storage.manager_store import ROLE, SqlManagerStore
from propeller.storage.queries import sql_folder
from propeller.storage.sqlite import Database


class StillClock:
    """A clock at rest."""

    def now(self) -> Instant:
        """The present moment."""
        return Instant(mono_s=0.0, wall_s=1_000.0)


def first_release(path) -> None:
    """A database as the first release wrote it: its schema, and records that lack all later fields."""
    old = (sql_folder("migrations", ROLE) / "0001_tasks.sql").read_text(encoding="utf-8")
    task = {"id": "t", "name": "main", "created_at_s": 1.0, "updated_at_s": 1.0, "image_url": "x:1"}
    run = {"task_id": "t", "number": 1, "created_at_s": 1.0, "give_up_mono_s": 9.0, "deadline_mono_s": 9.0}
    proplet = {"id": "p", "name": "calm-lynx", "registered_at_s": 1.0, "slots": 2}
    with sqlite3.connect(path) as connection:
        connection.executescript(old)
        connection.execute(
            "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID"
        )
        facts = {"role": ROLE, "base": "m/d/c/c", "schema": "1", "release": "0.1.0"}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())
        connection.execute(
            "INSERT INTO tasks (id, created_at, latest_run, body) VALUES ('t', 1.0, 1, ?)",
            (msgspec.msgpack.encode(task),),
        )
        connection.execute(
            "INSERT INTO runs VALUES ('t', 1, 'waiting', 1, 0.0, 1000.0, ?, NULL)",
            (msgspec.msgpack.encode(run),),
        )
        connection.execute("INSERT INTO proplets VALUES ('p', 1.0, ?)", (msgspec.msgpack.encode(proplet),))
    connection.close()


async def test_a_database_of_the_first_release_is_brought_forward(tmp_path):
    """Tasks, live runs and proplets are there, new fields have their defaults, and new tables work."""
    first_release(tmp_path / "manager.db")
    database = await Database.open(tmp_path / "manager.db", role=ROLE, base="m/d/c/c")
    try:
        store = SqlManagerStore(database, StillClock())
        ((task, run),) = await store.live(Instant(mono_s=0.0, wall_s=1_000.0))
        assert (task.id, task.image_url, task.depends_on, task.restart) == ("t", "x:1", (), None)
        assert isinstance(task, Task)
        assert isinstance(run, Run)
        (proplet,) = await store.proplets()
        assert proplet == Proplet(id="p", name="calm-lynx", registered_at_s=1.0, slots=2)
        assert await store.events("t", offset=0, limit=9) == (0, [])
        assert await store.open_flows() == []
        assert await store.services() == []
    finally:
        await database.close()
