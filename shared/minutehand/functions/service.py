"""The API, the console, the worker and the metrics as one ASGI app for your own host.

The worker is a separate process. No timer in this process starts worker runs. The database invokes
the worker every minute and when jobs arrive (`connect_worker` in supabase/schemas), and the API
wakes the worker after an enqueue.
"""

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
from minutehand.functions.jobs.app import build_app as build_jobs
from minutehand.functions.worker.process import WorkerProcess
from minutehand.functions.worker.routes import PROCESS_PATH, WORKER_PATH
from minutehand.web.services import Services


class Service:
    """The API, the console and the worker as one ASGI app with a lifespan.

    Args:
        console: Routes of the console. If there are none, the API serves every path.
        worker: Module that the worker's process runs.
        stop_seconds: Maximum seconds for the worker to release its jobs. A worker releases its jobs
            within eight seconds.
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
        self._api = build_jobs(settings, services=self._services)
        self._has_console = bool(console)
        self._site = Starlette(
            routes=console,
            lifespan=self._lifespan,
            # compress as CloudFront does on AWS
            middleware=[Middleware(GZipMiddleware)],
        )
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or run the app's lifespan."""
        app: ASGIApp = self._site
        if scope["type"] == "http":
            path = scope["path"]
            is_api = path in {"/health", "/metrics"} or path.startswith("/api/")
            if path in {WORKER_PATH, PROCESS_PATH}:
                app = self._worker
            elif is_api or not self._has_console:
                app = self._api
        await app(scope, receive, send)

    def end_streams(self) -> None:
        """End event streams so that clients reconnect. A signal handler may call this method."""
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
