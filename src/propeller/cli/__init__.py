"""The command line: one file per noun, rendering apart. It starts roles, asks running ones, decides nothing.

Commands import what they need when they run, so that `propeller --help` answers at once.
"""

import os
import sys
from typing import NoReturn

from propeller.errors import Bug, PropellerError

INTERRUPTED = 130
"""What shells expect of a program that Ctrl-C ended."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command line. Exits 0 on success, 1 on failure with one line on stderr, 2 on wrong usage."""
    from propeller.cli.app import app, hoisted

    given = sys.argv[1:] if arguments is None else arguments
    try:
        app(hoisted(given), prog_name="propeller")
    except Bug:
        raise
    except PropellerError as error:
        _fail(error.message)
    except OSError as error:
        # What this machine refuses (a full disk, a read-only directory) is no defect of ours.
        if isinstance(error, BrokenPipeError):
            _stop_showing()
            sys.exit(0)
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _stop_showing() -> None:
    """Whoever read our output (`| head`) has seen enough; keep Python from complaining at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> NoReturn:
    # Where both go to one file, what was shown stands before why it failed.
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _stop_showing()
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(1)
