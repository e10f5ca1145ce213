"""Incremental parser of server-sent events.

References:
    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import re
from collections.abc import Iterator

_ENDS = re.compile(rb"\r\n|\n|\r(?!$)")


class SseParser:
    """Parses chunks of bytes into server-sent events, each with its type and data."""

    def __init__(self) -> None:
        #: Chunks of the line that has not ended yet.
        self._rest: list[bytes] = []
        #: The carriage return at the end of the last chunk, which a line feed may follow.
        self._return = b""
        self._type = ""
        self._data: list[bytes] = []

    def add(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """Yield, in order, the events that `chunk` completes."""
        # search only the new chunk, because a line may have thousands of chunks
        *lines, rest = _ENDS.split(self._return + chunk)
        if lines:
            lines[0], self._rest = b"".join([*self._rest, lines[0]]), []
        self._return = b"\r" if rest.endswith(b"\r") else b""
        self._rest.append(rest.removesuffix(b"\r"))
        for line in lines:
            yield from self._read(line)

    def end(self) -> Iterator[tuple[str, str]]:
        """Yield the last event of the input, after which some servers send no empty line."""
        for line in (b"".join(self._rest), b""):
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
