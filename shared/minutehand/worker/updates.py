"""What a processor says, until it is stored: filled by its context, emptied by the reporter.

When it is sent is the reporter's to decide.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

from minutehand.clock import Clock, SystemClock
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
    """Progress, logs, steps and tags of one attempt that the database does not have yet.

    Filled by the processor, possibly from a thread; emptied by the reporter or the settler.
    """

    MAX_LOGS = 2_000

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._logs: list[LogLine] = []
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
        """Append a line; beyond `MAX_LOGS` unsent ones it is dropped and counted."""
        with self._lock:
            if len(self._logs) >= self.MAX_LOGS:
                self.dropped_logs += 1
            else:
                self._logs.append(line)

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

    def take(self, *, most_logs: int = 200) -> Taken:
        """Take what is to be sent now; give it back with `restore` if it did not arrive."""
        with self._lock:
            progress, self._progress = self._progress, None
            if self.dropped_logs and len(self._logs) <= most_logs:
                text = f"{self.dropped_logs} log lines came too fast and were dropped"
                self._logs.append(LogLine(level="warning", message=text))
                self.dropped_logs = 0
            logs, self._logs = tuple(self._logs[:most_logs]), self._logs[most_logs:]
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
            self._steps[:0] = taken.steps
            self._shows_step = taken.step is not None
            self._tags[:0] = taken.tags
            self._lines_taken -= len(taken.logs)

    def _running_step(self) -> RunningStep | None:
        if not self._running:
            return None
        name, began_at = next(reversed(self._running.items()))
        return RunningStep(name=name, for_ms=round((self._clock.monotonic() - began_at) * 1000, 1))
