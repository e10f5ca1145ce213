"""Output streams of a processor, which clients read while the processor runs.

A stream keeps all of its output in memory. The attempt's `Updates` also contain the output that is
not yet stored.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from minutehand.queue.errors import ProcessorError
from minutehand.queue.models import LogLine, OutputChunk
from minutehand.worker.serialization import TextCleaner, sanitize
from minutehand.worker.updates import LONG_OUTPUT, Updates

#: Maximum streams of one job, and maximum characters of a stream's name.
MAX_STREAMS = 20
MAX_STREAM_NAME = 100
#: Maximum bytes of a stream in memory, even if the database accepts a longer stream.
MAX_BUFFERED_BYTES = 10_000_000
#: Name of the step that the current task runs. The output of a step is dropped when the step is
#: tried again, and kept when the step has finished.
RUNNING: ContextVar[str] = ContextVar("RUNNING", default="")


class OutputRefused(ProcessorError):
    """The database rejected output, because the job exceeds `output_max_bytes`."""

    def __init__(self) -> None:
        super().__init__(
            "the rest of the job's output was not stored: its streams have more bytes than the "
            "setting output_max_bytes allows",
            retryable=False,
        )


class StreamHistory(NamedTuple):
    """A stream's number of starts in earlier attempts, and the output of each finished step."""

    attempt: int = 0
    #: The output of each finished step, which is a string or a list of items.
    finished: Mapping[str, str | list[Any]] = {}


def joined(chunks: Sequence[OutputChunk]) -> str | list[Any]:
    """Join chunks of a stream into one string, or one list of items."""
    if any(chunk.items is not None for chunk in chunks):
        return [item for chunk in chunks for item in chunk.items or ()]
    return "".join(chunk.text or "" for chunk in chunks)


class Stream:
    """An output stream of a job, see `JobContext.stream`."""

    def __init__(
        self, name: str, updates: Updates, notify_updates: Callable[[], None], before: StreamHistory
    ) -> None:
        self.name = name
        self.attempt = before.attempt
        self.is_open = True
        self._finished = before.finished
        self._updates = updates
        self._notify_updates = notify_updates
        self._lock = threading.RLock()
        #: All chunks, each with the step that wrote it.
        self._chunks: list[tuple[str | None, Any]] = []
        self._size = self._bytes = 0
        self._is_text: bool | None = None
        #: The step that wrote the last chunk. If the chunk ended with half of a surrogate pair, the
        #: half belongs to this step.
        self._step: str | None = None
        self._warned: set[str] = set()
        self._start()

    def write(self, chunk: Any, /) -> None:
        """Write a chunk. A string is appended as text. Any other JSON value is added as an item.

        Raises:
            TypeError: A stream must have only text, or only items.
            ValueError: The stream is closed, or the item is not JSON.
            OutputRefused: The streams of the job exceed their maximum size.
        """
        if not self.is_open:
            raise ValueError(f"stream {self.name!r} is closed")
        if self._updates.is_output_rejected or self._bytes > MAX_BUFFERED_BYTES:
            raise OutputRefused
        step = RUNNING.get() or None
        if isinstance(chunk, str):
            if chunk:
                self._write_text(step, chunk)
            return
        sanitized = sanitize(chunk)
        if sanitized.refused is not None:
            raise ValueError(f"an item of stream {self.name!r}: {sanitized.refused}")
        with self._lock:
            self._become(is_text=False)
            self._append(step, sanitized.value, is_text=False)
            self._warn(sanitized.changed)

    def replace(self, text: str, /) -> None:
        """Replace the text that the current step has written. The stream restarts for readers."""
        with self._lock:
            self.discard(RUNNING.get() or None)
            self.write(text)

    def close(self) -> None:
        """Close the stream. Half of a surrogate pair at the stream's end is replaced."""
        with self._lock:
            self.is_open = False
            if not self._updates.is_output_rejected:
                self._flush_pending()

    @property
    def text(self) -> str:
        """The whole output of a text stream."""
        return "".join(chunk for _, chunk in self._chunks) if self._is_text else ""

    @property
    def items(self) -> list[Any]:
        """The whole output of a stream of items."""
        return [] if self._is_text else [chunk for _, chunk in self._chunks]

    @property
    def history(self) -> StreamHistory:
        """The output of finished steps, which the stream needs when it is opened again."""
        by_step: dict[str, list[Any]] = {}
        for step, chunk in self._chunks:
            if step is not None:
                by_step.setdefault(step, []).append(chunk)
        current = {
            step: "".join(chunks) if self._is_text else chunks for step, chunks in by_step.items()
        }
        return StreamHistory(self.attempt, {**self._finished, **current})

    def replay_output(self, step: str) -> None:
        """Write the stored output of a finished step, because this attempt skips the step."""
        finished = self._finished.get(step)
        with self._lock:
            self._flush_pending()
            for chunk in [finished] if isinstance(finished, str) else finished or ():
                self._append(step, chunk, is_text=isinstance(finished, str))

    def discard(self, step: str | None) -> None:
        """Restart the stream without the output of a step, or of no step if `step` is None."""
        with self._lock:
            if self._step != step:
                self._flush_pending()
            self._text_filter = TextCleaner()
            remaining = [entry for entry in self._chunks if entry[0] != step]
            if len(remaining) < len(self._chunks):
                is_text = self._is_text is True
                self._start()
                for by, chunk in remaining:
                    self._append(by, chunk, is_text=is_text)

    def _start(self) -> None:
        self.attempt += 1
        self._chunks, self._size, self._bytes, self._is_text = [], 0, 0, None
        self._text_filter = TextCleaner()
        self._updates.start_stream(self.name, self.attempt)
        self._notify_updates()

    def _write_text(self, step: str | None, chunk: str) -> None:
        with self._lock:
            self._become(is_text=True)
            if step != self._step:
                self._flush_pending()
                self._step = step
            self._append(step, self._text_filter.add(chunk), is_text=True)
            self._warn(self._text_filter.replaced)

    def _flush_pending(self) -> None:
        self._append(self._step, self._text_filter.end(), is_text=True)
        self._warn(self._text_filter.replaced)

    def _become(self, *, is_text: bool) -> None:
        if self._is_text not in (None, is_text):
            raise TypeError(f"stream {self.name!r} must have only text or only items")
        self._is_text = is_text

    def _warn(self, description: str | None) -> None:
        """Log a warning about replaced characters, once per description."""
        if description is not None and description not in self._warned:
            self._warned.add(description)
            message = f"In stream {self.name!r} {description}"
            self._updates.add_log(LogLine(level="warning", message=message))
            self._notify_updates()

    def _append(self, step: str | None, chunk: Any, *, is_text: bool) -> None:
        if chunk == "" and is_text:
            return
        self._is_text = is_text
        self._chunks.append((step, chunk))
        before = self._updates.output_bytes
        size = self._updates.add_output(
            self.name, self.attempt, self._size, step, chunk, is_text=is_text
        )
        self._bytes += size
        self._size += len(chunk) if is_text else 1
        # notify only if a report may now be due, because a model writes thousands of chunks
        if before == 0 or before < LONG_OUTPUT <= before + size:
            self._notify_updates()
