"""The job whose code runs now, in a file that the host reads after the process has died.

The file is mapped into memory. A write into mapped memory takes less than a microsecond, and the
file keeps the written bytes when the process is killed. The file contains the id of the job whose
coroutine runs or whose code is ending the process, then a byte that is 1 while code of the process
is ending or signalling a process, and then an entry for each thread with the thread's identifier
and the id of its job.
"""

import faulthandler
import os
import re
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from mmap import mmap
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from minutehand.queue.models import JobId

T = TypeVar("T")

#: Number of characters of a job id, and of a thread's entry.
_ID_SIZE = 36
_ENTRY_SIZE = 16 + _ID_SIZE
#: Number of entries for threads. If there are more threads, some threads share an entry.
_ENTRIES = 1000
_FIRST_ENTRY = _ID_SIZE + 1
_FILE_SIZE = _FIRST_ENTRY + _ENTRIES * _ENTRY_SIZE
_CURRENT = slice(_ID_SIZE)
_NO_JOB = bytes(_ID_SIZE)
#: Code that runs for longer without an `await` blocks the event loop. Seconds for which this is
#: remembered.
_LONG_SECONDS = 0.5
_REMEMBERED_SECONDS = 60.0
#: Headline that `faulthandler` writes above the stack of the thread that a signal ended.
_FATAL = re.compile("Current thread 0x([0-9a-f]{16})")

#: Id of the job to which the running code belongs. Tasks and threads of the job inherit the id. A
#: call of a processor for a batch has no id.
JOB_ID: ContextVar[bytes] = ContextVar("JOB_ID", default=_NO_JOB)

#: Start of each thread's entry, by the thread's identifier.
_starts: dict[int, int] = {}
#: Before `record_jobs` and in the child processes of a job, no file contains the memory.
_memory = mmap(-1, _FILE_SIZE)


def record_jobs(path: Path) -> None:
    """Create a file without jobs, and record the jobs of this process in the file."""
    global _memory
    with path.open("wb+") as file:
        file.truncate(_FILE_SIZE)
        _memory = mmap(file.fileno(), _FILE_SIZE)
    # replace the functions, because Python raises no audit event for `os._exit`
    for name in ("_exit", "kill"):
        setattr(os, name, _recorded(getattr(os, name)))
    os.register_at_fork(after_in_child=_end_recording)


def _recorded(end: Callable[..., None]) -> Callable[..., None]:
    """Return a function that records its caller's job before it calls `end`."""

    def call(*args: Any, **options: Any) -> None:
        before, _memory[_CURRENT] = _memory[_CURRENT], JOB_ID.get()
        _memory[_ID_SIZE] = True
        try:
            end(*args, **options)
        finally:  # `os.kill` has not ended this process
            _memory[_CURRENT] = before
            _memory[_ID_SIZE] = False

    return call


def _end_recording() -> None:
    """Stop writing into the files of the worker, because this process is a child of a job."""
    global _memory
    _memory = mmap(-1, _FILE_SIZE)
    faulthandler.disable()


def run_recorded(job_id: bytes, run: Callable[[], T]) -> T:
    """Call a function in this thread, and record that the call belongs to a job."""
    JOB_ID.set(job_id)
    thread = threading.get_ident()
    start = _starts.setdefault(thread, _FIRST_ENTRY + len(_starts) % _ENTRIES * _ENTRY_SIZE)
    _memory[start : start + _ENTRY_SIZE] = b"%016x" % thread + job_id
    return run()


class JobExecutor(ThreadPoolExecutor):
    """Threads for `asyncio.to_thread`. Each call belongs to the job that started the call."""

    def submit(self, run: Callable[..., T], /, *args: Any, **options: Any) -> Future[T]:
        """Call a function in a thread."""
        return super().submit(run_recorded, JOB_ID.get(), partial(run, *args, **options))


def read_current_job(path: Path, stacks: str) -> tuple[str | None, bool]:
    """Return the id of the job whose code ended the process, or whose coroutine ran at that time.

    The id is None if no such job is known. Also return whether code of the process was ending or
    signalling a process.

    Args:
        stacks: Stacks that `faulthandler` wrote when a signal ended the process.
    """
    content = path.read_bytes() if path.exists() else b""
    job_ids = [content[_CURRENT]]
    for thread in _FATAL.findall(stacks):
        job_ids.insert(0, content.partition(thread.encode())[2][:_ID_SIZE])
    job_id = next((job_id.decode() for job_id in job_ids if any(job_id[:1])), None)
    return job_id, any(content[_ID_SIZE:_FIRST_ENTRY])


def to_record(job_id: JobId) -> bytes:
    """Return a job id with the length that it has in the file."""
    return f"{job_id:{_ID_SIZE}.{_ID_SIZE}}".encode()


class RecordedCoroutine(Coroutine[Any, Any, None]):
    """Coroutine of a job that writes the job's id into mapped memory each time it runs.

    When the coroutine waits or ends, it removes the id.
    """

    __slots__ = ("_blocks", "_coroutine", "_job_id", "_memory")

    def __init__(self, coroutine: Coroutine[Any, Any, None], job_id: JobId) -> None:
        self._coroutine: Any = coroutine
        self._job_id = to_record(job_id)
        self._memory = _memory
        self._blocks: tuple[tuple[float, float], ...] = ()

    def send(self, value: Any) -> Any:
        """Run the coroutine until it waits or ends."""
        return self._step(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        """Raise an error in the coroutine, as a cancellation does."""
        return self._step(self._coroutine.throw, *error)

    def _step(self, run: Callable[..., Any], *values: Any) -> Any:
        self._memory[_CURRENT] = self._job_id
        began = monotonic()
        try:
            return run(*values)
        finally:
            self._memory[0] = 0
            if (now := monotonic()) - began > _LONG_SECONDS:
                self._blocks = (*self._recent_blocks(now), (began, now))

    def _recent_blocks(self, now: float) -> list[tuple[float, float]]:
        return [block for block in self._blocks if block[1] > now - _REMEMBERED_SECONDS]

    @property
    def blocked_seconds(self) -> float:
        """Seconds of the last minute for which this coroutine blocked the event loop."""
        now = monotonic()
        first = now - _REMEMBERED_SECONDS
        return sum(end - max(began, first) for began, end in self._recent_blocks(now))

    def close(self) -> None:
        """Close the coroutine."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, None]:
        """Return an iterator that runs the coroutine."""
        yield from self._coroutine.__await__()

    @property
    def cr_frame(self) -> Any:
        """Frame of the coroutine, for readers of stacks."""
        return self._coroutine.cr_frame

    @property
    def cr_await(self) -> Any:
        """Object for which the coroutine waits, for readers of stacks."""
        return self._coroutine.cr_await
