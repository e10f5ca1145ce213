"""The clock that each part of the program gets as an argument if it reads the time.

This clock measures only the timeouts of a worker. Leases expire by the database's clock.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """A clock. It has wall time for people, and monotonic time for durations."""

    def now(self) -> datetime:
        """Return the current time in UTC, with its time zone."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start, which never decrease."""
        ...


class SystemClock:
    """The clock of this machine."""

    #: Function that returns seconds since an arbitrary start. It is a static method, because each
    #: job calls it several times and a normal method would be slower.
    monotonic = staticmethod(time.monotonic)

    def now(self) -> datetime:
        """Return the current time in UTC, with its time zone."""
        return datetime.now(UTC)


class FrozenClock:
    """A clock for tests, whose time changes only by `advance`."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)
        self._elapsed_seconds = 0.0

    def now(self) -> datetime:
        """Return the current time of this clock."""
        return self._now

    def monotonic(self) -> float:
        """Return the total number of seconds by which the clock was advanced."""
        return self._elapsed_seconds

    def advance(self, *, seconds: float) -> None:
        """Advance the wall time and the monotonic time."""
        if seconds < 0:
            raise ValueError(f"seconds must be at least 0, not {seconds}")
        self._now += timedelta(seconds=seconds)
        self._elapsed_seconds += seconds
