"""Incremental parser of server-sent events.

References:
    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_ENDS: Final = re.compile(rb"\r\n|\n|\r(?!$)")


class SseParser:
    """Parses chunks of bytes into server-sent events, each with its type and data."""

    def __init__(self) -> None:
        self._rest = b""
        self._type = ""
        self._data: list[bytes] = []

    def add(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """Yield, in order, the events that `chunk` completes."""
        *lines, self._rest = _ENDS.split(self._rest + chunk)
        for line in lines:
            yield from self._read(line)

    def end(self) -> Iterator[tuple[str, str]]:
        """Yield the last event of the input, after which some servers send no empty line."""
        for line in (self._rest.rstrip(b"\r"), b""):
            yield from self._read(line)

    def _read(self, line: bytes) -> Iterator[tuple[str, str]]:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._type = value.decode(errors="replace")
        elif not line:
            data, self._data = b"\n".join(self._data), []
            event_type, self._type = self._type, ""
            if data:
                yield event_type, data.decode(errors="replace")
