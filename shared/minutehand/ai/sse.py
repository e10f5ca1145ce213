"""The data of server-sent events, out of bytes as they come.

References:
    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_ENDS: Final = re.compile(rb"\r\n|\n|\r(?!$)")


class ServerSent:
    """Reads events: `received` gives those that a piece ends, as their type and data."""

    def __init__(self) -> None:
        self._rest = b""
        self._type = ""
        self._data: list[bytes] = []

    def received(self, piece: bytes) -> Iterator[tuple[str, str]]:
        """The events that this piece completes, in order."""
        *lines, self._rest = _ENDS.split(self._rest + piece)
        for line in lines:
            yield from self._read(line)

    def ended(self) -> Iterator[tuple[str, str]]:
        """The event that the end of the stream completes: not every server ends its last one."""
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
            said, self._data = b"\n".join(self._data), []
            kind, self._type = self._type, ""
            if said:
                yield kind, said.decode(errors="replace")
