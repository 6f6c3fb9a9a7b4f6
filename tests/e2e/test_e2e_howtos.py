"""The pages of `docs/howto`: every command runs as it is written there, and says what the page says.

In a page a block of `sh` is run, a block of `output` after it is what it prints (`…` stands for anything,
lines between those shown may be left out), and any other block is only read. Each page is one shell, stopped
at a failure, begun as `docs/howto/README.md` says, in a directory that looks like the root of the repository.
All pages share one system, so each leaves it as it was: nothing runs, every proplet may be used.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from walk_system import PROPELLER, ROOT, System, started, until

HOWTOS = ROOT / "docs" / "howto"
START = HOWTOS / "README.md"
PAGES = sorted(page for page in HOWTOS.glob("*.md") if page != START)
BLOCK = re.compile(r"^```(sh|output)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "--- block "
PAGE_S = 200
"""A page takes seconds; a busy machine may take its time."""
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(PAGE_S + 60)]


class Block(NamedTuple):
    """One block that is run, and the lines that the page says it prints."""

    script: str
    prints: list[str]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    found: list[Block] = []
    for kind, text in BLOCK.findall(page.read_text()):
        if kind == "sh":
            found.append(Block(text, []))
        else:
            found[-1].prints.extend(line for line in text.splitlines() if line.strip())
    return found


def pattern(line: str) -> re.Pattern[str]:
    """What a shown line must look like: blanks of any width, and `…` for anything."""
    words = [re.escape(word).replace("…", ".*") for word in line.split()]
    return re.compile(r"\s+".join(words))


def missing(prints: list[str], printed: str) -> str:
    """The first shown line that was not printed after those before it; empty if all were."""
    lines = iter(printed.splitlines())
    for wanted in prints:
        shape = pattern(wanted)
        if not any(shape.fullmatch(line.strip()) for line in lines):
            return wanted
    return ""


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> Iterator[System]:
    """What the first page tells to start, on other ports, with quick heartbeats."""
    with started(tmp_path_factory.mktemp("howtos") / ".propeller", "--heartbeat", "1s") as running:
        yield running


@pytest.fixture
def home(system) -> Path:
    """A directory that looks like the root of this repository beside that system."""
    place = system.data.parent
    for name in ("src", "examples", "docs"):
        if not (place / name).exists():
            (place / name).symlink_to(ROOT / name)
    (place / ".propeller.env").write_text((system.data / "env").read_text())
    return place


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page(system, home, page):
    """All its commands succeed in order, print what it shows, and leave nothing behind."""
    told = [*blocks(START), *blocks(page)]
    script = "set -euo pipefail\nexec 2>&1\n"
    script += "".join(f"echo '{MARK}{number}'\n{block.script}" for number, block in enumerate(told))
    found = {name: value for name, value in os.environ.items() if not name.startswith("PROP")}
    done = subprocess.run(
        ["timeout", str(PAGE_S), "bash", "-c", system.published(script)],
        cwd=home, env=found | {"PATH": f"{PROPELLER.parent}:{found['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.split(MARK)[1:]
    for block, printed in zip(told, said, strict=True):
        line = missing([system.published(one) for one in block.prints], printed)
        assert not line, f"{page.name} shows {line!r} after:\n{block.script}\nbut it printed:\n{printed}"
    until("nothing runs and every proplet may be used", lambda: is_idle(system))


def is_idle(system: System) -> bool:
    """Whether no run is live and no proplet is taken out of use or labelled."""
    tasks = system.get("manager", "/tasks").body["tasks"]
    proplets = system.get("manager", "/proplets").body["proplets"]
    busy = any(one["state"] in {1, 2} or (one["state"] == 0 and one.get("run")) for one in tasks)
    return not busy and not any(one.get("cordoned") or one.get("labels") for one in proplets)


def test_the_table_of_pages_is_whole():
    """The first page links to every other, and to nothing that is not there."""
    links = set(re.findall(r"\(([\w-]+\.md)\)", START.read_text()))
    assert links == {page.name for page in PAGES}
