"""The worker in a separate process, which the host restarts when it ends.

A processor that blocks or kills the worker process therefore stops neither the API nor the console.
The host reports the end of the process to the queue, which releases its jobs. The host and
the process communicate by HTTP over a Unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Final

import httpx
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from minutehand.error_body import error_body
from minutehand.functions.worker.app import (
    PIPE,
    SUSPECTS_ONLY,
    WAKE_PATH,
    Start,
    body_of,
    build_app,
)
from minutehand.functions.worker.exit_report import ExitReport, ExitReporter
from minutehand.functions.worker.fork_server import FORK_SERVER, ForkServer, serve_forks
from minutehand.queue.models import ReleasedJobs
from minutehand.tasks import end_tasks
from minutehand.worker.loop import run_until_done, tune_gc

logger = logging.getLogger(__name__)

#: Environment variable with the path of the worker's Unix socket.
SOCKET: Final = "WORKER_SOCKET"
#: Connection attempts of a request, over 8 s, and maximum seconds until its response.
CONNECT_RETRIES: Final = 5
RESPONSE_SECONDS: Final = 40.0
#: Pause before a worker that failed to start is restarted. The pause doubles up to the maximum.
RESTART_SECONDS: Final = 0.5
MAX_RESTART_SECONDS: Final = 30.0
#: Maximum processes for suspects beside the normal worker process, and number of groups into which
#: the suspects of a dead process are split. At most one of the four groups ends its process again,
#: so that processes remain to split this group.
MAX_SUSPECTS_PROCESSES: Final = 8
SUSPECTS_PARTS: Final = 4
#: Minimum interval between processes for suspects that the worker has found. The interval doubles
#: up to MAX_RESTART_SECONDS each time a process leases no suspects.
SUSPECTS_SECONDS: Final = 1.0
#: Headers that are forwarded to the worker, and headers of its response that are returned.
_REQUEST_HEADERS: Final = frozenset({"authorization", "content-type", "x-request-id"})
_RESPONSE_HEADERS: Final = frozenset({"content-type", "allow", "www-authenticate", "retry-after"})


class WorkerProcess:
    """Keeps `python -m module` running, forwards requests to it, and wakes it for the API.

    Args:
        module: A module that calls `serve_worker`.
        environ: Environment variables of the worker process.
    """

    def __init__(self, module: str, environ: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="minutehand-worker-")
        self._socket = Path(self._folder.name) / "socket"
        self._environ = environ
        self._http = httpx.AsyncClient(
            # connect with retries, because a new worker listens only after some seconds
            transport=httpx.AsyncHTTPTransport(uds=str(self._socket), retries=CONNECT_RETRIES),
            base_url="http://worker",
            timeout=RESPONSE_SECONDS,
        )
        #: The worker writes to this pipe when it has found suspects.
        self._pipe, self._pipe_end = os.pipe()
        os.set_blocking(self._pipe_end, False)
        self._forks = ForkServer(
            (sys.executable, "-m", module), environ, pass_fds=(self._pipe_end,)
        )
        #: Processes for suspects, and the pause before the next process for newly found suspects.
        self._suspects: dict[asyncio.Task[None], ExitReport] = {}
        self._suspects_seconds = SUSPECTS_SECONDS
        self._numbers = itertools.count()
        self._exit_reporter = ExitReporter(environ)
        #: Set when the worker has found suspects.
        self._found = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the worker process, and restart it whenever it ends."""
        asyncio.get_running_loop().add_reader(self._pipe, self._read_pipe)
        self._tasks = [
            asyncio.create_task(self._keep(), name="worker-process"),
            asyncio.create_task(self._find_suspects(), name="suspects"),
        ]

    async def aclose(self, *, timeout_seconds: float) -> None:
        """End the worker process, which releases its running jobs.

        Kill the process after the time-out.
        """
        asyncio.get_running_loop().remove_reader(self._pipe)
        await end_tasks([*self._tasks, *self._suspects])
        await self._forks.aclose(timeout_seconds=timeout_seconds)
        os.close(self._pipe)
        os.close(self._pipe_end)
        await self._http.aclose()
        self._folder.cleanup()

    async def wake(self) -> None:
        """Make the worker lease jobs now. A worker that is starting leases jobs anyway."""
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(2.0):
                await self._http.post(WAKE_PATH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request to the worker."""
        request = Request(scope, receive)
        forwarded = self._http.build_request(
            request.method,
            scope["path"],  # `request.url` contains the caller's Host header
            # pass headers as bytes, because not every header can be decoded and encoded again
            headers=[
                header
                for header in request.headers.raw
                if header[0].decode("latin-1") in _REQUEST_HEADERS
            ],
            content=await body_of(request),
        )
        response: Response
        try:
            forwarded_response = await self._http.send(forwarded)
            headers = {
                name: forwarded_response.headers[name]
                for name in _RESPONSE_HEADERS & {*forwarded_response.headers}
            }
            response = Response(forwarded_response.content, forwarded_response.status_code, headers)
        except httpx.HTTPError as error:
            logger.warning(
                "The worker did not respond",
                extra={"event": "worker.silent", "error": type(error).__name__},
            )
            text = "The worker is starting; try again"
            request_id = request.headers.get("x-request-id")
            body = error_body("worker_unavailable", text, request_id=request_id)
            response = JSONResponse(body, 503, {"Retry-After": "2"})
        await response(scope, receive, send)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        variables = {SOCKET: str(self._socket), PIPE: str(self._pipe_end)}
        failures = 0
        while True:
            started = loop.time()
            with self._next_report() as report:
                result = await self._run(report, variables)
            if result is None:  # end the fork server, because the code may be new
                await self._forks.aclose(timeout_seconds=RESPONSE_SECONDS)
                continue
            # no pause if the death reduced the suspects or counted as an attempt
            has_jobs = result.guilty or result.suspects
            failures = (
                0 if has_jobs or loop.time() > started + MAX_RESTART_SECONDS else failures + 1
            )
            if failures:
                await asyncio.sleep(min(RESTART_SECONDS * 2**failures, MAX_RESTART_SECONDS))

    def _read_pipe(self) -> None:
        os.read(self._pipe, 4096)
        self._found.set()

    async def _find_suspects(self) -> None:
        """Start a process for suspects when the worker finds some, even without a recent death."""
        while True:
            await self._found.wait()
            await asyncio.sleep(self._suspects_seconds)
            self._found.clear()
            # a process that has leased no suspect shows that a limit blocks all of them
            if all(report.has_leased() for report in self._suspects.values()):
                self._start_for_suspects(1)

    def _start_for_suspects(self, companies: int) -> None:
        """Start a process for each group of suspects. Each process ends when no suspects wait."""
        for _ in range(min(companies, MAX_SUSPECTS_PROCESSES - len(self._suspects))):
            report = self._next_report()
            task = asyncio.create_task(self._run_suspects(report), name="suspects-process")
            self._suspects[task] = report
            task.add_done_callback(self._suspects.pop)

    def _next_report(self) -> ExitReport:
        return ExitReport(Path(self._folder.name) / str(next(self._numbers)), self._environ)

    async def _run_suspects(self, report: ExitReport) -> None:
        with report:
            result = await self._run(report, {SUSPECTS_ONLY: "1"})
            if report.has_leased():
                self._suspects_seconds = SUSPECTS_SECONDS
            else:
                self._suspects_seconds = min(2 * self._suspects_seconds, MAX_RESTART_SECONDS)
        if result is not None and result.guilty:
            await self.wake()  # wake the worker, so that it plans the guilty job's retry

    async def _run(self, report: ExitReport, variables: Mapping[str, str]) -> ReleasedJobs | None:
        """Run a process until it ends.

        Report the process's death, or return None if it ended normally.
        """
        started = asyncio.get_running_loop().time()
        try:
            access = self._exit_reporter.access.variables
            code = await self._forks.run({**report.variables, **access, **variables})
            if code == 0:
                return None
            # if the fork server has ended, its processes release their jobs themselves
            details = {} if code is None else report.read(code)
            companies = {"companies": SUSPECTS_PARTS}
            result = await self._exit_reporter.report(report.worker_id, {**details, **companies})
            ran = round(asyncio.get_running_loop().time() - started)
            extra = {"ran_seconds": ran, **details, "guilty": result.guilty}
            logger.error(
                "The worker's process has ended and is restarted",
                extra={"event": "worker.died", **extra},
            )
            self._start_for_suspects(result.suspects)
            return result
        finally:
            if not self._suspects.keys() - {asyncio.current_task()}:
                await self._exit_reporter.aclose()


def serve_worker(environ: Mapping[str, str], start: Start, load: Callable[[], object]) -> int:
    """Run a worker until SIGTERM or until its host ends. Call this function in a `__main__`.

    Args:
        load: Imports the modules that the worker processes share.
    """
    if FORK_SERVER in environ:
        serve_forks(load)

    def end_with_host() -> None:
        # do not use `sys.stdin`, because a daemon thread with its lock makes Python's exit fail
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_host, daemon=True).start()
    tune_gc()
    if environ.get(SUSPECTS_ONLY):
        run_until_done(asyncio.new_event_loop(), _run_suspects(start))
        return 0

    config = uvicorn.Config(
        build_app(start),
        uds=environ[SOCKET],
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    # do not use asyncio.Runner, which would wait for tasks and threads of processors
    loop = (config.get_loop_factory() or asyncio.new_event_loop)()
    run_until_done(loop, _Server(config).serve())
    return 0


async def _run_suspects(start: Start) -> None:
    """Run a worker for suspects until no suspects wait, or until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
    async with start() as running:
        running.loop.add_done_callback(lambda _: ended.set())
        await ended.wait()


class _Server(uvicorn.Server):
    """Ignores Ctrl-C, which also reaches the host. The host then ends this process."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down gracefully, so that jobs are released."""
        self.should_exit = self.should_exit or sig != signal.SIGINT
