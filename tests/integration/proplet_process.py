"""The process that the proplet's integration tests start, kill and start again. No test lives here.

Arguments: a JSON object of the settings that matter, and `parent` to end with the starter.
"""

import asyncio
import json
import logging
import signal
import sys
from pathlib import Path

from propeller.errors import PropellerError
from propeller.proplet.app import run_proplet
from propeller.proplet.settings import PropletSettings, ServiceUrls


class Lines:
    """A log on stdout, one JSON object per line."""

    def info(self, event, **fields):
        """Print it."""
        print(json.dumps({"event": event} | fields, default=repr), flush=True)

    warning = error = info


async def main(settings):
    """Run until SIGTERM."""
    task = asyncio.ensure_future(run_proplet(settings, Lines()))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        loaded = [name for name in ("numpy", "wasmtime", "litestar", "structlog") if name in sys.modules]
        Lines().info("ended", loaded=loaded)


if __name__ == "__main__":
    logging.disable()
    told = json.loads(sys.argv[1])
    urls = ServiceUrls(**told.pop("urls", {}))
    paths = {name: Path(told.pop(name)) for name in ("spool", "cache", "data") if name in told}
    try:
        asyncio.run(main(PropletSettings(urls=urls, **paths, **told)))
    except PropellerError as error:
        Lines().info("refused", code=error.reason, message=error.message)
        sys.exit(1)
