"""What a processor says, until it is stored: filled by its context, emptied by the reporter."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

from minutehand.clock import Clock, SystemClock
from minutehand.queue.data_api import encode
from minutehand.queue.models import LogLine, Progress, RunningStep, StepResult


class Taken(NamedTuple):
    """Updates on their way to the database; `logs_from` lines of the attempt went before."""

    progress: Progress | None = None
    logs: tuple[LogLine, ...] = ()
    steps: tuple[StepResult, ...] = ()
    logs_from: int | None = None
    step: RunningStep | None = None
    tags: tuple[str, ...] = ()


class Updates:
    """What one attempt said, possibly from a thread, and the database does not have yet."""

    #: Most unsent log lines, and their bytes.
    MAX_LOGS = 2_000
    MAX_LOG_BYTES = 1_000_000

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._logs: list[LogLine] = []
        self._log_bytes = 0
        self._steps: list[StepResult] = []
        #: Steps under way and since when, the latest to begin last.
        self._running: dict[str, float] = {}
        self._shows_step = False
        self._tags: list[str] = []
        self._lines_taken = 0
        self.dropped_logs = 0

    def __bool__(self) -> bool:
        return bool(
            self._logs
            or self._steps
            or self._tags
            or self._progress is not None
            or self._shows_step
        )

    def set_progress(self, progress: Progress) -> None:
        """Replace what was known; only the latest is stored."""
        with self._lock:
            self._progress = progress

    def add_log(self, line: LogLine) -> None:
        """Append a line; beyond as many or as long unsent ones it is dropped and counted."""
        size = _bytes_of(line)
        with self._lock:
            if len(self._logs) >= self.MAX_LOGS or self._log_bytes + size > self.MAX_LOG_BYTES:
                self.dropped_logs += 1
            else:
                self._logs.append(line)
                self._log_bytes += size

    def begin_step(self, name: str) -> None:
        """Record that a step begins; reports say so, if there are others or after `show_step`."""
        with self._lock:
            self._running[name] = self._clock.monotonic()

    def show_step(self) -> None:
        """Report the step that runs without other updates: someone may be watching it."""
        self._shows_step = bool(self._running)

    def leave_step(self, name: str) -> float:
        """Record the end of a step, done or failed; return its duration in milliseconds."""
        with self._lock:
            began_at = self._running.pop(name)
        return round((self._clock.monotonic() - began_at) * 1000, 1)

    def add_step(self, step: StepResult) -> None:
        """Append a finished step."""
        with self._lock:
            self._steps.append(step)

    def add_tags(self, tags: Sequence[str]) -> None:
        """Append tags of the job."""
        with self._lock:
            self._tags += tags

    def take(self, *, most_logs: int = 200, most_bytes: float = math.inf) -> Taken:
        """Take what is to be sent now; give it back with `restore` if it did not arrive."""
        with self._lock:
            progress, self._progress = self._progress, None
            if self.dropped_logs and len(self._logs) <= most_logs:
                text = f"{self.dropped_logs} log lines came too fast and were dropped"
                self._logs.append(LogLine(level="warning", message=text))
                self.dropped_logs = 0
            count = self._lines_within(most_logs, most_bytes)
            logs, self._logs = tuple(self._logs[:count]), self._logs[count:]
            self._log_bytes -= sum(map(_bytes_of, logs))
            steps, self._steps = tuple(self._steps), []
            step, self._shows_step = self._running_step(), False
            tags, self._tags = tuple(self._tags), []
            before, self._lines_taken = self._lines_taken, self._lines_taken + len(logs)
        return Taken(progress, logs, steps, before if logs else None, step, tags)

    def restore(self, taken: Taken) -> None:
        """Put back what did not arrive, before what came since."""
        with self._lock:
            self._progress = self._progress if self._progress is not None else taken.progress
            self._logs[:0] = taken.logs
            self._log_bytes += sum(map(_bytes_of, taken.logs))
            self._steps[:0] = taken.steps
            self._shows_step = taken.step is not None
            self._tags[:0] = taken.tags
            self._lines_taken -= len(taken.logs)

    def _lines_within(self, most: int, most_bytes: float) -> int:
        """How many of the first lines fit; the first always does."""
        size = 0
        for number, line in enumerate(self._logs[:most]):
            size += _bytes_of(line)
            if number and size > most_bytes:
                return number
        return min(most, len(self._logs))

    def _running_step(self) -> RunningStep | None:
        if not self._running:
            return None
        name, began_at = next(reversed(self._running.items()))
        return RunningStep(name=name, for_ms=round((self._clock.monotonic() - began_at) * 1000, 1))


def _bytes_of(line: LogLine) -> int:
    """About how long it is when it is sent."""
    return 100 + len(line.message.encode()) + (len(encode(line.metadata)) if line.metadata else 0)
