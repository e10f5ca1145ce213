"""The job whose coroutine runs now, in a file that the host reads after the process has died.

The file is mapped into memory. A write into mapped memory takes less than a microsecond, and the
file keeps the written bytes when the process is killed.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from mmap import mmap
from pathlib import Path
from typing import Any, Final

from minutehand.queue.models import JobId

#: Number of characters of a job id.
_SIZE: Final = 36


def map_file(path: Path) -> mmap:
    """Create a file with the id of no job, and return its mapped memory."""
    with path.open("wb+") as file:
        file.truncate(_SIZE)
        return mmap(file.fileno(), _SIZE)


def read_current_job(path: Path) -> str | None:
    """Return the id of the job whose coroutine ran when the process died.

    Return None if no job's coroutine ran. A synchronous processor runs in a thread, not in a
    coroutine.
    """
    job_id = path.read_bytes() if path.exists() else b""
    return None if job_id.startswith(b"\0") else job_id.decode() or None


class RecordedCoroutine(Coroutine[Any, Any, None]):
    """Coroutine of a job that writes the job's id into mapped memory each time it runs.

    When the coroutine waits or ends, it removes the id.
    """

    __slots__ = ("_coroutine", "_job_id", "_memory")

    def __init__(self, coroutine: Coroutine[Any, Any, None], job_id: JobId, memory: mmap) -> None:
        self._coroutine: Any = coroutine
        self._job_id = job_id.encode()
        self._memory = memory

    def send(self, value: Any) -> Any:
        """Run the coroutine until it waits or ends."""
        self._memory[:] = self._job_id
        try:
            return self._coroutine.send(value)
        finally:
            self._memory[0] = 0

    def throw(self, *error: Any) -> Any:
        """Raise an error in the coroutine, as a cancellation does."""
        self._memory[:] = self._job_id
        try:
            return self._coroutine.throw(*error)
        finally:
            self._memory[0] = 0

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
