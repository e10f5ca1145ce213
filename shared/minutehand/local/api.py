"""The functions on one origin without Lambda: their ASGI apps, the console, the worker's loop.

`python -m minutehand.local.api` serves on API_PORT; the same apps and the same tick as on AWS.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import psycopg
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from minutehand.app import find_apps
from minutehand.config import Settings
from minutehand.functions.health.app import build_app as build_health
from minutehand.functions.host import Functions, is_api
from minutehand.functions.jobs.app import build_app as build_jobs
from minutehand.functions.status.app import build_app as build_status
from minutehand.functions.worker.app import build_app as build_worker_routes
from minutehand.functions.worker.app import build_worker
from minutehand.local.breaking import break_routes
from minutehand.local.hot_reload import files_of, reload_on_change, watched_folders
from minutehand.local.site import console_config, pages_of_apps
from minutehand.log import configure_logging
from minutehand.node import node_home
from minutehand.resources import resource
from minutehand.terminal.server import Server
from minutehand.web.hub import EventHub
from minutehand.web.services import Services
from minutehand.web.site import ConsoleFiles, security_headers
from minutehand.worker.loop import Worker

logger = logging.getLogger("minutehand.local.api")

CHANNEL = "minutehand_wakeup"
"""Notified when a transaction that enqueued commits, at most once each 20 ms."""
LOOK_AGAIN_SECONDS = 0.1
"""After a notification: what was committed right behind it notified no one."""
LAST_FUNCTION = "attach_extensions"
"""Of the last migration: a worker that begins before it publishes types that a file still makes."""
STOP_SECONDS = 4.0
"""For running jobs to be released when the host stops."""


class LocalWaker:
    """Wakes the loop in this process; what a Lambda invoke is on AWS."""

    def __init__(self, wakeups: asyncio.Event) -> None:
        self._wakeups = wakeups

    async def wake(self, *, reason: str = "enqueue") -> None:
        """Ask for a tick now; `reason` is for logs on AWS."""
        self._wakeups.set()


class Host:
    """The API's paths to the functions, everything else to the console's files."""

    def __init__(self, functions: ASGIApp, site: Starlette, hub: EventHub) -> None:
        self._functions = functions
        self._site = site
        self._hub = hub
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
            self._loop.call_soon_threadsafe(self._hub.close)


def build_host(settings: Settings, *, database_url: str, environ: Mapping[str, str]) -> Host:
    """Wire the apps, the console and the loop into one ASGI app."""
    wakeups = asyncio.Event()
    services = Services(settings, waker=LocalWaker(wakeups))
    files = files_of(watched_folders(settings))  # before they are imported
    worker = build_worker(settings)
    apps: list[Starlette] = [
        build_health(settings, services=services),
        build_status(settings, services=services),
        build_jobs(settings, services=services),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # the apps share one Services, so their own lifespans, which close it, are not run
        loop = asyncio.create_task(run_worker(worker, wakeups, database_url), name="worker")
        listener = asyncio.create_task(listen(wakeups, database_url), name="listen")
        reloader = asyncio.create_task(
            reload_on_change(worker, settings, wakeups=wakeups, loaded=files), name="reload"
        )
        try:
            yield
        finally:
            worker.stop()
            listener.cancel()
            reloader.cancel()
            _ended, late = await asyncio.wait([loop, listener, reloader], timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await services.aclose()
            await worker.aclose()

    config = console_config(settings, environ)

    async def serve_config(_: Request) -> JSONResponse:
        return JSONResponse(config, headers={"Cache-Control": "no-store"})

    routes: list[BaseRoute] = [
        Route("/config.json", serve_config),
        *break_routes(settings, environ),
        *vendored_modules(),
    ]
    headers = security_headers(settings, environ)
    routes += pages_of_apps(find_apps(settings.apps), headers)
    routes.append(Mount("/", app=ConsoleFiles(resource("console"), headers)))
    functions = Functions(build_worker_routes(settings, worker), apps)
    # as CloudFront does: a console that is quick here only uncompressed would be slow there
    site = Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(GZipMiddleware)])
    return Host(functions, site, services.hub)


def vendored_modules() -> list[BaseRoute]:
    """Serve the npm packages that package.json names, and no others, under /vendor."""
    folder = node_home()
    names = json.loads((folder / "package.json").read_text())
    packages = sorted({**names.get("dependencies", {}), **names.get("devDependencies", {})})
    return [
        Mount(f"/vendor/{name}", app=StaticFiles(directory=folder / "node_modules" / name))
        for name in packages
        if (folder / "node_modules" / name).is_dir()
    ]


async def run_worker(worker: Worker, wakeups: asyncio.Event, database_url: str) -> None:
    """Run the loop once the database has the queue: an earlier tick would only be refused.

    Without a database's URL, that of a Supabase that runs already, it is taken to have it.
    """
    while database_url:
        try:
            async with await psycopg.AsyncConnection.connect(
                database_url, autocommit=True, connect_timeout=3
            ) as connection:
                found = await connection.execute(
                    "select to_regproc(%s)", (f"{worker.settings.schema_name}.{LAST_FUNCTION}",)
                )
                if (row := await found.fetchone()) is not None and row[0] is not None:
                    break
        except psycopg.OperationalError:
            logger.debug("database is not there yet", extra={"event": "worker.waiting"})
        await asyncio.sleep(0.1)
    await worker.run_forever(wakeups)


async def listen(wakeups: asyncio.Event, database_url: str) -> None:
    """Set `wakeups` on every committed enqueue, from any caller; until cancelled, across restarts.

    Without a database's URL nothing wakes the worker, which then polls.
    """
    while database_url:
        try:
            async with await psycopg.AsyncConnection.connect(
                database_url, autocommit=True, connect_timeout=3, application_name="worker_wakeup"
            ) as connection:
                await connection.execute(f"listen {CHANNEL}".encode())
                wakeups.set()  # what was committed while no one listened
                loop = asyncio.get_running_loop()
                async for _ in connection.notifies():
                    wakeups.set()
                    # one notification covers what else is committed in these milliseconds
                    loop.call_later(LOOK_AGAIN_SECONDS, wakeups.set)
        except psycopg.OperationalError as error:
            logger.info(
                "wake-ups are unavailable; polling finds jobs",
                extra={"event": "wakeup.away", "error": str(error).strip()},
            )
        await asyncio.sleep(0.3)


def main(environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM."""
    settings = Settings.from_env(environ)
    configure_logging(settings.log_level)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    host = build_host(settings, database_url=environ.get("DATABASE_URL", ""), environ=environ)
    config = uvicorn.Config(
        host,
        host="127.0.0.1",
        port=int(environ["API_PORT"]),
        loop="uvloop",
        log_config=None,
        access_log=False,
        timeout_keep_alive=75,  # as the gateway: clients close first
        timeout_graceful_shutdown=2,  # for requests under way; streams end by themselves
        server_header=False,
    )
    Server(config, host.let_streams_go).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
