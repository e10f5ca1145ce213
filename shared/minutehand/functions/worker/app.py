"""The worker's routes as a small ASGI app, for hosts other than Lambda."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from starlette import requests
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from minutehand import telemetry
from minutehand.app import OnError
from minutehand.config import Settings
from minutehand.functions.worker.database_access import Reach
from minutehand.functions.worker.host_channel import HostChannel
from minutehand.functions.worker.processors import load_processors
from minutehand.functions.worker.routes import MAX_BODY_BYTES, Request, WorkerRoutes
from minutehand.log import request_context
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker.deadlines import TickOptions
from minutehand.worker.loop import Worker

logger = logging.getLogger(__name__)

#: Exit code of a worker that met an error that it does not know.
FAILED: Final = 70
#: Makes the worker look for jobs at once; only in this process's own socket, which needs no token.
WAKE_PATH: Final = "/wake"
_METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@dataclass(frozen=True)
class Running:
    """A worker at work: what answers its routes, and what makes it look for jobs at once."""

    routes: WorkerRoutes
    wake: Callable[[], object]
    #: The worker's loop; it ends by itself when a worker for suspects finds none.
    loop: asyncio.Task[None]


#: Starts the worker and, when left, stops it.
Start = Callable[[], AbstractAsyncContextManager[Running]]


def build_worker(
    settings: Settings, *, reach: Reach | None = None, on_error: OnError | None = None
) -> Worker:
    """A worker with every app's processors, in a process that does nothing else.

    Args:
        reach: How it reaches the database; by HTTPS when None.
    """
    telemetry.start(settings.environ, version=settings.version)
    registry = load_processors(settings, on_error=on_error)
    host = HostChannel.of(settings.environ)
    options = TickOptions.of(settings, ends_blocked=True, suspects=host.serves_suspects)
    queue = WorkerQueue(settings, api=None if reach is None else reach.api(settings))
    return Worker(
        settings, registry=registry, options=options, queue=queue, on_suspects=host.report_suspects
    )


def end_process_with(task: asyncio.Task[None]) -> None:
    """No task that works as long as the process may die unseen: its host starts another one."""

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.critical(
                "The worker met an error that it does not know, and ends",
                exc_info=error,
                extra={"event": "worker.broken", "task": task.get_name()},
            )
            logging.shutdown()
            os._exit(FAILED)  # what ran was released by then; a request waits for no answer

    task.add_done_callback(ended)


async def body_of(request: requests.Request) -> bytes:
    """Its body, as far as it says whether it is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    return body


def build_app(start: Start) -> Starlette:
    """The routes of a worker; its lifespan is the worker's."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with start() as running:
            app.state.running = running
            yield

    async def answer(request: requests.Request) -> Response:
        running: Running = request.app.state.running
        if request.scope["path"] == WAKE_PATH:
            running.wake()
            return Response(status_code=204)
        asked = Request(
            method=request.method,
            path=request.scope["path"],
            headers=dict(request.headers),
            body=await body_of(request),
            request_id=request.headers.get("x-request-id") or uuid.uuid4().hex,
        )
        with request_context(asked.request_id):
            reply = await running.routes.answer(asked)
        return Response(
            reply.encoded(), reply.status, dict(reply.headers), media_type="application/json"
        )

    return Starlette(routes=[Route("/{path:path}", answer, methods=_METHODS)], lifespan=lifespan)
