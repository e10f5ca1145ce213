"""Streams the text of one field from a JSON answer that is not yet complete."""

import re
from collections.abc import Callable
from typing import Any, Protocol

from pydantic_core import from_json

#: Patterns of the possible start of a JSON object, and of first characters of data or reasoning.
_OBJECT = re.compile(r'\{(?=\s*["}])')
_DATA = re.compile(r"[\[{`<]")
#: Maximum length of a preamble before the data of an answer. An answer with a longer preamble is
#: prose.
MIN_PLAIN_TEXT = 60
#: Number of first characters that decide whether an answer is prose.
PLAIN_TEXT_SAMPLE = 500
#: Length of a text in characters, up to which the text is parsed after each chunk. A longer text is
#: parsed when its length has grown by the factor PARSE_GROWTH.
ALWAYS_PARSED = 16_000
PARSE_GROWTH = 1 / 400
#: Maximum characters that are streamed, so that a long answer does not exceed the job's stream
#: limit.
MAX_WRITTEN = 200_000


class TextSink(Protocol):
    """Receives a text in chunks. A stream of a job is a TextSink."""

    def write(self, text: str, /) -> Any:
        """Receive the next chunk of the text."""


class PartialField:
    """Writes the new text of a field each time more of its JSON has arrived.

    If the field's earlier text changes, the sink's method `replace` gets the new text. A sink
    without this method gets nothing more. Each string of a list is written as one line.

    Args:
        field: A field of the outermost object.
        is_plain_text: Function that returns whether an answer that does not begin with JSON is
            prose.
    """

    def __init__(self, field: str, sink: TextSink, *, is_plain_text: Callable[[str], bool]) -> None:
        self._field = field
        self._is_plain_text = is_plain_text
        self._write: Callable[[str], Any] = sink.write
        self._replace: Callable[[str], Any] | None = getattr(sink, "replace", None)
        #: The text of the answer so far.
        self.text = ""
        self._parse_at = 0
        self._object_at: int | None = None
        self.written = ""

    def restart(self, text: str = "") -> None:
        """Discard the text of the old answer, and start a new answer with `text`.

        Text that was already written is not written again.
        """
        self.text, self._parse_at, self._object_at = "", 0, None
        self.add(text)

    def add(self, chunk: str) -> None:
        """Add a chunk of the answer.

        Ignore the text after `MAX_WRITTEN` characters were written.
        """
        if len(self.written) == MAX_WRITTEN:
            return
        self.text += chunk
        if len(self.text) >= self._parse_at:
            if len(self.text) > ALWAYS_PARSED:
                self._parse_at = int(len(self.text) * (1 + PARSE_GROWTH))
            if (text := self._field_text()) is not None:
                self._show(text)

    def end(self, value: Any) -> None:
        """Write the rest of the field's text from `value`, the field's final value."""
        self._show(_as_text(value) or "", is_last=True)

    def _field_text(self) -> str | None:
        if self._object_at is None:
            match = _OBJECT.search(self.text)
            if match is None:
                text = self.text.lstrip()
                is_candidate = len(text) > MIN_PLAIN_TEXT and not _DATA.search(text)
                return (
                    text if is_candidate and self._is_plain_text(text[:PLAIN_TEXT_SAMPLE]) else None
                )
            self._object_at = match.start()
        try:
            value = from_json(self.text[self._object_at :], allow_partial="trailing-strings")
        except ValueError:
            # the JSON is invalid or complete, and `parsing` will parse the complete answer
            return None
        return _as_text(value.get(self._field)) if isinstance(value, dict) else None

    def _show(self, text: str, *, is_last: bool = False) -> None:
        text = text[:MAX_WRITTEN]
        if text.startswith(self.written):
            new, self.written = text[len(self.written) :], text
            if new:
                self._write(new)
        elif self._replace is not None:
            # a text that begins like the written text may still grow, unless it is the last text
            is_beginning = self.written.startswith(text)
            if not is_beginning or (is_last and self.written[len(text) :].strip()):
                self.written = text
                self._replace(text)


def _as_text(value: Any) -> str | None:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return value if isinstance(value, str) else None
