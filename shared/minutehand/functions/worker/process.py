"""The worker as a separate process, which its host restarts when it ends.

So a processor that blocks or kills its process stops neither the API nor the console. Its jobs are
released as soon as the host has reported the end to the queue. Host and process use HTTP over a
Unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
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
from minutehand.functions.worker.exit_report import ExitReport
from minutehand.tasks import end_tasks
from minutehand.worker.loop import run_until_done, tune_gc

logger = logging.getLogger(__name__)

#: Environment variable with the path of the socket.
SOCKET: Final = "WORKER_SOCKET"
#: Connection attempts of a request, over 8 s, and the seconds until its response.
CONNECT_RETRIES: Final = 5
RESPONSE_SECONDS: Final = 40.0
#: Wait before a worker that failed to start is restarted, doubled each time up to the maximum.
RESTART_SECONDS: Final = 0.5
MAX_RESTART_SECONDS: Final = 30.0
#: Max processes for suspects next to the usual one.
SUSPECT_PROCESSES: Final = 4
#: Headers that are forwarded to the worker and back.
_REQUEST_HEADERS: Final = frozenset({"authorization", "content-type", "x-request-id"})
_RESPONSE_HEADERS: Final = frozenset({"content-type", "allow", "www-authenticate", "retry-after"})


class WorkerProcess:
    """Keeps `python -m module` running. It is an ASGI app that forwards, and the API's waker.

    Args:
        module: A module that calls `serve_worker`.
        environ: Environment of the process.
    """

    def __init__(self, module: str, environ: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="minutehand-worker-")
        self._socket = Path(self._folder.name) / "socket"
        self._command = (sys.executable, "-m", module)
        self._environ = environ
        self._http = httpx.AsyncClient(
            # with retries, because a new worker listens only after some seconds
            transport=httpx.AsyncHTTPTransport(uds=str(self._socket), retries=CONNECT_RETRIES),
            base_url="http://worker",
            timeout=RESPONSE_SECONDS,
        )
        self._processes: set[asyncio.subprocess.Process] = set()
        self._task: asyncio.Task[None] | None = None
        #: Processes for suspects, by their number.
        self._suspects: dict[int, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Start the worker, and restart it whenever it ends."""
        self._task = asyncio.create_task(self._keep(), name="worker-process")

    async def aclose(self, *, timeout_seconds: float) -> None:
        """End the worker, which releases its running jobs, and kill it after the time-out."""
        if self._task is not None:
            await end_tasks([self._task, *self._suspects.values()])
        running = [process for process in self._processes if process.returncode is None]
        for process in running:
            process.terminate()
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.gather(*[process.wait() for process in running])
        except TimeoutError:
            for process in running:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        await self._http.aclose()
        self._folder.cleanup()

    async def wake(self, *, reason: str = "enqueue") -> None:
        """Make the worker lease now. A worker that is starting does so anyway.

        Args:
            reason: Unused here. Other hosts log it.
        """
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(2.0):
                await self._http.post(WAKE_PATH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request to the worker."""
        request = Request(scope, receive)
        forwarded = self._http.build_request(
            request.method,
            scope["path"],  # `request.url` would contain the caller's Host
            # as bytes, because not every header can be decoded and encoded again
            headers=[
                header
                for header in request.headers.raw
                if header[0].decode("latin-1") in _REQUEST_HEADERS
            ],
            content=await body_of(request),
        )
        response: Response
        try:
            reply = await self._http.send(forwarded)
            response = Response(reply.content, reply.status_code, _returned(reply.headers))
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
        read, write = os.pipe()
        for end in (read, write):
            os.set_blocking(end, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(read, self._read_suspects, read)
        variables = {SOCKET: str(self._socket), PIPE: str(write)}
        try:
            while True:
                await self._restart(variables, "at_work", pass_fds=(write,))
        finally:
            loop.remove_reader(read)
            os.close(read)
            os.close(write)

    def _read_suspects(self, pipe: int) -> None:
        self._start_for_suspects(max(os.read(pipe, 4096), default=0))

    def _start_for_suspects(self, companies: int) -> None:
        """Run a process for each company of suspects, until there are no more suspects."""
        self._suspects = {n: task for n, task in self._suspects.items() if not task.done()}
        for number in range(min(companies, SUSPECT_PROCESSES)):
            if number not in self._suspects:
                run = self._restart({SUSPECTS_ONLY: "1"}, f"suspects-{number}")
                self._suspects[number] = asyncio.create_task(run, name="suspects-process")

    async def _restart(
        self, variables: Mapping[str, str], name: str, *, pass_fds: Sequence[int] = ()
    ) -> None:
        """Run a worker's process, and restart it until it ends without an error.

        Args:
            name: Name of the file in which the process records its jobs.
        """
        last = ExitReport(Path(self._folder.name) / name, self._environ)
        failures = 0
        while True:
            started = asyncio.get_running_loop().time()
            last.clear()
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env={**self._environ, **last.variables, **variables},
                stdin=asyncio.subprocess.PIPE,
                pass_fds=pass_fds,
            )
            self._processes.add(process)
            code = await process.wait()
            self._processes.discard(process)
            if not code:
                return
            ran = asyncio.get_running_loop().time() - started
            evidence = last.read(code)
            death = await last.report(evidence)
            extra = {"ran_seconds": round(ran), **evidence, "guilty": death.guilty}
            logger.error(
                "The worker's process has ended and is restarted",
                extra={"event": "worker.died", **extra},
            )
            self._start_for_suspects(death.suspects)
            # suspects need not wait, because each further death halves them
            is_halved = death.suspects and not death.guilty
            failures = 0 if is_halved or ran >= MAX_RESTART_SECONDS else failures + 1
            if failures:
                await asyncio.sleep(min(RESTART_SECONDS * 2**failures, MAX_RESTART_SECONDS))


def _returned(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name in _RESPONSE_HEADERS}


def serve_worker(environ: Mapping[str, str], start: Start) -> int:
    """Run a worker until SIGTERM or the end of its host. To be called by a `__main__`."""

    def end_with_host() -> None:
        # not through `sys.stdin`, because a daemon thread with its lock makes Python's exit fail
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
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    # not asyncio.Runner, which would wait for tasks and threads that processors left behind
    loop = (config.get_loop_factory() or asyncio.new_event_loop)()
    run_until_done(loop, _Server(config).serve())
    return 0


async def _run_suspects(start: Start) -> None:
    """Run a worker for suspects until there are none, or until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
    async with start() as running:
        running.loop.add_done_callback(lambda _: ended.set())
        await ended.wait()


class _Server(uvicorn.Server):
    """Ends on SIGTERM only. Ctrl-C reaches the whole process group, and the host then ends us."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down gracefully, so that jobs are released."""
        self.should_exit = self.should_exit or sig != signal.SIGINT
