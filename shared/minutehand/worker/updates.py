"""Unsaved updates of an attempt. The context adds updates, and the reporter sends them."""

import itertools
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from minutehand.clock import Clock, SystemClock
from minutehand.queue.data_api import encode
from minutehand.queue.models import LogLine, OutputChunk, Progress, RunningStep, StepResult

#: When this many bytes of output are unsent, the worker sends the output immediately.
LONG_OUTPUT = 4_096


class UpdateBatch(NamedTuple):
    """Updates of one report. `logs_from` is the number of log lines in earlier reports."""

    progress: Progress | None = None
    logs: tuple[LogLine, ...] = ()
    steps: tuple[StepResult, ...] = ()
    logs_from: int | None = None
    step: RunningStep | None = None
    tags: tuple[str, ...] = ()
    output: tuple[OutputChunk, ...] = ()


NO_UPDATES = UpdateBatch()


@dataclass
class _OutputBuffer:
    """Chunks of one stream that are joined, so that a report contains them as one chunk."""

    stream: str
    attempt: int
    step: str | None
    start: int
    is_text: bool
    parts: list[Any] = field(default_factory=list)
    bytes: int = 0

    def chunk(self) -> OutputChunk:
        content = {"text": "".join(self.parts)} if self.is_text else {"items": self.parts}
        of = {"stream": self.stream, "attempt": self.attempt, "step": self.step}
        return OutputChunk(**of, start=self.start, **(content if self.parts else {}))


class Updates:
    """Updates of one attempt that are not yet stored. The class is thread-safe."""

    #: Maximum number of unsent log lines, and maximum bytes of the unsent log lines.
    MAX_LOGS = 2_000
    MAX_LOG_BYTES = 1_000_000
    #: Maximum bytes of chunks that are joined. A longer chunk is sent alone.
    JOINED_BYTES = 64_000

    # defaults are class attributes, because there are many instances and few change a default
    dropped_logs = 0
    #: Bytes of unsent output.
    output_bytes = 0
    is_output_rejected = False
    _progress: Progress | None = None
    _log_bytes = 0
    _step_changed = False
    _line_count = 0
    #: Kind of the latest update.
    last_kind: Literal["start", "output", "progress", "log", "step"] = "start"

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        #: Time of the attempt's latest update.
        self.last_at = self._clock.monotonic()
        self._logs: list[LogLine] = []
        self._steps: list[StepResult] = []
        #: Running steps with their start times, the latest last.
        self._running: dict[str, float] = {}
        self._tags: list[str] = []
        self._buffers: list[_OutputBuffer] = []
        #: Number of the latest start of each stream. Output from before the stream's latest start
        #: is not sent.
        self._attempts: dict[str, int] = {}

    def __bool__(self) -> bool:
        # do not use the properties, because they would cost time in every report of every job
        return bool(
            self._logs
            or self._steps
            or self._tags
            or self._buffers
            or self._progress is not None
            or self._step_changed
        )

    @property
    def has_output(self) -> bool:
        """True if there is unsent output."""
        return bool(self._buffers)

    @property
    def has_updates(self) -> bool:
        """True if there are updates other than output."""
        return bool(
            self._logs
            or self._steps
            or self._tags
            or self._progress is not None
            or self._step_changed
        )

    def set_progress(self, progress: Progress) -> None:
        """Set the progress. Of several progress reports, only the latest is stored."""
        self._mark("progress")
        with self._lock:
            self._progress = progress

    def add_log(self, line: LogLine) -> None:
        """Add a log line. If too many lines are unsent, drop the line and count it."""
        size = _bytes_of(line)
        self._mark("log")
        with self._lock:
            if len(self._logs) >= self.MAX_LOGS or self._log_bytes + size > self.MAX_LOG_BYTES:
                self.dropped_logs += 1
            else:
                self._logs.append(line)
                self._log_bytes += size

    def start_step(self, name: str) -> None:
        """Record the start of a step.

        The start is sent with the next report of other updates, or after a call of `show_step`.
        """
        self._mark("step")
        with self._lock:
            self._running[name] = self.last_at

    def show_step(self) -> None:
        """Report the running step even without other updates, because people may watch the job."""
        self._step_changed = bool(self._running)

    def leave_step(self, name: str) -> float:
        """Record the end of a step, and return its duration in milliseconds."""
        self._mark("step")
        with self._lock:
            started_at = self._running.pop(name)
        return round((self.last_at - started_at) * 1000, 1)

    def add_step(self, step: StepResult) -> None:
        """Add a finished step."""
        with self._lock:
            self._steps.append(step)

    def add_tags(self, tags: Sequence[str]) -> None:
        """Add tags of the job."""
        with self._lock:
            self._tags += tags

    def start_stream(self, name: str, attempt: int) -> None:
        """Record the start of a stream. Readers drop the stream's earlier output."""
        with self._lock:
            self._attempts[name] = attempt
            self._keep(buffer for buffer in self._buffers if buffer.stream != name)
            if attempt > 1:
                self._buffers.append(_OutputBuffer(name, attempt, None, 0, is_text=True))

    def add_output(
        self, stream: str, attempt: int, start: int, step: str | None, chunk: Any, *, is_text: bool
    ) -> int:
        """Append a chunk, and join it to the last chunk if possible. Return the number of bytes."""
        size = len(chunk.encode()) if is_text else len(encode(chunk))
        self._mark("output")
        with self._lock:
            earlier = (buffer for buffer in reversed(self._buffers) if buffer.stream == stream)
            last = next(earlier, None)
            if last is not None and not last.parts:
                # report a restart together with the first chunk, so that a text that continues is
                # not lost if the process ends between two reports
                last.step, last.is_text = step, is_text
            elif last is None or last.step != step or last.bytes + size > self.JOINED_BYTES:
                last = _OutputBuffer(stream, attempt, step, start, is_text)
                self._buffers.append(last)
            last.parts.append(chunk)
            last.bytes += size
            self.output_bytes += size
        return size

    def drop_output(self) -> None:
        """Drop all output and later output, because the database rejects output of the job."""
        with self._lock:
            self.is_output_rejected = True
            self._keep(())

    def take(
        self, *, max_logs: int = 200, max_bytes: float = math.inf, is_full: bool = True
    ) -> UpdateBatch:
        """Remove and return the updates of a report. Call `restore` if the report does not arrive.

        Args:
            max_logs: Maximum number of log lines.
            max_bytes: Approximate maximum bytes of log lines, and of output.
            is_full: False for a report that contains only output.
        """
        if not (self or self._running or self.dropped_logs):
            return NO_UPDATES
        with self._lock:
            output = self._take_output(max_bytes)
            if not is_full:
                return UpdateBatch(output=output)
            progress, self._progress = self._progress, None
            if self.dropped_logs and len(self._logs) <= max_logs:
                text = f"{self.dropped_logs} log lines came too fast and were dropped"
                self._logs.append(LogLine(level="warning", message=text))
                self.dropped_logs = 0
            count = self._count_lines(max_logs, max_bytes)
            logs, self._logs = tuple(self._logs[:count]), self._logs[count:]
            self._log_bytes -= sum(map(_bytes_of, logs))
            steps, self._steps = tuple(self._steps), []
            step, self._step_changed = self._running_step(), False
            tags, self._tags = tuple(self._tags), []
            before, self._line_count = self._line_count, self._line_count + len(logs)
        return UpdateBatch(progress, logs, steps, before if logs else None, step, tags, output)

    def restore(self, previous: UpdateBatch) -> None:
        """Put back the updates of a report that did not arrive, before newer updates."""
        with self._lock:
            self._progress = self._progress if self._progress is not None else previous.progress
            self._logs[:0] = previous.logs
            self._log_bytes += sum(map(_bytes_of, previous.logs))
            self._steps[:0] = previous.steps
            self._step_changed = self._step_changed or previous.step is not None
            self._tags[:0] = previous.tags
            self._line_count -= len(previous.logs)
            if not self.is_output_rejected:
                back = [_to_buffer(chunk) for chunk in previous.output]
                is_current = [buffer.attempt == self._attempts[buffer.stream] for buffer in back]
                self._keep([*itertools.compress(back, is_current), *self._buffers])

    def _mark(self, kind: Literal["output", "progress", "log", "step"]) -> None:
        self.last_kind, self.last_at = kind, self._clock.monotonic()

    def _keep(self, buffers: Iterable[_OutputBuffer]) -> None:
        self._buffers = list(buffers)
        self.output_bytes = sum(buffer.bytes for buffer in self._buffers)

    def _take_output(self, max_bytes: float) -> tuple[OutputChunk, ...]:
        size = count = 0
        for buffer in self._buffers:
            if count and size + buffer.bytes > max_bytes:
                break
            size += buffer.bytes
            count += 1
        taken = tuple(buffer.chunk() for buffer in self._buffers[:count])
        self._keep(self._buffers[count:])
        return taken

    def _count_lines(self, limit: int, max_bytes: float) -> int:
        """Return how many log lines fit into one report, which is at least one."""
        size = 0
        for number, line in enumerate(self._logs[:limit]):
            size += _bytes_of(line)
            if number and size > max_bytes:
                return number
        return min(limit, len(self._logs))

    def _running_step(self) -> RunningStep | None:
        if not self._running:
            return None
        name, started_at = next(reversed(self._running.items()))
        elapsed = self._clock.monotonic() - started_at
        return RunningStep(name=name, for_ms=round(elapsed * 1000, 1))


def _to_buffer(chunk: OutputChunk) -> _OutputBuffer:
    is_text = chunk.items is None
    parts = ([chunk.text] if chunk.text else []) if is_text else list(chunk.items or ())
    size = sum(len(part.encode()) if is_text else len(encode(part)) for part in parts)
    return _OutputBuffer(chunk.stream, chunk.attempt, chunk.step, chunk.start, is_text, parts, size)


def _bytes_of(line: LogLine) -> int:
    """Return the approximate size of a log line in a report."""
    return 100 + len(line.message.encode()) + (len(encode(line.metadata)) if line.metadata else 0)
