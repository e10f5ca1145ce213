"""A field's text while the JSON around it is still being written."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Protocol

from pydantic_core import from_json

#: Where an object may begin, and what data or a thought begins with.
_OBJECT: Final = re.compile(r'\{(?=\s*["}])')
_DATA: Final = re.compile(r"[\[{`<]")
#: Letters without any data after which an answer counts as plain prose: no preamble is so long.
PROSE_AFTER: Final = 60
#: So much of an answer says whether it is prose.
MOST_LOOKED_AT: Final = 500
#: Up to this length each piece is looked at, then each that makes the text longer by this share.
ALWAYS_READ: Final = 16_000
READ_AGAIN_SHARE: Final = 1 / 400
#: Most characters that are shown as they come: a job's streams have a bound, and an answer that is
#: longer than it may be fails for that, not for what of it could be shown.
MOST_SHOWN: Final = 200_000


class Words(Protocol):
    """Where words go as they come: a stream of a job, or anything else that can be written to."""

    def write(self, text: str, /) -> Any:
        """Take in the next words."""


class GrowingField:
    """Writes what is new of a field each time its JSON has grown.

    What was written cannot be taken back: where the answer turns out to say something else, nothing
    more is written, and the whole answer is what counts. A list of texts is written as lines.

    Args:
        field: A member of the outermost object.
        is_prose: Whether what an answer begins with, without any data, is words for people.
    """

    def __init__(self, field: str, words: Words, *, is_prose: Callable[[str], bool]) -> None:
        self._field = field
        self._is_prose = is_prose
        self._write: Callable[[str], Any] = words.write
        #: The answer as far as it came and was looked at.
        self.text = ""
        self._read_at = 0
        self._object_at: int | None = None
        self.written = ""

    def begin_again(self) -> None:
        """Another answer comes: what it has in common with the one before is not written twice."""
        self.text, self._read_at, self._object_at = "", 0, None

    def add(self, piece: str) -> None:
        """Take in a piece of the answer, unless as much of it is shown as may be."""
        if len(self.written) == MOST_SHOWN:
            return
        self.text += piece
        if len(self.text) >= self._read_at:
            if len(self.text) > ALWAYS_READ:
                self._read_at = int(len(self.text) * (1 + READ_AGAIN_SHARE))
            if (found := self._found()) is not None:
                self._show(found)

    def end(self, said: Any) -> None:
        """Write what is missing of the field's final value."""
        if isinstance(text := _as_text(said), str):
            self._show(text)

    def _found(self) -> str | None:
        if self._object_at is None:
            found = _OBJECT.search(self.text)
            if found is None:
                text = self.text.lstrip()
                is_prose = len(text) > PROSE_AFTER and not _DATA.search(text)
                return text if is_prose and self._is_prose(text[:MOST_LOOKED_AT]) else None
            self._object_at = found.start()
        try:
            value = from_json(self.text[self._object_at :], allow_partial="trailing-strings")
        except ValueError:
            return None  # broken or ended; the whole answer is read leniently
        return _as_text(value.get(self._field)) if isinstance(value, dict) else None

    def _show(self, text: str) -> None:
        text = text[:MOST_SHOWN]
        if len(text) > len(self.written) and text.startswith(self.written):
            new, self.written = text[len(self.written) :], text
            self._write(new)


def _as_text(value: Any) -> str | None:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n".join(value)
    return value if isinstance(value, str) else None
