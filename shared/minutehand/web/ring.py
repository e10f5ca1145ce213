"""The latest events of one subject, kept once for all its readers.

Anyone who may read the subject may read its ring: each reader was let in by the database first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

#: A ring holds so much at most; a reader further behind reads the log.
MAX_FRAMES: Final = 1000
MAX_BYTES: Final = 1024 * 1024


class Frame:
    """An event by its number, as it came over the wire or out of the log."""

    __slots__ = ("content", "parsed", "seq", "size")

    def __init__(
        self, seq: int, content: Mapping[str, Any] | None = None, *, size: int, parsed: Any = None
    ) -> None:
        self.seq = seq
        self.content = content
        self.size = size
        #: The content as the first reader parsed it, for the others.
        self.parsed = parsed


class Ring:
    """Events that follow on each other without a gap; the oldest make room."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._bytes = 0

    def offer(self, frame: Frame) -> bool:
        """Keep `frame` if it is newer than all; after a gap the ring begins again with it."""
        if self._frames and frame.seq <= self._frames[-1].seq:
            return False
        if self._frames and frame.seq != self._frames[-1].seq + 1:
            self._frames.clear()
            self._bytes = 0
        self._frames.append(frame)
        self._bytes += frame.size
        while len(self._frames) > 1 and (len(self._frames) > MAX_FRAMES or self._bytes > MAX_BYTES):
            self._bytes -= self._frames.popleft().size
        return True

    def after(self, seq: int) -> list[Frame] | None:
        """Events after `seq`; None when they do not begin right after it."""
        if not self._frames or seq >= self._frames[-1].seq:
            return []
        behind = seq + 1 - self._frames[0].seq
        return None if behind < 0 else list(islice(self._frames, behind, None))
