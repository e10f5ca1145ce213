"""The model's text while it is written, as progress: readable, its end only, a few times a second.

Costs no round trip of its own; the reporter sends the latest with everything else.
"""

from __future__ import annotations

import json
import re
from typing import Final

from minutehand.clock import Clock
from minutehand.worker.context import JobContext

#: How much of the text's end travels: more than any model writes between two reports.
TAIL: Final = 600
EVERY_SECONDS: Final = 0.2
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?$)|[{}\[\]:,]', re.DOTALL)
_WHOLE: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class LiveText:
    """Shows a stage's text as it grows.

    Args:
        begin: The percentage to show at the beginning, `end` at the expected length.
    """

    def __init__(
        self,
        ctx: JobContext,
        clock: Clock,
        stage: str,
        *,
        begin: float,
        end: float,
        expected_characters: int,
    ) -> None:
        self._ctx = ctx
        self._clock = clock
        self._stage = stage
        self._begin, self._end = begin, end
        self._expected = max(1, expected_characters)
        self._pieces: list[str] = []
        self._size = 0
        self._shown_at = float("-inf")

    @property
    def text(self) -> str:
        """All that was written."""
        return "".join(self._pieces)

    def add(self, piece: str) -> None:
        """Take a piece; shows it unless something was shown just now."""
        self._pieces.append(piece)
        self._size += len(piece)
        now = self._clock.monotonic()
        if now - self._shown_at >= EVERY_SECONDS:
            self._shown_at = now
            self.show()

    def show(self) -> None:
        """Show the text's end."""
        share = min(1.0, self._size / self._expected)
        words = readable(self.text)
        tail = words if len(words) <= TAIL else "…" + words[-TAIL:]
        self._ctx.progress(
            self._begin + share * (self._end - self._begin), self._stage, tail or None
        )

    def restart(self) -> None:
        """Forget what was written: the model is asked again."""
        self._pieces.clear()
        self._size = 0


def readable(text: str) -> str:
    """The texts within JSON that may not be whole yet, a line each; other text as it is."""
    if not text.lstrip().startswith(("{", "[", "```")):
        return text
    lines: list[str] = []
    opened: list[str] = []
    before = ""
    for token in _TOKEN.findall(text):
        if token[0] == '"':
            # after { or a comma within an object comes a name
            if before == ":" or not opened or opened[-1] == "[":
                lines.append(_unescaped(token))
        elif token in "{[":
            opened.append(token)
        elif token in "}]" and opened:
            opened.pop()
        before = token
    return "\n".join(line for line in lines if line)


def _unescaped(token: str) -> str:
    """A JSON string's text, its end open or not; an escape that is not whole yet is left off."""
    inside = token[1:]
    if _WHOLE.fullmatch(token):
        inside = inside[:-1]
    for text in (inside, inside.rpartition("\\")[0]):
        try:
            found: str = json.loads(f'"{text}"', strict=False)
        except ValueError:
            continue
        return found
    return inside
