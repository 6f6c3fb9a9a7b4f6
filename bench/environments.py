"""An environment of a bench's own, for the peers that it measures: they never enter the project's.

Each bench that has peers keeps a `requirements.txt` beside its `run.py`, or one for each peer where they
cannot live together; what it names is installed into `.env` there, which git ignores. Knows no bench.
"""

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"


def environment(folder: Path) -> Path | None:
    """The Python of the environment in `folder`, made if it is not there; None if it cannot be made.

    What must be there is in `requirements.txt`; each line of `optional.txt` is tried by itself, since a
    package of gigabytes is not worth losing the others for. A changed list is installed again.
    """
    env = folder / ".env"
    python, stamp = env / "bin" / "python", env / "stamp"
    wanted = (folder / "requirements.txt").read_text()
    optional = folder / "optional.txt"
    more = [line for line in optional.read_text().splitlines() if line] if optional.exists() else []
    listed = wanted + "\n".join(more)
    if stamp.exists() and stamp.read_text() == listed:
        return python
    say(f"installing the peers into {env} (once; a gigabyte with their dependencies) …")
    if not python.exists() and _failed(sys.executable, "-m", "venv", str(env)):
        return None
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if _failed(*install, "-r", str(folder / "requirements.txt")):
        return None
    for line in more:
        if _failed(*install, line):
            say(f"{line} cannot be installed here, and is left out")
    stamp.write_text(listed)
    return python


def _failed(*command: str) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        say((done.stderr or done.stdout).strip().rpartition("\n")[2])
    return done.returncode != 0


def say(line: str) -> None:
    """Progress goes to stderr: the last line of stdout is for a program."""
    print(line, file=sys.stderr, flush=True)
