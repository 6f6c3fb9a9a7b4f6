"""A PostgreSQL server for tests: Debian's, on a socket of its own, for the life of the process.

It outlives nothing: the kernel stops it when the process that started it ends, however it ends, and the next
server's start removes what a killed process left on disk.
"""

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

START_S = 60.0
"""How long a server may take to start, on a machine that does much else."""
_NUMBERS = count(1)
_PREFIX = "propeller-pg-"


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
    return ["--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _ending_with_us(*command: str) -> list[str]:
    """The command as a child that is told to quit when we die: to PostgreSQL, SIGQUIT is "at once"."""
    # Set after the user is changed, which would have taken it back.
    return [shutil.which("setpriv") or "setpriv", *_as_nobody_special(), "--pdeathsig=QUIT", *command]


def remove_leftovers() -> None:
    """Delete the folders of processes that are gone: they are named after them."""
    for home in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = home.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            shutil.rmtree(home, ignore_errors=True)


@functools.cache
def server() -> str:
    """The folder of a running server's socket."""
    initdb, postgres = _program("initdb"), _program("postgres")
    remove_leftovers()
    home = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(home, user.pw_uid, user.pw_gid)
    data = str(home / "data")
    made = _ending_with_us(initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
    subprocess.run(made, check=True, capture_output=True, cwd=home)
    told = _ending_with_us(
        postgres, "-D", data, "-k", str(home), "-c", "listen_addresses=", "-c", "fsync=off"
    )
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(told, cwd=home, stdout=log, stderr=log)
    atexit.register(lambda: (process.send_signal(signal.SIGQUIT), process.wait(10)))
    give_up_s = time.monotonic() + START_S
    while time.monotonic() < give_up_s and process.poll() is None:
        try:
            psycopg.connect(host=str(home), user="postgres", dbname="postgres").close()
            return str(home)
        except psycopg.OperationalError:
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
