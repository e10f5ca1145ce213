"""A thread that notices a blocked event loop, names the processor, and renews leases meanwhile.

A processor that blocks the loop also blocks the reporter; without this thread every other job's
lease would expire with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence

from minutehand.worker import tracebacks
from minutehand.worker.isolation import Blocked, TaskGroupOfAttempt, owner_of

logger = logging.getLogger(__name__)

#: Renews the leases of all running jobs from outside the loop; called in the watchdog's thread.
RenewOutside = Callable[[], None]


class Watchdog:
    """Watches one loop while jobs run on it.

    Args:
        warn_after: Seconds without a turn of the loop before its culprit is named.
        renew_after: Seconds of standing still before leases are renewed from outside, and again
            every so often.
        running: The jobs at work, as (id, type); named when memory grows under them.
        memory_step_mb: Growth of resident memory that is worth a line, and again each time.
    """

    BEAT_SECONDS = 0.1

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        warn_after: float = 0.5,
        renew_after: float = 10.0,
        renew: RenewOutside | None = None,
        running: Callable[[], Sequence[tuple[str, str]]] = tuple,
        memory_step_mb: float = 100.0,
    ) -> None:
        self._loop = loop
        self._warn_after = warn_after
        self._renew_after = renew_after
        self._renew = renew
        self._running = running
        self._memory_step_mb = memory_step_mb
        self._memory_mark = resident_mb()
        self._loop_thread = threading.get_ident()
        self._beats = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch; does nothing when already watching."""
        if self._thread is not None:
            return
        self._beat()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        self._beats += 1
        self._timer = self._loop.call_later(self.BEAT_SECONDS, self._beat)

    def _watch(self) -> None:
        seen, still, warned, renewed = -1, 0.0, False, 0.0
        step = max(0.02, min(self.BEAT_SECONDS, self._warn_after / 2))
        culprit, place = None, ""
        while not self._stop.wait(step):
            self._check_memory()
            if self._beats != seen:
                if warned:
                    self._report_end(culprit, still)
                seen, still, warned, renewed = self._beats, 0.0, False, 0.0
                continue
            # counted in own steps, not by the clock: a stopped process is not a blocked loop
            still += step
            if still >= self._warn_after + self.BEAT_SECONDS and not warned:
                warned = True
                culprit, place = self._name_culprit()
            if warned and culprit is not None:
                culprit.blocked = Blocked(still, place)
            if still - renewed >= self._renew_after and self._renew is not None:
                renewed = still
                self._renew_outside()

    def _check_memory(self) -> None:
        now = resident_mb()
        grown = now - self._memory_mark
        if grown < self._memory_step_mb:
            return
        self._memory_mark = now
        logger.warning(
            "Memory grew while these jobs ran",
            extra={
                "event": "memory.grew",
                "grown_mb": round(grown),
                "resident_mb": round(now),
                "jobs": [{"job_id": job, "job_type": kind} for job, kind in self._running()[:20]],
            },
        )

    def _name_culprit(self) -> tuple[TaskGroupOfAttempt | None, str]:
        """Log who blocks the loop; its attempt, and the innermost line of its own."""
        frame = sys._current_frames().get(self._loop_thread)
        stack = traceback.extract_stack(frame)[-6:] if frame is not None else []
        found = tracebacks.describe_stack(tracebacks.running(frame))
        group = owner_of(_current_task(self._loop))
        logger.warning(
            "Event loop is blocked by a processor; use `await`, or a plain function",
            extra={
                "event": "loop.blocked",
                "job_id": group.job_id if group else None,
                "job_type": group.job_type if group else None,
                "blocked_seconds": self._warn_after,
                "at": [f"{line.filename}:{line.lineno} {line.name}" for line in stack],
            },
        )
        line = found["frames"][0] if found else None
        return group, f"{line['file']}:{line['line']}" if line else "an unknown line"

    def _report_end(self, culprit: TaskGroupOfAttempt | None, still: float) -> None:
        logger.warning(
            "Event loop runs again",
            extra={
                "event": "loop.released",
                "job_type": culprit.job_type if culprit else None,
                "blocked_seconds": round(still, 2),
            },
        )

    def _renew_outside(self) -> None:
        if self._renew is None:
            return
        try:
            self._renew()
        except Exception:
            logger.exception(
                "Leases could not be renewed from outside the loop",
                extra={"event": "loop.renewal_failed"},
            )


def resident_mb() -> float:
    """Resident memory of this process in MB; 0 where /proc does not say."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            pages = int(statm.read().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1_048_576


def _current_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task(loop)
    except RuntimeError:
        return None
