"""One execution environment: a process running awslambdaric, and the Runtime API it talks to.

It is frozen (SIGSTOP) whenever it waits for work and killed (SIGKILL) at the deadline, so neither
`finally` nor a background task can be relied on, exactly as on Lambda. Which environment serves an
invocation is the function's to choose.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from supabase_local.children import die_with_parent
from supabase_local.http import LOOPBACK, HttpServer, Request, Response
from supabase_local.lambda_runtime.invocation import Invocation, Outcome, failed

PREFIX = "/2018-06-01/runtime"
ACCEPTED = Response.of_json(202, {"status": "OK"})
#: Lambda's own is 10 s; a busy laptop is slower than Lambda, where the import budgets are enforced.
INIT_SECONDS = 60.0
TAIL_LINES = 64

LineSink = Callable[[str], None]


class State(StrEnum):
    """Where an environment is in its life."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    DEAD = "dead"


class InitFailed(Exception):
    """The runtime did not reach its first `next`; `payload` is the caller's answer."""

    def __init__(self, error: str, payload: bytes) -> None:
        self.error = error
        self.payload = payload
        super().__init__(f"{error}: {payload.decode('utf-8', 'replace')}")


class Environment:
    """A sandbox of one function; runs one invocation at a time."""

    def __init__(
        self,
        command: list[str],
        variables: Mapping[str, str],
        *,
        task_root: Path,
        arn: str,
        freeze: bool = True,
        sink: LineSink | None = None,
    ) -> None:
        self.state = State.STARTING
        self.served = 0
        self.idle_since = 0.0
        self._command = command
        self._variables = dict(variables)
        self._task_root = task_root
        self._arn = arn
        self._freeze = freeze
        self._sink = sink
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._api = HttpServer(self._runtime_api)
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] = _future()
        self._next: asyncio.Future[Response] | None = None
        self._current: Invocation | None = None
        self._result: asyncio.Future[Outcome] = _future()
        self._init_ms: float | None = None

    @property
    def pid(self) -> int | None:
        """The runtime's process id, also the id of its process group."""
        return None if self._process is None else self._process.pid

    async def start(self, *, init_seconds: float = INIT_SECONDS) -> None:
        """Spawn the runtime and wait until it asks for work.

        Raises:
            InitFailed: The handler could not be imported, the process ended, or time ran out.
        """
        began = time.monotonic()
        port = await self._api.start()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._variables | {"AWS_LAMBDA_RUNTIME_API": f"{LOOPBACK}:{port}"},
            cwd=self._task_root,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            process_group=0,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
        self._reader = asyncio.create_task(self._read_output())
        self._watch = asyncio.create_task(self._watch_exit())
        try:
            async with asyncio.timeout(init_seconds):
                await self._ready
        except TimeoutError as error:
            await self.kill()
            message = f"Init did not finish within {init_seconds:.0f} seconds"
            raise InitFailed(
                "Sandbox.Timedout", failed("init", "Sandbox.Timedout", message)
            ) from error
        except InitFailed:
            await self.kill()
            raise
        self._init_ms = (time.monotonic() - began) * 1000

    async def invoke(self, invocation: Invocation, *, timeout: float) -> Outcome:
        """Hand the event over and wait for its end; at `timeout` seconds the process is killed."""
        if self._next is None or self.state is not State.IDLE:
            raise RuntimeError(f"environment is {self.state}, not idle")
        self.state = State.BUSY
        self.served += 1
        self._current = invocation
        self._result = _future()
        self._tail.clear()
        began = time.monotonic()
        deadline_ms = int((time.time() + timeout) * 1000)
        pending, self._next = self._next, None
        self._signal(signal.SIGCONT)
        pending.set_result(self._event(invocation, deadline_ms))
        try:
            async with asyncio.timeout(timeout):
                outcome = await asyncio.shield(self._result)
        except TimeoutError:
            await self.kill()
            message = f"Task timed out after {timeout:.2f} seconds"
            payload = failed(invocation.request_id, "Sandbox.Timedout", message)
            outcome = Outcome(payload, error="Sandbox.Timedout")
        finished = Outcome(
            outcome.payload,
            outcome.error,
            duration_ms=(time.monotonic() - began) * 1000,
            init_ms=self._init_ms,
            log_tail=b"".join(self._tail)[-4096:],
        )
        self._init_ms = None  # reported once, as in AWS's REPORT line
        return finished

    async def settle(self, *, timeout: float) -> None:
        """Wait until the runtime asks for more work; what does not ask in time is killed."""
        waiter = self._ready
        try:
            async with asyncio.timeout(max(timeout, 0.05)):
                await asyncio.shield(waiter)
        except (TimeoutError, InitFailed):
            await self.kill()

    async def kill(self) -> None:
        """End the process and its children at once, and close its Runtime API."""
        self.state = State.DEAD
        self._signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()
        if self._watch is not None:
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._reader is not None:
            # a grandchild in a session of its own may hold the pipe open: do not wait for it
            done, _ = await asyncio.wait({self._reader}, timeout=0.5)
            if not done:
                self._reader.cancel()
        await self._api.stop()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def _runtime_api(self, request: Request) -> Response:
        path = request.path.removeprefix(PREFIX)
        if request.method == "GET" and path == "/invocation/next":
            return await self._await_next()
        if request.method == "POST" and path == "/init/error":
            error = request.header("lambda-runtime-function-error-type", "Runtime.Unknown")
            self._fail_init(InitFailed(error, request.body))
            return ACCEPTED
        current = self._current
        if request.method == "POST" and current is not None:
            if path == f"/invocation/{current.request_id}/response":
                return self._complete(Outcome(request.body))
            if path == f"/invocation/{current.request_id}/error":
                error = request.header("lambda-runtime-function-error-type", "Unhandled")
                return self._complete(Outcome(request.body, error=error))
        return Response.of_json(
            400, {"errorType": "InvalidRequestID", "errorMessage": f"no invocation at {path}"}
        )

    async def _await_next(self) -> Response:
        self._current = None
        self._next = _future()
        self.state = State.IDLE
        self.idle_since = time.monotonic()
        if not self._ready.done():
            self._ready.set_result(None)
        if self._freeze:
            self._signal(signal.SIGSTOP)
        return await self._next

    def _event(self, invocation: Invocation, deadline_ms: int) -> Response:
        self._ready = _future()
        headers = [
            ("content-type", "application/json"),
            ("lambda-runtime-aws-request-id", invocation.request_id),
            ("lambda-runtime-deadline-ms", str(deadline_ms)),
            ("lambda-runtime-invoked-function-arn", self._arn),
            ("lambda-runtime-trace-id", invocation.trace_id),
        ]
        if invocation.client_context is not None:
            headers.append(("lambda-runtime-client-context", invocation.client_context))
        return Response(200, invocation.payload, tuple(headers))

    def _complete(self, outcome: Outcome) -> Response:
        if not self._result.done():
            self._result.set_result(outcome)
        return ACCEPTED

    def _fail_init(self, error: InitFailed) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # read here, so that asyncio does not warn when no one waits

    async def _watch_exit(self) -> None:
        assert self._process is not None
        status = await self._process.wait()
        self.state = State.DEAD
        how = f"signal: {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        request_id = self._current.request_id if self._current is not None else "init"
        payload = failed(request_id, "Runtime.ExitError", f"Runtime exited with error: {how}")
        self._fail_init(InitFailed("Runtime.ExitError", payload))
        self._complete(Outcome(payload, error="Runtime.ExitError"))

    async def _read_output(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._read_line(self._process.stdout):
            self._tail.append(line)
            if self._sink is not None:
                self._sink(line.decode("utf-8", "replace").rstrip("\n"))

    @staticmethod
    async def _read_line(stream: asyncio.StreamReader) -> bytes:
        try:
            return await stream.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return error.partial
        except asyncio.LimitOverrunError as error:
            return await stream.readexactly(error.consumed)


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()
