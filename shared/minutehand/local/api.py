"""Serves the functions and the console on one origin without Lambda, and starts a worker process.

`python -m minutehand.local.api` listens on API_PORT, and runs the same apps and the same worker as
AWS Lambda.
"""

import os
import sys
from collections.abc import Mapping

from minutehand.config import Settings
from minutehand.functions.service import Service
from minutehand.local.site import console_routes
from minutehand.log import configure_logging
from minutehand.terminal.server import Server

#: Seconds in which a process that stops releases its running jobs. One second later, the local
#: stack kills the process.
STOP_SECONDS = 4.0


def main(environ: Mapping[str, str]) -> int:
    """Serve HTTP requests until SIGTERM."""
    settings = Settings.from_env(environ)
    configure_logging(settings.log_level)
    service = Service(
        settings,
        console=console_routes(settings),
        worker="minutehand.local.worker",
        stop_seconds=STOP_SECONDS,
    )
    server = Server(
        service,
        service.end_streams,
        host="127.0.0.1",
        port=int(environ["API_PORT"]),
        loop="uvloop",
        timeout_graceful_shutdown=2,  # seconds for running requests
        # there is no proxy, so the peer's address is the caller's address
        proxy_headers=False,
    )
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
