"""The worker in a separate process, which the host restarts when the process ends.

A processor that blocks or kills the worker process stops neither the API nor the console. The host
reports the end of the worker process to the queue, which releases the process's jobs. The host and
the process communicate by HTTP over a Unix socket.
"""

import asyncio
import atexit
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
from typing import Any, NoReturn

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
from minutehand.worker.alarm import CRASH_RECORD, ENDED
from minutehand.worker.loop import run_until_done, tune_gc

logger = logging.getLogger(__name__)

#: Environment variable with the path of the worker's Unix socket.
SOCKET = "WORKER_SOCKET"
#: Maximum connection attempts for a forwarded request, which take up to 8 s, and maximum seconds
#: until the worker's response.
CONNECT_RETRIES = 5
RESPONSE_SECONDS = 40.0
#: Seconds before a worker process that failed to start is restarted. The pause doubles each time,
#: up to the maximum.
RESTART_SECONDS = 0.5
#: Maximum seconds to report processes that died while the host stopped.
REPORT_SECONDS = 2.0
MAX_RESTART_SECONDS = 30.0
#: MAX_SUSPECTS_PROCESSES is the maximum number of processes that run suspects beside the normal
#: worker process. If an ended process had more suspects than there are free processes, the suspects
#: are split into SUSPECTS_PARTS groups. Only one job ended the process, so that at most one group
#: ends its process again. When the processes of the other groups have finished, this one group can
#: be split. If the evidence contains the job whose code ran when the process ended, this job
#: probably ended the process and gets its own group, so that the others are split into
#: MIN_SUSPECTS_PARTS groups.
MAX_SUSPECTS_PROCESSES = 12
SUSPECTS_PARTS = 4
MIN_SUSPECTS_PARTS = 2
#: Minimum seconds between processes for suspects that the worker has found. The interval doubles
#: with each process, up to MAX_RESTART_SECONDS, until a process leases suspects.
SUSPECTS_SECONDS = 1.0
#: Headers of a request that are forwarded to the worker, and headers of the worker's response that
#: are returned.
_REQUEST_HEADERS = frozenset({b"authorization", b"content-type", b"x-request-id"})
_RESPONSE_HEADERS = frozenset({"content-type", "allow", "www-authenticate", "retry-after"})


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
            # retry connections, because a new worker process listens only after some seconds
            transport=httpx.AsyncHTTPTransport(uds=str(self._socket), retries=CONNECT_RETRIES),
            base_url="http://worker",
            timeout=RESPONSE_SECONDS,
        )
        #: Pipe to which the worker process writes when it has found suspects.
        self._pipe, self._pipe_end = os.pipe()
        os.set_blocking(self._pipe_end, False)
        self._forks = ForkServer(
            (sys.executable, "-m", module), environ, pass_fds=(self._pipe_end,)
        )
        #: Running processes for suspects, the newest process for suspects, and seconds before the
        #: next process for newly found suspects.
        self._suspects: dict[asyncio.Task[None], ExitReport] = {}
        self._newest: ExitReport | None = None
        self._suspects_seconds = SUSPECTS_SECONDS
        self._numbers = itertools.count()
        self._exit_reporter = ExitReporter(environ)
        #: Event that is set when the worker has found jobs that are suspected of killing their
        #: process.
        self._found = asyncio.Event()
        self._is_stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the worker process, and restart it each time it ends."""
        asyncio.get_running_loop().add_reader(self._pipe, self._read_pipe)
        self._tasks = [
            asyncio.create_task(self._keep(), name="worker-process"),
            asyncio.create_task(self._find_suspects(), name="suspects"),
            # probe now, because a later probe would delay the first report of an ended process
            asyncio.create_task(self._exit_reporter.probe(), name="probe"),
        ]

    async def aclose(self, *, timeout_seconds: float) -> None:
        """End the worker process, which releases its running jobs.

        The process is killed if it still runs after the timeout.
        """
        asyncio.get_running_loop().remove_reader(self._pipe)
        self._is_stopping = True
        await self._forks.aclose(timeout_seconds=timeout_seconds)
        if self._tasks:  # jobs of an unreported process would wait until their leases expire
            await asyncio.wait([self._tasks[0], *self._suspects], timeout=REPORT_SECONDS)
        await end_tasks([*self._tasks, *self._suspects])
        await self._exit_reporter.aclose()
        os.close(self._pipe)
        os.close(self._pipe_end)
        await self._http.aclose()
        self._folder.cleanup()

    async def wake(self) -> None:
        """Make the worker lease jobs now.

        A worker that is starting leases jobs without a call of `wake`.
        """
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(2.0):
                await self._http.post(WAKE_PATH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request to the worker."""
        request = Request(scope, receive)
        forwarded = self._http.build_request(
            request.method,
            scope["path"],  # do not use `request.url`, which contains the caller's Host header
            # pass header values as bytes, because not every value can be decoded and encoded again
            headers=[header for header in request.headers.raw if header[0] in _REQUEST_HEADERS],
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
        variables = {SOCKET: str(self._socket)}
        failures = 0
        while not self._is_stopping:
            started = loop.time()
            with self._next_report() as report:
                result = await self._run(report, variables)
            if result is None:  # end the fork server, because the code on disk may have changed
                await self._forks.aclose(timeout_seconds=RESPONSE_SECONDS)
                continue
            # restart without a pause if the end of the process identified suspects or a guilty job
            if result.guilty or result.suspects or loop.time() > started + MAX_RESTART_SECONDS:
                failures = 0
            else:
                failures += 1
            if failures and not self._is_stopping:
                await asyncio.sleep(min(RESTART_SECONDS * 2**failures, MAX_RESTART_SECONDS))

    def _read_pipe(self) -> None:
        os.read(self._pipe, 4096)
        self._found.set()

    async def _find_suspects(self) -> None:
        """Start a process for suspects when the worker finds suspects, also long after a crash."""
        while True:
            await self._found.wait()
            await asyncio.sleep(self._suspects_seconds)
            # start no process while another one has leased no suspect, because that process may
            # still lease one, or a limit blocks all suspects
            if all(report.has_leased() for report in self._suspects.values()):
                self._found.clear()
                # use the minimum pause if the newest process has leased suspects and still runs,
                # because the next process may also lease some
                is_leasing = self._newest in self._suspects.values()
                pause = SUSPECTS_SECONDS if is_leasing else 2 * self._suspects_seconds
                self._suspects_seconds = min(pause, MAX_RESTART_SECONDS)
                self._start_for_suspects(1)

    def _start_for_suspects(self, companies: int) -> None:
        """Start a process for each group of suspects. A process ends when no suspect waits."""
        for _ in range(min(companies, self._free_processes())):
            self._newest = report = self._next_report()
            task = asyncio.create_task(self._run_suspects(report), name="suspects-process")
            self._suspects[task] = report
            task.add_done_callback(self._suspects.pop)

    def _free_processes(self) -> int:
        """Return how many more processes for suspects may start.

        A process that has ended in the current task does not count.
        """
        return MAX_SUSPECTS_PROCESSES - len(self._suspects.keys() - {asyncio.current_task()})

    def _count_companies(self, details: Mapping[str, Any]) -> int:
        """Return the number of groups into which the suspects of an ended process are split."""
        if "current_job" in details:
            return MIN_SUSPECTS_PARTS
        free = self._free_processes()
        return free if len(details.get("jobs", ())) <= free else SUSPECTS_PARTS

    def _next_report(self) -> ExitReport:
        return ExitReport(Path(self._folder.name) / str(next(self._numbers)), self._environ)

    async def _run_suspects(self, report: ExitReport) -> None:
        with report:
            result = await self._run(report, {SUSPECTS_ONLY: "1"})
            if report.has_leased():
                self._suspects_seconds = SUSPECTS_SECONDS
        if result and result.guilty:
            await self.wake()  # the woken worker schedules the retry of the guilty job

    async def _run(self, report: ExitReport, variables: Mapping[str, str]) -> ReleasedJobs | None:
        """Run a process until it ends.

        Report an unexpected end to the queue. Return None if the process ended normally.
        """
        if self._is_stopping:
            return None
        started = asyncio.get_running_loop().time()
        try:
            variables = {
                **report.variables,
                **self._exit_reporter.access.variables,
                **variables,
                PIPE: str(self._pipe_end),
            }
            code = await self._forks.run(variables)
            if code == 0 and report.has_ended_normally():
                return None
            # if the fork server has ended, its worker processes release their jobs themselves
            details = {} if code is None else report.read(code)
            evidence = {**details, "companies": self._count_companies(details)}
            if "stopped" in details or (self._is_stopping and code == -signal.SIGKILL):
                # no job is guilty, because the host kills processes that do not stop in time, or
                # that someone else stopped by SIGSTOP
                evidence = {"stopped": True, "signal": details["signal"]}
            result = await self._exit_reporter.report(report.worker_id, evidence)
            ran = round(asyncio.get_running_loop().time() - started)
            extra = {"event": "worker.died", "ran_seconds": ran, **details, "guilty": result.guilty}
            logger.error("The worker's process has ended and is restarted", extra=extra)
            self._start_for_suspects(result.suspects)
            return result
        finally:
            if not self._suspects.keys() - {asyncio.current_task()}:
                await self._exit_reporter.aclose()


def serve_worker(environ: Mapping[str, str], start: Start, load: Callable[[], object]) -> NoReturn:
    """Run a worker until SIGTERM or until its host ends. A `__main__` module calls `serve_worker`.

    Args:
        load: Function that imports the modules that worker processes share.
    """
    if FORK_SERVER in environ:
        serve_forks(load)

    def end_with_host() -> None:
        # do not read `sys.stdin`, because Python's exit fails if a daemon thread has locked it
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_host, daemon=True).start()
    tune_gc()
    if environ.get(SUSPECTS_ONLY):
        run_until_done(asyncio.new_event_loop(), _run_suspects(start))
        _end_process()

    config = uvicorn.Config(
        build_app(start),
        uds=environ[SOCKET],
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    # do not use asyncio.Runner, because it would wait for the tasks and threads of processors
    loop = (config.get_loop_factory() or asyncio.new_event_loop)()
    run_until_done(loop, _Server(config).serve())
    _end_process()


def _end_process() -> NoReturn:
    """End this process normally, without Python's finalization, which takes longer than the start.

    The finalization would change the memory that forked processes share, so that Linux copies it.
    """
    atexit._run_exitfuncs()
    if path := os.environ.get(CRASH_RECORD):
        Path(f"{path}{ENDED}").touch()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def _run_suspects(start: Start) -> None:
    """Run a worker for suspects, which are jobs that may have ended a process.

    The worker ends when no suspect waits, or at SIGTERM.
    """
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
    async with start() as running:
        running.loop.add_done_callback(lambda _: ended.set())
        await ended.wait()


class _Server(uvicorn.Server):
    """Ignores Ctrl-C, because the host also receives Ctrl-C and then ends this process."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down without a forced exit, so that the worker releases its jobs."""
        self.should_exit |= sig != signal.SIGINT
