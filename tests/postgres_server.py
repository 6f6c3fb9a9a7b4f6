"""A PostgreSQL server for tests: Debian's, on a socket of its own, for the life of the process."""

import atexit
import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

import psycopg
import pytest

from propeller.storage.connection import SqlDatabase
from propeller.storage.postgres import PostgresDatabase
from propeller.storage.sqlite import Database

_NUMBERS = count(1)


def _program(name: str) -> str:
    newest = max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default=None)
    found = shutil.which(name) or newest
    if found is None:
        pytest.skip("missing Debian package: postgresql")
    return found


def _as_nobody_special() -> list[str]:
    """PostgreSQL refuses to run as root; Debian's package brings a user for it."""
    if os.geteuid() != 0:
        return []
    return [shutil.which("setpriv") or "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


@functools.cache
def server() -> str:
    """The folder of a running server's socket."""
    initdb, postgres = _program("initdb"), _program("postgres")
    home = Path(tempfile.mkdtemp(prefix="propeller-pg-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    other = _as_nobody_special()
    if other:
        user = pwd.getpwnam("postgres")
        os.chown(home, user.pw_uid, user.pw_gid)
    data = str(home / "data")
    made = [*other, initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(made, check=True, capture_output=True, cwd=home)
    told = [*other, postgres, "-D", data, "-k", str(home), "-c", "listen_addresses=", "-c", "fsync=off"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(told, cwd=home, stdout=log, stderr=log)
    atexit.register(lambda: (process.send_signal(signal.SIGQUIT), process.wait(10)))
    for _ in range(200):
        try:
            psycopg.connect(host=str(home), user="postgres", dbname="postgres").close()
            return str(home)
        except psycopg.OperationalError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    raise AssertionError((home / "log").read_text())


def new_database() -> str:
    """The URL of an empty database."""
    home, name = server(), f"t{os.getpid()}_{next(_NUMBERS)}"
    with psycopg.connect(host=home, user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return f"postgresql://postgres@/{name}?host={home}"


async def opened(kind: str, folder: Path, *, role: str, base: str) -> SqlDatabase:
    """An empty database of that kind: `sqlite` in `folder`, or `postgres`."""
    if kind == "sqlite":
        return await Database.open(folder / f"{role}.db", role=role, base=base)
    return await PostgresDatabase.open(new_database(), role=role, base=base)
