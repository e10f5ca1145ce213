"""The worker as a process of its own beside its host, which starts it again when it ends.

A processor that blocks or kills its process takes neither the API nor the console with it; its jobs
are given back as soon as the host has said so to the queue. The two speak HTTP over a Unix socket.
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
from minutehand.functions.worker.app import WAKE_PATH, Start, body_of, build_app
from minutehand.functions.worker.exit_report import LastProcess
from minutehand.functions.worker.host_channel import PIPE, SUSPECTS_ONLY
from minutehand.tasks import end_tasks
from minutehand.worker.loop import collect_seldom, run_to_end

logger = logging.getLogger(__name__)

#: The variable by which the host names the socket.
SOCKET: Final = "WORKER_SOCKET"
#: A request is tried so often, for 8 s, until a worker listens, and waits so long for its answer.
CONNECT_RETRIES: Final = 5
ANSWER_SECONDS: Final = 40.0
#: Until a worker that failed to start is started again, doubled each time.
RESTART_SECONDS: Final = 0.5
MOST_RESTART_SECONDS: Final = 30.0
#: Max processes for suspects next to the usual one. Each runs half of a company.
SUSPECT_PROCESSES: Final = 4
#: Headers that are passed on.
_ASKED: Final = frozenset({"authorization", "content-type", "x-request-id"})
_RETURNED: Final = frozenset({"content-type", "allow", "www-authenticate", "retry-after"})


class WorkerProcess:
    """Keeps `python -m module` running; an ASGI app that forwards, and the waker of the API.

    Args:
        module: Calls `serve_worker`.
        environ: The process's environment.
    """

    def __init__(self, module: str, environ: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="minutehand-worker-")
        self._socket = Path(self._folder.name) / "socket"
        self._command = (sys.executable, "-m", module)
        self._environ = environ
        self._http = httpx.AsyncClient(
            # a worker that is starting listens within some seconds
            transport=httpx.AsyncHTTPTransport(uds=str(self._socket), retries=CONNECT_RETRIES),
            base_url="http://worker",
            timeout=ANSWER_SECONDS,
        )
        self._processes: set[asyncio.subprocess.Process] = set()
        self._task: asyncio.Task[None] | None = None
        #: Processes for suspects, by their number.
        self._suspects: dict[int, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Start the worker, and keep one running from now on."""
        self._task = asyncio.create_task(self._keep(), name="worker-process")

    async def aclose(self, *, timeout_seconds: float) -> None:
        """End the worker: it releases what runs; what it does not manage is killed."""
        if self._task is not None:
            await end_tasks([self._task, *self._suspects.values()])
        running = [each for each in self._processes if each.returncode is None]
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
        """Ask for a run now; `reason` is for logs on AWS. A worker that starts looks by itself."""
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(2.0):
                await self._http.post(WAKE_PATH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the worker answer one request."""
        request = Request(scope, receive)
        asked = self._http.build_request(
            request.method,
            scope["path"],  # `request.url` would be made of the caller's Host
            # as bytes: the worker refuses what is no text, and not all could be encoded again
            headers=[each for each in request.headers.raw if each[0].decode("latin-1") in _ASKED],
            content=await body_of(request),
        )
        answer: Response
        try:
            reply = await self._http.send(asked)
            answer = Response(reply.content, reply.status_code, _returned(reply.headers))
        except httpx.HTTPError as error:
            logger.warning(
                "The worker did not answer",
                extra={"event": "worker.silent", "error": type(error).__name__},
            )
            text = "The worker is starting; try again"
            request_id = request.headers.get("x-request-id")
            away = error_body("worker_unavailable", text, request_id=request_id)
            answer = JSONResponse(away, 503, {"Retry-After": "2"})
        await answer(scope, receive, send)

    async def _keep(self) -> None:
        read, write = os.pipe()
        for end in (read, write):
            os.set_blocking(end, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(read, self._read_suspects, read)
        variables = {SOCKET: str(self._socket), PIPE: str(write)}
        try:
            await self._restart(variables, "at_work", until_done=False, pass_fds=(write,))
        finally:
            loop.remove_reader(read)
            os.close(read)
            os.close(write)

    def _read_suspects(self, pipe: int) -> None:
        self._start_for_suspects(max(os.read(pipe, 4096), default=0))

    def _start_for_suspects(self, companies: int) -> None:
        """Run that many processes for suspects, each until it finds none."""
        self._suspects = {n: task for n, task in self._suspects.items() if not task.done()}
        for number in range(min(companies, SUSPECT_PROCESSES)):
            if number not in self._suspects:
                run = self._restart(
                    {SUSPECTS_ONLY: "1"}, f"suspects-{number}", until_done=True, pass_fds=()
                )
                self._suspects[number] = asyncio.create_task(run, name="suspects-process")

    async def _restart(
        self, variables: Mapping[str, str], name: str, *, until_done: bool, pass_fds: Sequence[int]
    ) -> None:
        """Run a worker's process, and start it again when it has ended.

        Args:
            name: Of the file that keeps what the process is at.
            until_done: Return when the process ends by itself, without an error.
        """
        last = LastProcess(Path(self._folder.name) / name, self._environ)
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
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
            if until_done and not code:
                return
            ran = asyncio.get_running_loop().time() - began
            evidence = last.ended(code)
            if code:
                logger.error(
                    "The worker has ended; another one is started",
                    extra={"event": "worker.died", "ran_seconds": round(ran), **evidence},
                )
                await last.report(evidence)
            # each death with company halves the suspects, so the next process need not wait
            is_alone = evidence.get("running", 0) <= 1
            failures = failures + 1 if code and ran < MOST_RESTART_SECONDS and is_alone else 0
            if failures:
                await asyncio.sleep(min(RESTART_SECONDS * 2**failures, MOST_RESTART_SECONDS))
            if code and not is_alone:
                self._start_for_suspects(2)


def _returned(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name in _RETURNED}


def serve_worker(environ: Mapping[str, str], start: Start) -> int:
    """Run a worker until SIGTERM, or until its host has ended; for a `__main__`."""

    def end_with_host() -> None:
        # not through `sys.stdin`: its lock, held by a daemon thread, aborts the interpreter's end
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_host, daemon=True).start()
    collect_seldom()
    if environ.get(SUSPECTS_ONLY):
        run_to_end(asyncio.new_event_loop(), _run_suspects(start))
        return 0

    config = uvicorn.Config(
        build_app(start),
        uds=environ[SOCKET],
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    # no Runner: it would wait for what processors left behind and what does not stop
    loop = (config.get_loop_factory() or asyncio.new_event_loop)()
    run_to_end(loop, _Server(config).serve())
    return 0


async def _run_suspects(start: Start) -> None:
    """Run a worker for suspects until it finds none, or until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
    async with start() as running:
        running.loop.add_done_callback(lambda _: ended.set())
        await ended.wait()


class _Server(uvicorn.Server):
    """Ends by SIGTERM: the host ends us, while a Ctrl-C reaches the whole group."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in good order, so that jobs are released."""
        self.should_exit = self.should_exit or sig != signal.SIGINT
