"""The reason why a worker process ended, for the host's log and for the jobs of the process.

A worker process records its jobs, code locations and stacks in files (`minutehand.worker.alarm`).
The host adds the exit code and reports the end of the process to the queue. After the report, the
queue releases the jobs of the process immediately.
"""

import asyncio
import contextlib
import json
import logging
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from minutehand.config import Settings, read_text
from minutehand.functions.worker.database_access import DatabaseAccess, find_database_access
from minutehand.queue.errors import QueueError
from minutehand.queue.models import ReleasedJobs
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker.alarm import CRASH_RECORD, CURRENT_JOB, ENDED, STACKS
from minutehand.worker.current_job import read_current_job
from minutehand.worker.errors import signal_of

logger = logging.getLogger(__name__)

#: Maximum seconds for a report to the queue. The next worker process starts after the report.
_MAX_SECONDS = 10.0
#: Maximum seconds of a report for the check of DATABASE_URL. The rest of `_MAX_SECONDS` is for a
#: call over HTTPS.
_MAX_PROBE_SECONDS = 2.0
#: Maximum stack lines in a report. The lines of the failed thread come first.
_MAX_LINES = 40
#: Patterns in stacks from `faulthandler`, which match a frame, the headline of the thread that a
#: signal ended, and a frame that only the event loop's thread contains.
_FRAME = re.compile(r'File "(.+)", line \d+ in (.+)')
_FATAL = "Current thread"
_LOOP = "in run_until_done"
#: Files of Python, of libraries and of the engine. All other files belong to the user's project.
_NOT_OWN = re.compile(r"/(site-packages|lib/python[\d.]+|minutehand)/|<frozen ")


class ExitReport:
    """Finds the reason for the end of a worker process in the files that the process wrote.

    Args:
        path: File in which the process records its jobs.
        environ: Environment variables of the process, which contain the commit of its code.
    """

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self.variables = {CRASH_RECORD: str(path)}
        self._path = path
        self._environ = environ
        #: Worker id of the process's leases. The id is None if the process never leased a job.
        self.worker_id: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Delete the files of the process."""
        for suffix in ("", STACKS, CURRENT_JOB, ENDED):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def has_ended_normally(self) -> bool:
        """Return whether the process released its jobs. A job's code may also exit with 0."""
        return Path(f"{self._path}{ENDED}").exists()

    def has_leased(self) -> bool:
        """Return whether the process has leased a job."""
        return bool(self._read()[0].get("leased"))

    def read(self, code: int) -> Mapping[str, Any]:
        """Return details about an ended process, for the host's log and for the queue."""
        record, tracebacks = self._read()
        self.worker_id = record.get("worker_id")
        failed, others = _split(tracebacks)
        current = Path(f"{self._path}{CURRENT_JOB}")
        current_job, was_signalling = read_current_job(current, tracebacks)
        own = (line.strip() for line in failed if "File" in line and not _NOT_OWN.search(line))
        details = {
            "line": next(own, None),
            "exit_code": code if code >= 0 else None,
            "signal": signal_of(code),
            "memory_mb": record.get("memory_mb"),
            "jobs": record.get("jobs"),
            "current_job": current_job,
            # someone else stopped the process, so that no job is guilty
            "stopped": (code == -signal.SIGSTOP and not was_signalling) or None,
            "commit": read_text(self._environ, "MINUTEHAND_COMMIT"),
            "stack": [*failed, *others][:_MAX_LINES] or None,
            "guilty_type": _find_type(failed, record.get("code", [])),
        }
        return {name: value for name, value in details.items() if value is not None}

    def _read(self) -> tuple[dict[str, Any], str]:
        try:
            tracebacks = Path(f"{self._path}{STACKS}").read_text(errors="replace")
            return json.loads(self._path.read_text()), tracebacks
        except (OSError, ValueError):
            return {}, ""  # the process has never run a job


class ExitReporter:
    """Reports the end of worker processes to the queue, which releases their jobs immediately.

    Args:
        environ: Environment variables of the worker, from which a report uses the same connection.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._lock = asyncio.Lock()
        self._queue: WorkerQueue | None = None
        #: Connection of the reports. After a failed report, DATABASE_URL is checked again.
        self.access = DatabaseAccess()

    async def probe(self) -> None:
        """Find the worker's direct database connection, which needs no token."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MAX_PROBE_SECONDS):
                settings = Settings.from_env(self._environ)
                self.access = await find_database_access(settings, max_seconds=0)

    async def report(self, worker_id: str | None, details: Mapping[str, Any]) -> ReleasedJobs:
        """Report the end of a process. `worker_id` is None if the process never leased a job."""
        if worker_id is None:
            return ReleasedJobs()
        try:
            async with self._lock, asyncio.timeout(_MAX_SECONDS):
                if self._queue is None:
                    if not self.access.is_direct:
                        await self.probe()
                    settings = Settings.from_env(self._environ)
                    self._queue = WorkerQueue(settings, api=self.access.api(settings))
                return await self._queue.worker_died(worker_id, details)
        except (QueueError, TimeoutError) as error:
            logger.warning(
                "The end of a worker process could not be reported; its jobs run again",
                extra={"event": "worker.evidence_lost", "error": str(error)},
            )
            await self.aclose()
            self.access = DatabaseAccess()
            return ReleasedJobs()

    async def aclose(self) -> None:
        """Close the connection of the reports. The next report opens a new connection."""
        async with self._lock:
            queue, self._queue = self._queue, None
            if queue is not None:
                await queue.aclose()


def _split(tracebacks: str) -> tuple[list[str], list[str]]:
    """Return the stack lines of the failed thread, and the stack lines of all other threads.

    The failed thread is the thread that a signal ended, or the event loop's thread if it was
    blocked.
    """
    mark = _FATAL if _FATAL in tracebacks else _LOOP
    failed: list[str] = []
    others: list[str] = []
    for thread in tracebacks.split("\n\n"):
        (failed if mark in thread else others).extend(thread.splitlines())
    return failed, others


def _find_type(failed: Sequence[str], code: Sequence[tuple[str, str]]) -> str | None:
    """Return the job type whose code the stack lines contain, if there is exactly one."""
    frames = {":".join(frame) for line in failed for frame in _FRAME.findall(line)}
    types = {job_type for location, job_type in code if location in frames}
    return types.pop() if len(types) == 1 else None
