"""The text of a reply while it is written, as progress: its end, and where that end begins.

A follower joins the pieces, see `text:<n>`; one that comes late sees the end, and soon the whole.
"""

from __future__ import annotations

from typing import Final

from minutehand.clock import Clock
from minutehand.worker.context import JobContext
from minutehand.worker.plain import clean_text

#: How much of the end travels: several times what any model writes between two reports, so that
#: pieces overlap though reports are coalesced.
WINDOW: Final = 1_500
EVERY_SECONDS: Final = 0.2


class LiveText:
    """Shows a text as it grows.

    The progress' stage is `text:<n>`, its message the text from the n-th character (code point) on.

    Args:
        begin: The percentage to show at the beginning, `end` at the expected length.
    """

    def __init__(
        self, ctx: JobContext, clock: Clock, *, begin: float, end: float, expected_characters: int
    ) -> None:
        self._ctx = ctx
        self._clock = clock
        self._begin, self._end = begin, end
        self._expected = max(1, expected_characters)
        self._text = ""
        self._shown_at = float("-inf")

    def add(self, piece: str) -> None:
        """Take a piece; shows it unless something was shown just now."""
        self._text += clean_text(piece)
        now = self._clock.monotonic()
        if now - self._shown_at >= EVERY_SECONDS:
            self._shown_at = now
            self.show()

    def show(self) -> None:
        """Show the text's end."""
        start = max(0, len(self._text) - WINDOW)
        share = min(1.0, len(self._text) / self._expected)
        percentage = self._begin + share * (self._end - self._begin)
        self._ctx.progress(percentage, f"text:{start}", self._text[start:] or None)
