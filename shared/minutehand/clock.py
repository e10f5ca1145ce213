"""The clock that is passed to every part that reads the time.

This clock measures only the worker's own timeouts. Leases expire by the database's clock.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """A clock with wall time for people and monotonic time for durations."""

    def now(self) -> datetime:
        """Return the present time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start, which never decrease."""
        ...


class SystemClock:
    """The machine's clock."""

    #: Function that returns seconds since an arbitrary start. The function is static, so that the
    #: several calls per job are cheap.
    monotonic = staticmethod(time.monotonic)

    def now(self) -> datetime:
        """Return the present time, aware, in UTC."""
        return datetime.now(UTC)


class FrozenClock:
    """A clock for tests, which moves only when it is advanced."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)
        self._elapsed_seconds = 0.0

    def now(self) -> datetime:
        """Return the clock's present time."""
        return self._now

    def monotonic(self) -> float:
        """Return the total of seconds by which the clock was advanced."""
        return self._elapsed_seconds

    def advance(self, *, seconds: float) -> None:
        """Move both times forward."""
        if seconds < 0:
            raise ValueError(f"seconds must be at least 0, not {seconds}")
        self._now += timedelta(seconds=seconds)
        self._elapsed_seconds += seconds
