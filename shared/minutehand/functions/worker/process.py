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
from collections.abc import Mapping
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
from minutehand.functions.worker.last_process import LastProcess
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
        self._last = LastProcess(Path(self._folder.name) / "at_work", environ)
        self._environ = {**environ, **self._last.variables, SOCKET: str(self._socket)}
        self._http = httpx.AsyncClient(
            # a worker that is starting listens within some seconds
            transport=httpx.AsyncHTTPTransport(uds=str(self._socket), retries=CONNECT_RETRIES),
            base_url="http://worker",
            timeout=ANSWER_SECONDS,
        )
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the worker, and keep one running from now on."""
        self._task = asyncio.create_task(self._keep(), name="worker-process")

    async def aclose(self, *, timeout_seconds: float) -> None:
        """End the worker: it releases what runs; what it does not manage is killed."""
        if self._task is not None:
            await end_tasks([self._task])
        if (process := self._process) is not None and process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(timeout_seconds):
                    await process.wait()
            except TimeoutError:
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
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            self._last.clear()
            self._process = await asyncio.create_subprocess_exec(
                *self._command, env=self._environ, stdin=asyncio.subprocess.PIPE
            )
            code = await self._process.wait()
            ran = asyncio.get_running_loop().time() - began
            if code:
                evidence = self._last.ended(code)
                logger.error(
                    "The worker has ended; another one is started",
                    extra={"event": "worker.died", "ran_seconds": round(ran), **evidence},
                )
                await self._last.report(evidence)
            failures = failures + 1 if code and ran < MOST_RESTART_SECONDS else 0
            if failures:
                await asyncio.sleep(min(RESTART_SECONDS * 2**failures, MOST_RESTART_SECONDS))


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


class _Server(uvicorn.Server):
    """Ends by SIGTERM: the host ends us, while a Ctrl-C reaches the whole group."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in good order, so that jobs are released."""
        self.should_exit = self.should_exit or sig != signal.SIGINT
