"""Keeps a worker in a process of its own, and answers for the jobs of one that hangs or dies.

A processor that blocks its worker, or takes it down, takes neither the API nor the console with it.
The worker's side is `child`; what it says on the way is `minutehand.worker.channel`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import re
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from minutehand.clock import Clock, SystemClock
from minutehand.config import Settings
from minutehand.error_body import error_body
from minutehand.functions.worker.child import CHANNEL, STACKS
from minutehand.functions.worker.routes import Reply, Request
from minutehand.queue.errors import QueueError
from minutehand.queue.models import ErrorInfo, JobId, SettleItem
from minutehand.queue.worker_client import WorkerQueue
from minutehand.tasks import end_tasks
from minutehand.worker import tracebacks

logger = logging.getLogger(__name__)

CHECK_SECONDS: Final = 0.25
#: Beyond timeout and grace; a loop that turns has stopped its attempt long before.
MARGIN_SECONDS: Final = 1.0
#: Without a beat for so long no Python runs there, and leases are no longer renewed.
SILENT_SECONDS: Final = 30.0
#: For the stack of a process that is to be killed.
STACK_SECONDS: Final = 3.0
#: Until a worker that failed to start is started again, doubled each time.
RESTART_SECONDS: Final = 0.5
MOST_RESTART_SECONDS: Final = 30.0
_THREAD: Final = re.compile(r"^(?:Current thread|Thread) ", re.MULTILINE)
_LINE: Final = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)$', re.M)
_MEMORY_EVENTS: Final = Path("/sys/fs/cgroup/memory.events")

#: File, line and function of one place on a stack.
Place = tuple[str, int, str]


@dataclass(frozen=True)
class Began:
    """An attempt that runs in the child."""

    job_id: str
    fence: int
    job_type: str
    timeout_seconds: float | None
    grace_seconds: float
    module: str
    file: str
    function: str
    at: float

    @property
    def overdue_at(self) -> float:
        """When it must have ended, on our clock."""
        if self.timeout_seconds is None:
            return float("inf")
        return self.at + self.timeout_seconds + self.grace_seconds + MARGIN_SECONDS

    def is_on(self, stack: Iterable[Place]) -> bool:
        """Whether its processor is on a stack."""
        return any((file, name) == (self.file, self.function) for file, _, name in stack)


@dataclass
class _Child:
    """One process, from its start to its end."""

    process: asyncio.subprocess.Process
    channel: asyncio.StreamReader
    stacks: Path
    beat_at: float
    kills_for_memory: int
    resident_mb: int = 0
    running: dict[tuple[str, int], Began] = field(default_factory=dict)
    answers: dict[int, asyncio.Future[Reply]] = field(default_factory=dict)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """A worker's process: restarted when it ends, killed when it hangs.

    Also the waker of the API beside it, and what answers the worker's routes.

    Args:
        module: Run by `python -m`; calls `run_child`.
        environ: The child's environment.
    """

    #: A request waits so long for a worker that is starting.
    READY_SECONDS = 10.0

    def __init__(
        self,
        settings: Settings,
        module: str,
        environ: Mapping[str, str],
        *,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._command = (sys.executable, "-m", module)
        self._environ = dict(environ)
        self._clock = clock or SystemClock()
        self._child: _Child | None = None
        self._started = asyncio.Event()
        self._numbers = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process that runs jobs now."""
        return None if self._child is None else self._child.process.pid

    def start(self) -> None:
        """Start the worker, and keep one running from now on."""
        self._task = asyncio.create_task(self._keep(), name="supervisor")

    async def aclose(self, *, timeout_seconds: float) -> None:
        """End the worker: it releases what runs; what it does not manage is killed."""
        if self._task is not None:
            await end_tasks([self._task])
        if (child := self._child) is None:
            return
        self._child = None
        await _end(child.process, timeout_seconds)

    async def wake(self, *, reason: str = "enqueue") -> None:
        """Ask for a run now; `reason` is for logs on AWS."""
        if self._child is not None:
            self._tell(self._child, wake=reason)

    async def answer(self, request: Request) -> Reply:
        """Have the worker answer one request."""
        try:
            async with asyncio.timeout(self.READY_SECONDS):
                await self._started.wait()
                if (child := self._child) is None:  # closed
                    return _away(request)
                await child.ready.wait()
        except TimeoutError:
            return _away(request)
        self._numbers += 1
        number = self._numbers
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        child.answers[number] = reply
        asked = {
            "method": request.method,
            "path": request.path,
            "headers": dict(request.headers),
            "body": base64.b64encode(request.body).decode(),
            "request_id": request.request_id,
        }
        self._tell(child, ask=asked, number=number)
        try:
            return await reply
        except ConnectionError:
            return _away(request)
        finally:
            child.answers.pop(number, None)

    async def _keep(self) -> None:
        failures = 0
        while True:
            left = self._child is not None and bool(self._child.running)
            child = self._child = await self._start()
            self._started.set()
            if left:  # what the one before gave back waits for someone
                self._tell(child, wake="restart")
            reader = asyncio.create_task(self._read(child), name="channel")
            try:
                if not await self._hung(child):
                    # its last words: that an attempt began may not have been read yet
                    await asyncio.wait({reader}, timeout=CHECK_SECONDS)
                    await self._bury(child)
            finally:
                self._started.clear()
                await end_tasks([reader])
                for waiting in child.answers.values():
                    if not waiting.done():
                        waiting.set_exception(ConnectionError("the worker has ended"))
                child.stacks.unlink(missing_ok=True)
            failures = 0 if child.ready.is_set() else failures + 1
            if failures:
                await asyncio.sleep(min(RESTART_SECONDS * 2**failures, MOST_RESTART_SECONDS))

    async def _start(self) -> _Child:
        ours, its = os.pipe()
        descriptor, stacks = tempfile.mkstemp(prefix="minutehand-stacks-")
        os.close(descriptor)
        process = await asyncio.create_subprocess_exec(
            *self._command,
            env={**self._environ, CHANNEL: str(its), STACKS: stacks},
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(its,),
        )
        os.close(its)
        channel = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(channel), os.fdopen(ours, "rb")
        )
        now = self._clock.monotonic()
        return _Child(process, channel, Path(stacks), now, _kills_for_memory())

    async def _read(self, child: _Child) -> None:
        while line := await child.channel.readline():
            match json.loads(line):
                case {"beat": {"resident_mb": memory}}:
                    child.beat_at, child.resident_mb = self._clock.monotonic(), memory
                case {"began": fields}:
                    began = Began(**fields, at=self._clock.monotonic())
                    child.running[began.job_id, began.fence] = began
                case {"ended": {"job_id": job_id, "fence": fence}}:
                    child.running.pop((job_id, fence), None)
                case {"ready": True}:
                    child.ready.set()
                case {"reply": reply, "number": number}:
                    if (waiting := child.answers.get(number)) and not waiting.done():
                        waiting.set_result(Reply(**reply))

    async def _hung(self, child: _Child) -> bool:
        """Wait for the end of the process; True when it hung and was killed for it."""
        ended = asyncio.create_task(child.process.wait(), name="worker-ended")
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=CHECK_SECONDS)
                if not ended.done() and self._hangs(child):
                    await self._kill(child)
                    await ended
                    return True
        finally:
            await end_tasks([ended])
        return False

    def _hangs(self, child: _Child) -> bool:
        now = self._clock.monotonic()
        is_silent = now - child.beat_at > SILENT_SECONDS
        return bool(child.running) and (
            is_silent or any(now > began.overdue_at for began in child.running.values())
        )

    async def _kill(self, child: _Child) -> None:
        """Kill a worker that hangs: the job that blocks it has failed, the others run again."""
        stacks = await self._stacks(child)
        child.process.kill()
        now = self._clock.monotonic()
        culprit, stack = _culprit(list(child.running.values()), stacks, now)
        others = [began for began in child.running.values() if began is not culprit]
        found = tracebacks.describe_lines(stack, package=culprit.module)
        place = f" at {found['frames'][0]['file']}:{found['frames'][0]['line']}" if found else ""
        limit = culprit.timeout_seconds
        said = f"it blocked its worker for {now - culprit.at:.0f} s{place}, which was killed"
        past = "the attempt did not end" if limit is None else f"the attempt ran past {limit:g} s"
        logger.error(
            "A worker that hung was killed",
            extra={
                "event": "worker.hung",
                "job_id": culprit.job_id,
                "job_type": culprit.job_type,
                "blocked_seconds": round(now - culprit.at, 1),
                "at": place.removeprefix(" at "),
                "released": len(others),
            },
        )
        error = ErrorInfo(type="AttemptTimeout", message=f"{past}: {said}", traceback=found)
        await self._settle(
            [
                _item(culprit, now, outcome="retry", error=error),
                *(_item(other, now, outcome="released") for other in others),
            ]
        )

    async def _stacks(self, child: _Child) -> list[list[Place]]:
        """The stacks of the child's threads; written by C, without the lock."""
        child.process.send_signal(signal.SIGUSR1)
        text = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STACK_SECONDS):
                while not text or text != child.stacks.read_text("utf-8", "replace"):
                    text = child.stacks.read_text("utf-8", "replace")
                    await asyncio.sleep(0.1)
        return _read_stacks(text)

    async def _bury(self, child: _Child) -> None:
        """Answer for the jobs of a worker that died, instead of waiting for their leases."""
        code = child.process.returncode
        lost = list(child.running.values())
        logger.error(
            "The worker has ended; another one is started",
            extra={"event": "worker.died", "exit_code": code, "jobs": len(lost)},
        )
        now = self._clock.monotonic()
        # of a crash in native code the thread that crashed is known, and so is the job to blame
        stack = next(iter(_read_stacks(child.stacks.read_text("utf-8", "replace"))), [])
        blamed = [began for began in lost if began.is_on(stack)]
        beside = f", among {len(lost)} jobs" if len(lost) > 1 and len(blamed) != 1 else ""
        why = _cause(code, child, _kills_for_memory())
        error = ErrorInfo(type="WorkerLost", message=f"{why} while it ran this job{beside}")
        if blamed:
            found = tracebacks.describe_lines(stack, package=blamed[0].module)
            error = error.model_copy(update={"traceback": found})
        released = [began for began in lost if blamed and began not in blamed]
        await self._settle(
            [
                *(_item(each, now, outcome="retry", error=error) for each in blamed or lost),
                *(_item(each, now, outcome="released") for each in released),
            ]
        )

    async def _settle(self, items: list[SettleItem]) -> None:
        if not items:
            return
        queue = WorkerQueue(self._settings)
        try:
            await queue.settle(
                items, worker_id=f"supervisor-{os.getpid()}", tick_id=str(uuid.uuid4())
            )
        except QueueError as error:
            logger.warning(
                "The jobs of a lost worker could not be settled; their leases expire",
                extra={"event": "worker.not_buried", "error": str(error)},
            )
        finally:
            await queue.aclose()

    @staticmethod
    def _tell(child: _Child, **command: Any) -> None:
        if child.process.stdin is not None and not child.process.stdin.is_closing():
            child.process.stdin.write(json.dumps(command).encode() + b"\n")


def _read_stacks(text: str) -> list[list[Place]]:
    """The stacks of threads as `faulthandler` writes them, innermost last, the crashed first."""
    threads = zip(_THREAD.findall(text), _THREAD.split(text)[1:], strict=True)
    return [
        [(at["file"], int(at["line"]), at["function"]) for at in _LINE.finditer(part)][::-1]
        for _, part in sorted(threads, key=lambda thread: not thread[0].startswith("Current"))
    ]


def _culprit(
    running: list[Began], stacks: list[list[Place]], now: float
) -> tuple[Began, list[Place]]:
    """Which attempt blocks the process, and its stack.

    A processor on the loop's own stack blocks it; else one in a thread may hold Python's lock, and
    of several the one that is the longest past its time.
    """
    late_first = sorted(running, key=lambda began: (began.overdue_at - now, began.at))
    loop_first = sorted(
        stacks, key=lambda stack: not any(name == "run_forever" for *_, name in stack)
    )
    for stack in loop_first:
        for began in late_first:
            if began.is_on(stack):
                return began, stack
    return late_first[0], loop_first[0] if loop_first else []


def _item(began: Began, now: float, **fields: Any) -> SettleItem:
    return SettleItem(
        job_id=JobId(began.job_id),
        fence=began.fence,
        duration_ms=round((now - began.at) * 1000, 1),
        **fields,
    )


def _cause(code: int | None, child: _Child, kills_for_memory: int) -> str:
    if code is not None and code < 0 and code != -signal.SIGKILL:
        return f"its worker was ended by {signal.Signals(-code).name}"
    if code != -signal.SIGKILL:
        return f"its worker ended with exit code {code}"
    used = f" ({child.resident_mb} MB in use)" if child.resident_mb else ""
    if kills_for_memory > child.kills_for_memory:
        return f"its worker was killed for want of memory{used}"
    return f"its worker was killed by signal 9, most often for want of memory{used},"


def _kills_for_memory() -> int:
    """How often the kernel killed for want of memory in this container; 0 where it is silent."""
    with contextlib.suppress(OSError, ValueError):
        counts = dict(line.split() for line in _MEMORY_EVENTS.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    return 0


async def _end(process: asyncio.subprocess.Process, seconds: float) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _away(request: Request) -> Reply:
    text = "The worker is starting; try again"
    body = error_body("worker_unavailable", text, request_id=request.request_id)
    return Reply(503, body, {"Retry-After": "2"})
