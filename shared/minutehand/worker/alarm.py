"""Ends a process whose event loop is blocked, even if a processor keeps Python's global lock."""

import asyncio
import faulthandler
import json
import math
import os
import sys
from functools import cache
from pathlib import Path
from typing import IO, Self

from minutehand.worker.attempt import Attempt
from minutehand.worker.current_job import record_jobs
from minutehand.worker.in_flight import InFlight
from minutehand.worker.registry import Registry
from minutehand.worker.run import Run
from minutehand.worker.stacks import peak_memory_mb
from minutehand.worker.summary import TickSummary

#: Environment variable with the path of the file in which a worker process records its jobs, and
#: suffixes of the paths of the files with the process's last stacks and with its current job, and
#: of the empty file that exists if the process ended normally.
CRASH_RECORD = "WORKER_EVIDENCE"
STACKS = ".stacks"
CURRENT_JOB = ".current"
ENDED = ".ended"
#: Maximum number of jobs in a crash record.
MAX_JOBS = 50


class Watchdog:
    """Watchdog that the event loop must reset repeatedly.

    If the event loop does not reset the watchdog, the watchdog ends the process before the first
    lease expires.
    """

    #: Interval of the watchdog's resets, and minimum time until the watchdog ends the process.
    INTERVAL_SECONDS = 1.0
    MIN_SECONDS = 2.0
    #: Jobs that start within this time are written into the crash record together.
    RECORD_SECONDS = 0.05
    #: Minimum seconds between resets of the watchdog, because each reset starts a thread. The
    #: watchdog may therefore end the process up to SET_SECONDS too early.
    SET_SECONDS = 0.25
    #: The watchdog ends the process EARLY_SECONDS before a lease ends, or a quarter of the lease
    #: before if this is shorter. Before the lease ends, even a busy host can then report the
    #: process's end.
    EARLY_SECONDS = 10.0

    def __init__(self, run: Run, in_flight: InFlight) -> None:
        self._clock = run.clock
        self._in_flight = in_flight
        self._summary = run.summary
        self.record = CrashRecord.of_process(run.registry)
        # the next three are times of the monotonic clock
        self._exit_at = math.inf  # time at which the watchdog will end the process
        self._set_at = -math.inf  # time of the watchdog's last reset
        self._recorded_at = -math.inf  # time of the last crash record

    async def run(self) -> None:
        """Reset the watchdog repeatedly until this task is cancelled."""
        try:
            while True:
                self.set()
                await asyncio.sleep(self.INTERVAL_SECONDS)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def begin(self, lease_until: float) -> None:
        """Record that jobs start, because a new job may block the event loop immediately.

        Args:
            lease_until: Earliest end of the leases of the jobs that start.
        """
        now = self._clock.monotonic()
        is_stale = now > self._set_at + self.SET_SECONDS
        if is_stale or lease_until - self.EARLY_SECONDS < self._exit_at:
            self.set()
        elif now > self._recorded_at + self.RECORD_SECONDS:
            self._record_jobs(now)

    def _record_jobs(self, now: float) -> list[Attempt]:
        self._recorded_at = now
        running = list(self._in_flight.running.values())
        self.record.write(self._summary, running)
        return running

    def set(self) -> None:
        """Reset the watchdog, so that the watchdog ends the process before the first lease ends."""
        now = self._set_at = self._clock.monotonic()
        running = self._record_jobs(now)
        if not running:
            faulthandler.cancel_dump_traceback_later()
            self._exit_at = math.inf
            return
        early = [min(self.EARLY_SECONDS, attempt.lease.lease_seconds / 4) for attempt in running]
        first = min(attempt.lease_until - by for attempt, by in zip(running, early, strict=True))
        self._exit_at = max(now + self.MIN_SECONDS, first)
        faulthandler.dump_traceback_later(
            self._exit_at - now, exit=True, file=self.record.traceback_file
        )


class CrashRecord:
    """File with a worker process's running jobs, which its host reads if the process is killed.

    Args:
        path: Path of the file. `path` is None if no host reads the file.
    """

    def __init__(self, path: str | None, registry: Registry) -> None:
        self._path = path
        #: Location of each job type's code, which shows to which job type a stack belongs. All
        #: types are included, because a job may start after the last record.
        self._code = [(job_type.location, job_type.name) for job_type in registry]
        #: File in which `faulthandler` writes stacks.
        self.traceback_file: IO[str] = sys.stderr
        if path is not None:
            record_jobs(Path(f"{path}{CURRENT_JOB}"))
            # the file stays open until the process ends
            self.traceback_file = Path(f"{path}{STACKS}").open("w")  # noqa: SIM115
            # also write the stacks when a signal ends the process
            faulthandler.enable(self.traceback_file)

    @classmethod
    @cache
    def of_process(cls, registry: Registry) -> Self:
        """Return the crash record of this process, which all workers in it share."""
        return cls(os.environ.get(CRASH_RECORD), registry)

    def write(self, summary: TickSummary, running: list[Attempt]) -> None:
        """Write the running jobs into the crash record."""
        if self._path is None:
            return
        record = {
            "worker_id": summary.worker_id,
            "leased": summary.leased,
            "memory_mb": peak_memory_mb(),
            "jobs": [attempt.job_id for attempt in running[:MAX_JOBS]],
            "code": self._code,
        }
        # write a temporary file first, because the process may be killed during the write
        new = Path(f"{self._path}.new")
        new.write_text(json.dumps(record))
        new.replace(self._path)
