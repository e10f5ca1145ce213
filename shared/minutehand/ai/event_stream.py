"""Server-sent events out of bytes, however they are split on their way.

What an event means is left to anyone who reads the stream.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: its data, lines joined by newlines, and its type."""

    data: str
    type: str = "message"


class EventStreamTooLong(ValueError):
    """A line or event is longer than anything sensible."""


class EventStreamParser:
    """Feed it bytes, get events; an event not ended by an empty line is never told.

    References:
        https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """

    MOST_CHARACTERS = 2_000_000

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line: list[str] = []
        self._data: list[str] = []
        self._type = ""
        self._size = 0
        self._after_return = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Events that `chunk` completes.

        Raises:
            EventStreamTooLong: An event does not end.
        """
        text = self._decoder.decode(chunk)
        if self._at_start and text:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        if self._after_return and text:
            self._after_return = False
            text = text.removeprefix("\n")  # the second half of a line's end that was split
        if text.endswith("\r"):
            self._after_return = True
        pieces = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        events: list[ServerEvent] = []
        for piece in pieces[:-1]:
            self._grow(piece)
            line, self._line = "".join(self._line), []
            event = self._take(line)
            if event is not None:
                events.append(event)
        self._grow(pieces[-1])
        return events

    def _grow(self, piece: str) -> None:
        if piece:
            self._size += len(piece)
            self._line.append(piece)
        if self._size > self.MOST_CHARACTERS:
            raise EventStreamTooLong("an event of the stream is too long")

    def _take(self, line: str) -> ServerEvent | None:
        if line == "":
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        return None

    def _dispatch(self) -> ServerEvent | None:
        data, kind = self._data, self._type
        self._data, self._type, self._size = [], "", 0
        return ServerEvent("\n".join(data), kind or "message") if data else None
