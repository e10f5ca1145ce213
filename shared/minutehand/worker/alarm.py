"""Ends a process whose event loop is blocked, by a thread that Python's lock does not stop."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import math
import os
import resource
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO, Final

from minutehand.worker.attempt import Attempt
from minutehand.worker.in_flight import Held
from minutehand.worker.run import Run

#: The variable that names the file in which a worker's process keeps what it is at; beside it is
#: the one that gets its last stacks.
EVIDENCE: Final = "WORKER_EVIDENCE"
STACKS: Final = ".stacks"
#: Most jobs that are named of those that shared a process.
MOST_NAMED: Final = 50


class Alarm:
    """Set again while the event loop runs; rings when the first lease is about to be lost."""

    #: How often it is set, and the least time until it rings.
    EVERY_SECONDS = 1.0
    LEAST_SECONDS = 2.0
    #: What began in so short a time is noted together.
    NOTED_SECONDS = 0.05
    #: Each setting starts a thread: of jobs that begin just after one it may ring sooner by that.
    SET_SECONDS = 0.25
    #: Before the lease is over, or a quarter of it: what the host says of this process then
    #: comes in time, on a busy machine too.
    EARLY_SECONDS = 10.0

    def __init__(self, run: Run, held: Held) -> None:
        self._clock = run.clock
        self._held = held
        self._worker_id = run.summary.worker_id
        self._notes = Notes.of_process()
        #: When it rings, on the steady clock; when it was set, and what runs was noted.
        self._rings_at = math.inf
        self._set_at = self._noted_at = -math.inf

    async def run(self) -> None:
        """Set it until cancelled."""
        try:
            while True:
                self.set()
                await asyncio.sleep(self.EVERY_SECONDS)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def begun(self, lease_until: float) -> None:
        """Jobs began, which may block the loop at once; their first lease is over then."""
        now = self._clock.monotonic()
        is_stale = now > self._set_at + self.SET_SECONDS
        if is_stale or lease_until - self.EARLY_SECONDS < self._rings_at:
            self.set()
        elif now > self._noted_at + self.NOTED_SECONDS:
            self._note(now)

    def _note(self, now: float) -> list[Attempt]:
        self._noted_at = now
        running = list(self._held.running.values())
        self._notes.write(self._worker_id, running)
        return running

    def set(self) -> None:
        """End the process should its event loop be blocked until the first lease is gone."""
        now = self._set_at = self._clock.monotonic()
        running = self._note(now)
        if not running:
            faulthandler.cancel_dump_traceback_later()
            self._rings_at = math.inf
            return
        early = [min(self.EARLY_SECONDS, each.lease.lease_seconds / 4) for each in running]
        first = min(each.lease_until - by for each, by in zip(running, early, strict=True))
        self._rings_at = max(now + self.LEAST_SECONDS, first)
        faulthandler.dump_traceback_later(self._rings_at - now, exit=True, file=self._notes.stacks)


class Notes:
    """What a worker's process leaves for its host, should it end without a word.

    Args:
        path: The file that is written; None where no host reads it.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        #: What `faulthandler` writes to.
        self.stacks: IO[str] = sys.stderr
        if path is not None:
            # open as long as the process is
            self.stacks = Path(f"{path}{STACKS}").open("w")  # noqa: SIM115
            faulthandler.enable(self.stacks)  # what a signal ends says where, too

    @classmethod
    @cache
    def of_process(cls) -> Notes:
        """This process's, as its host wants them."""
        return cls(os.environ.get(EVIDENCE))

    def write(self, worker_id: str, running: Sequence[Attempt]) -> None:
        """Say what the process is at: its jobs, and by which code a stack would name each."""
        if self._path is None:
            return
        named = running[:MOST_NAMED]
        said = {
            "worker_id": worker_id,
            "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "jobs": [attempt.job_id for attempt in named],
            "running": len(running),
            "types": [attempt.job_type for attempt in named],
            "codes": [attempt.place for attempt in named],
        }
        Path(self._path).write_text(json.dumps(said))
