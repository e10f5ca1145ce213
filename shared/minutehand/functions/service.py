"""The whole service as one ASGI app for a host of your own: API, console, worker, metrics.

The worker is a process of its own. Nothing here starts a tick: the database invokes the worker
every minute and at arrival, see `connect_worker` in supabase/schemas, and the API wakes it
after its own enqueues.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from minutehand import telemetry
from minutehand.config import Settings
from minutehand.functions.host import Functions, is_api
from minutehand.functions.jobs.app import build_app as build_jobs
from minutehand.functions.worker.process import WorkerProcess
from minutehand.web.services import Services


class Service:
    """One command's API, console and worker; an ASGI app with a lifespan.

    Args:
        console: What is not the API's; without any, every path is.
        worker: The module whose process is the worker.
        stop_seconds: For the worker to release its jobs when the host stops: it takes up to eight.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        console: Sequence[BaseRoute] = (),
        worker: str = "minutehand.functions.worker",
        stop_seconds: float = 9.0,
    ) -> None:
        settings.require("WORKER_SECRET_TOKEN")
        telemetry.start(settings.environ, version=settings.version)
        self._stop_seconds = stop_seconds
        self._worker = WorkerProcess(worker, settings.environ)
        self._services = Services(settings, waker=self._worker)
        self._functions = Functions(self._worker, build_jobs(settings, services=self._services))
        self._has_no_console = not console
        self._site = Starlette(
            routes=console,
            lifespan=self._lifespan,
            # as CloudFront does
            middleware=[Middleware(GZipMiddleware)],
        )
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        to_api = scope["type"] == "http" and (self._has_no_console or is_api(scope["path"]))
        app: ASGIApp = self._functions if to_api else self._site
        await app(scope, receive, send)

    def end_streams(self) -> None:
        """End event streams in good order, so that clients come back; safe in a signal handler."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._services.closing.set)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self._worker.start()
        try:
            yield
        finally:
            await self._worker.aclose(timeout_seconds=self._stop_seconds)
            await self._services.aclose()
