"""Reading the logs of a data directory: whole, or as they come, all or about one round."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from propeller.errors import NotFound
from propeller.roles.layout import data_dir

POLL_S = 0.2


def lines(
    role: str, named: Path | None, env: Mapping[str, str], *, follow: bool = False, round_id: str = ""
) -> Iterator[str]:
    """The lines of one role's log, oldest first, without their ends; with `follow`, for ever.

    Raises `NotFound` that lists the logs there are.
    """
    data = data_dir(named, env)
    path = data.log(role)
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in data.logs.glob("*.log"))) or "none"
        raise NotFound(f"{data.root} has no log of {role!r}; it has: {known}; --data-dir names another place")
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in _read(file, follow=follow):
            if not round_id or _is_about(line, round_id):
                yield line


def _read(file: TextIO, *, follow: bool) -> Iterator[str]:
    part = ""
    while True:
        read = file.readline()
        part += read
        if part.endswith("\n"):
            yield part[:-1]
            part = ""
        elif not read:
            if not follow:
                if part:
                    yield part
                return
            time.sleep(POLL_S)


def _is_about(line: str, round_id: str) -> bool:
    try:
        fields = json.loads(line)
    except ValueError:
        return False
    return isinstance(fields, dict) and fields.get("round_id") == round_id
