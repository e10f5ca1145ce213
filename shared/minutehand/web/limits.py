"""Streams that a process holds open, of all callers and of each.

How often a caller may enqueue or call, and how fast they open streams where each holds an
invocation, is counted in SQL for every process together; see DECISIONS.md beside this file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from minutehand.web.errors import ApiError, unavailable

#: A client that comes back later may meet another process.
MAX_STREAMS: Final = 5_000
MAX_STREAMS_OF_CALLER: Final = 100
_RETRY_AFTER: Final = 5


class OpenStreams:
    """Counts streams while they are held; `count` is the number of all."""

    def __init__(self) -> None:
        self.count = 0
        self._of: Counter[str] = Counter()

    @contextmanager
    def held(self, caller: str) -> Iterator[None]:
        """Count a stream of a user, or of a guest's session, until it ends."""
        if self.count >= MAX_STREAMS:
            raise unavailable("This server has no capacity for another stream")
        if self._of[caller] >= MAX_STREAMS_OF_CALLER:
            raise ApiError(
                429,
                "rate_limited",
                f"Too many streams; try again in {_RETRY_AFTER} s",
                detail={"limit": "streams", "retry_after_seconds": _RETRY_AFTER},
                headers={"Retry-After": str(_RETRY_AFTER)},
            )
        self.count += 1
        self._of[caller] += 1
        try:
            yield
        finally:
            self.count -= 1
            self._of[caller] -= 1
            if not self._of[caller]:
                del self._of[caller]
