"""The functions and the console on one origin without Lambda, and the process of the worker.

`python -m minutehand.local.api` serves on API_PORT, with the same apps and worker run as on AWS.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

import uvicorn

from minutehand.config import Settings
from minutehand.functions.service import Service
from minutehand.local.site import console_routes
from minutehand.log import configure_logging
from minutehand.terminal.server import Server

#: Time to release running jobs before the stack kills the process a second later.
STOP_SECONDS = 4.0


def main(environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM."""
    settings = Settings.from_env(environ)
    configure_logging(settings.log_level)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    service = Service(
        settings,
        console=console_routes(settings),
        worker="minutehand.local.worker",
        stop_seconds=STOP_SECONDS,
    )
    config = uvicorn.Config(
        service,
        host="127.0.0.1",
        port=int(environ["API_PORT"]),
        loop="uvloop",
        ws="none",  # an upgrade request with a body would wait for ever
        log_config=None,
        access_log=False,
        timeout_keep_alive=75,  # as API Gateway: clients close first
        timeout_graceful_shutdown=2,  # running requests get two seconds
        server_header=False,
        proxy_headers=False,  # without a proxy, the peer's address is the caller's
    )
    Server(config, service.end_streams).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
