"""The process of one proplet of `up`: `python -m propeller.roles.child JSON`. It ends with its parent."""

import sys
from pathlib import Path

import msgspec

from propeller.errors import PropellerError
from propeller.proplet.app import run_proplet
from propeller.roles.children import Child
from propeller.roles.process import end_with_parent, run
from propeller.roles.proplet import of_child
from propeller.telemetry import logs


def main(text: str) -> None:
    """Run the proplet that `text` describes until told to stop."""
    child = msgspec.json.decode(text, type=Child)
    end_with_parent(child.parent)
    logs.configure(child.section, "info", logs.LogFile(Path(child.log)))
    with logs.role_context(child.section):
        try:
            run(lambda: run_proplet(of_child(child)), small=True)
        except PropellerError as error:
            logs.logger().error("proplet cannot go on", error=error.message, code=error.reason)
            sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
