"""The functions on one origin without Lambda: their ASGI apps, the console; beside them the worker.

`python -m minutehand.local.api` serves on API_PORT; the same apps and the same tick as on AWS.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from minutehand import telemetry
from minutehand.config import Settings
from minutehand.functions.host import Functions, is_api
from minutehand.functions.jobs.app import build_app as build_jobs
from minutehand.functions.worker.process import WorkerProcess
from minutehand.local.site import build_site
from minutehand.log import configure_logging
from minutehand.terminal.server import Server
from minutehand.web.services import Services

logger = logging.getLogger("minutehand.local.api")

STOP_SECONDS = 4.0
"""For running jobs to be released when the host stops."""


class Host:
    """The API's paths to the functions, everything else to the console's files."""

    def __init__(self, functions: ASGIApp, site: Starlette, services: Services) -> None:
        self._functions = functions
        self._site = site
        self._services = services
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan of the host."""
        if scope["type"] == "lifespan":
            self._loop = asyncio.get_running_loop()
        to_api = scope["type"] == "http" and is_api(scope["path"])
        app = self._functions if to_api else self._site
        await app(scope, receive, send)

    def let_streams_go(self) -> None:
        """End event streams in good order, so that clients come back; safe in a signal handler."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._services.closing.set)


def build_host(settings: Settings, *, environ: Mapping[str, str]) -> Host:
    """Wire the apps, the console and the worker's process into one ASGI app."""
    telemetry.start(environ, version=settings.version)
    worker = WorkerProcess("minutehand.local.worker", environ)
    services = Services(settings, waker=worker)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            await worker.aclose(timeout_seconds=STOP_SECONDS)
            await services.aclose()

    functions = Functions(worker, build_jobs(settings, services=services))
    site = build_site(settings, environ, lifespan=lifespan)
    return Host(functions, site, services)


def main(environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM."""
    settings = Settings.from_env(environ)
    configure_logging(settings.log_level)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    host = build_host(settings, environ=environ)
    config = uvicorn.Config(
        host,
        host="127.0.0.1",
        port=int(environ["API_PORT"]),
        loop="uvloop",
        ws="none",  # an upgrade with a body would wait for ever
        log_config=None,
        access_log=False,
        timeout_keep_alive=75,  # as the gateway: clients close first
        timeout_graceful_shutdown=2,  # for requests under way; streams end by themselves
        server_header=False,
        proxy_headers=False,  # there is no proxy: what connects is the caller
    )
    Server(config, host.let_streams_go).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
