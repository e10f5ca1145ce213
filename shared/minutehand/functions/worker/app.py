"""The worker's routes as a small ASGI app, for hosts other than Lambda."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from starlette import requests
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.loops.auto import auto_loop_factory

from minutehand import telemetry
from minutehand.app import OnError, find_apps
from minutehand.config import Settings
from minutehand.functions.worker.database_access import find_database_access
from minutehand.functions.worker.processors import load_or_report, load_processors
from minutehand.functions.worker.routes import MAX_BODY_BYTES, Request, WorkerRoutes
from minutehand.log import configure_logging, request_context
from minutehand.queue.models import LeaseRequest, LeaseResponse, RunEnd, SettleResponse
from minutehand.queue.outbound_http import trusted
from minutehand.queue.worker_client import WorkerQueue
from minutehand.tasks import end_tasks
from minutehand.worker.deadlines import TickOptions
from minutehand.worker.loop import Worker
from minutehand.worker.registry import Registry

if TYPE_CHECKING:
    from minutehand.functions.worker.realtime_wakeups import RealtimeWakeups

logger = logging.getLogger(__name__)

#: Exit code of a worker process after an unexpected error.
FAILED = 70
#: Path of a request that makes the worker lease jobs immediately. The path needs no token, because
#: only the host can open the worker's socket.
WAKE_PATH = "/wake"
#: Environment variable with the file descriptor of a pipe to the host. The worker writes to the
#: pipe when it finds suspects. A suspect is a job whose process ended while the process also ran
#: other jobs. The host starts processes for the suspects that a worker has found.
PIPE = "WORKER_SUSPECTS_PIPE"
#: Environment variable that is set for a worker process that runs only suspects.
SUSPECTS_ONLY = "WORKER_SUSPECTS_ONLY"
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@dataclass(frozen=True)
class Running:
    """A running worker. `wake` is a function that makes the worker lease jobs immediately."""

    routes: WorkerRoutes
    wake: Callable[[], object]
    #: Task of the worker's loop. In a process for suspects, the task ends when no suspect is left.
    loop: asyncio.Task[None]


#: Context manager that starts the worker, and stops it at the end of the context.
Start = Callable[[], AbstractAsyncContextManager[Running]]


def load() -> None:
    """Import modules and build models before worker processes are forked.

    A worker process then starts in half of the CPU time.
    """
    settings = Settings.from_env(os.environ)
    configure_logging(settings.log_level)
    for app in find_apps(settings.apps):
        app.module("processors")
    names = ["jwt", "uvicorn.lifespan.on", "uvicorn.protocols.http.auto"]
    if "DATABASE_URL" in os.environ:  # import late: psycopg is optional
        names += ["minutehand.queue.direct", "minutehand.queue.connection_probe"]
    else:
        names += ["httpcore", "anyio._backends._asyncio"]
        names += ["minutehand.functions.worker.realtime_wakeups"]
        trusted()
    for name in names:
        import_module(name)
    auto_loop_factory()  # imports uvloop
    for model in (LeaseRequest, LeaseResponse, RunEnd, SettleResponse):
        model.model_rebuild()


@asynccontextmanager
async def run_worker(
    *,
    poll_seconds: float | None = None,
    tick_per_request: bool = False,
    on_error: OnError | None = None,
    stop_seconds: float = 8.0,
) -> AsyncIterator[Running]:
    """Run the worker's loop until the context ends.

    Args:
        poll_seconds: Poll interval. A `poll_seconds` of None selects the interval that suits the
            connection. If `poll_seconds` is None and Postgres sends no notifications, the worker
            uses Realtime.
        tick_per_request: True if a request runs a tick and returns the tick's summary, and false if
            a request wakes the worker's loop.
        on_error: Function that is called for each module of processors that fails to load.
        stop_seconds: Maximum seconds to release running jobs when the context ends.
    """
    settings = Settings.from_env(os.environ)
    configure_logging(settings.log_level)
    access = await find_database_access(settings)
    access.log()
    wakeups = asyncio.Event()
    should_listen = SUSPECTS_ONLY not in settings.environ
    realtime = None
    if should_listen and poll_seconds is None and not access.is_notified:
        # import Realtime's client only if needed, because the import takes 0.2 s
        from minutehand.functions.worker.realtime_wakeups import RealtimeWakeups

        realtime = RealtimeWakeups(settings, wakeups.set)
    telemetry.start(settings.environ, version=settings.version)
    queue = WorkerQueue(settings, api=access.api(settings))
    registry = (
        load_processors(settings, on_error=on_error)
        if on_error
        else await load_or_report(settings, queue)
    )
    worker = build_worker(settings, registry, queue, realtime=realtime)
    run = worker.run_forever(wakeups, poll_seconds=poll_seconds or access.poll_seconds)
    loop = asyncio.create_task(run, name="loop")
    end_process_with(loop)
    listening = None
    if realtime is not None:
        listening = asyncio.create_task(realtime.run(worker.registry), name="realtime")
    elif should_listen:
        listening = access.listen(wakeups.set)
    try:
        wake = None if tick_per_request else wakeups.set
        yield Running(WorkerRoutes(settings, worker, wake=wake), wakeups.set, loop)
    finally:
        worker.stop()
        _, unfinished = await asyncio.wait({loop}, timeout=stop_seconds)
        await end_tasks([*unfinished, *([listening] if listening else [])])
        await worker.aclose()


def build_worker(
    settings: Settings,
    registry: Registry,
    queue: WorkerQueue,
    *,
    realtime: RealtimeWakeups | None = None,
) -> Worker:
    """Build a worker for a process that runs nothing else.

    Args:
        realtime: Client of Realtime, which subscribes to the topic that each lease response names.
    """
    pipe = settings.environ.get(PIPE)
    suspects = True if settings.environ.get(SUSPECTS_ONLY) else False if pipe else None

    def on_response(response: LeaseResponse) -> None:
        if realtime is not None:
            realtime.follow(response.wake_topic)
        # a process for suspects notifies the host only if it has leased a suspect, because
        # otherwise limits may block all suspects, and another process would lease none either
        if response.suspects and pipe and (response.leases or not suspects):
            # if the pipe is full, the host will read earlier notifications, so the new notification
            # is not needed
            with contextlib.suppress(BlockingIOError):
                os.write(int(pipe), b".")

    is_listening = True if realtime else None
    options = TickOptions.of(settings, ends_blocked=True, suspects=suspects, listens=is_listening)
    return Worker(
        settings, registry=registry, options=options, queue=queue, on_response=on_response
    )


def end_process_with(task: asyncio.Task[None]) -> None:
    """End the process if `task` raises an error, so that the host starts another process."""

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.critical(
                "The worker ends after an unexpected error",
                exc_info=error,
                extra={"event": "worker.broken", "task": task.get_name()},
            )
            logging.shutdown()
            os._exit(FAILED)  # exit without a clean-up, because the jobs were already released

    task.add_done_callback(ended)


async def body_of(request: requests.Request) -> bytes:
    """Read the body of a request, but stop as soon as the body is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    return body


def build_app(start: Start) -> Starlette:
    """Build the ASGI app of a worker, which runs during the lifespan of the app."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with start() as running:
            app.state.running = running
            yield

    async def handle(request: requests.Request) -> Response:
        running: Running = request.app.state.running
        if request.scope["path"] == WAKE_PATH:
            running.wake()
            return Response(status_code=204)
        incoming = Request(
            method=request.method,
            path=request.scope["path"],
            headers=dict(request.headers),
            body=await body_of(request),
            request_id=request.headers.get("x-request-id") or uuid.uuid4().hex,
        )
        with request_context(incoming.request_id):
            reply = await running.routes.handle(incoming)
        return Response(
            reply.encoded(), reply.status, dict(reply.headers), media_type="application/json"
        )

    return Starlette(routes=[Route("/{path:path}", handle, methods=_METHODS)], lifespan=lifespan)
